"""Mutated messages: always a dictionary or BadRequest, never anything else, and never slow."""

import contextlib
import plistlib
import time
from collections.abc import Callable
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.apple.messages.checkin import parse_checkin
from shared.apple.messages.connect import parse_connect
from shared.apple.plist import read as plist
from shared.domain.errors import BadRequest

MESSAGE = {
    "MessageType": "TokenUpdate",
    "UDID": "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD",
    "Topic": "com.apple.mgmt.External.3a7c95f2",
    "Token": b"t" * 32,
    "PushMagic": "728F8670-4934-4A30-BADF-7B43C261FC14",
    "AwaitingConfiguration": False,
    "Nested": {"List": [1, 2.5, True, "ü", {"Date": datetime(2026, 1, 2)}]},
}
SEEDS = [plistlib.dumps(MESSAGE, fmt=form) for form in plistlib.PlistFormat]
GENEROUS = 2.0
"""Seconds of CPU for one small body: a bound against endless work, not a measurement."""


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(body)))
        piece = draw(st.binary(max_size=8) | st.just(bytes(body[: draw(st.integers(0, 80))])))
        match draw(st.sampled_from(["insert", "delete", "replace"])):
            case "insert":
                body[at:at] = piece
            case "delete":
                del body[at : at + len(piece)]
            case _:
                body[at : at + len(piece)] = piece
    return bytes(body)


@pytest.mark.parametrize("read", [plist.parse, parse_checkin, parse_connect])
@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=mutated() | st.binary(max_size=200))
def test_a_mutated_message_is_read_or_refused(read: Callable[[bytes], object], body: bytes) -> None:
    started = time.thread_time()
    with contextlib.suppress(BadRequest):
        read(body)
    assert time.thread_time() - started < GENEROUS
