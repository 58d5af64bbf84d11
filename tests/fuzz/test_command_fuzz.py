"""Whatever clients send: a command that a device can read, or BadRequest, and soon."""

import json
import plistlib
import time
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shared.apple.request.advice import Recipient
from shared.apple.request.plist import PreparedCommand, prepare_raw
from shared.apple.request.read_json import parse_json
from shared.domain.errors import BadRequest
from shared.web.answers import JsonAnswer
from shared.web.problems import problem
from tests.support.command_faults import full
from tests.support.command_requests import CATALOGUE, FORMS, with_types

GENEROUS = 2.0
"""Seconds of CPU for one small request: a bound against endless work, not a measurement."""

bounded = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS = [full(form) for form in FORMS]
NAMES = sorted({name for seed in SEEDS for name in seed} | {"Command", "udids", "ttl", "priority"})
RECIPIENTS = [
    Recipient("iPad8,1", "9.0", is_device_channel=False, is_user_enrollment=False),
    Recipient("Mac14,2", "14", is_device_channel=True, is_user_enrollment=True),
    Recipient(None, "\u0661", is_device_channel=False, is_user_enrollment=True),
]

odd_text = st.text(max_size=6) | st.sampled_from(["", "\x00", "\ud800", "eA==", "true", *NAMES])
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A request in which a few values, at any depth, are something else."""
    request: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(SEEDS))))
    for _ in range(draw(st.integers(0, 4))):
        inside: Any = request
        while True:
            entries = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not entries:
                break
            entry = draw(st.sampled_from(entries))
            if isinstance(inside[entry], dict | list) and draw(st.booleans()):
                inside = inside[entry]
                continue
            inside[entry] = draw(odd)
            break
    return {**request, **draw(st.dictionaries(st.sampled_from(NAMES), odd, max_size=2))}


def answer_body(refusal: BadRequest) -> bytes:
    return bytes(problem(400, str(refusal), faults=refusal.faults).body)


def told(make: Any) -> PreparedCommand | None:
    """What becomes of a request; None: it is refused. Either can be answered in JSON."""
    started = time.thread_time()
    prepared: PreparedCommand | None = None
    try:
        prepared = make()
        assert prepared is not None
        advice = [CATALOGUE.advise(prepared, recipient) for recipient in RECIPIENTS]
        assert JsonAnswer([prepared.response, *(each.warnings for each in advice)]).body
    except BadRequest as refusal:
        assert len(answer_body(refusal)) < 40_000
    assert time.thread_time() - started < GENEROUS
    return prepared


@bounded
@given(request=changed() | st.dictionaries(odd_text, odd, max_size=5))
@example(request={"udid": "a", "Command": {"RequestType": "\ud800"}})
@example(request={"udids": [[]], "request_type": "DeviceLock", "ttl": float("nan")})
def test_an_odd_request_is_a_command_or_refused(request: dict[str, Any]) -> None:
    for body in (request, {"udid": "a", "Command": request}):
        prepared = told(lambda body=body: CATALOGUE.prepare(body, lambda: "U"))
        if prepared is not None:
            command = plistlib.loads(prepared.command.plist)["Command"]
            wanted = {"RequestType": prepared.command.request_type, **prepared.keys}
            assert with_types(command) == with_types(wanted)


@bounded
@given(data=st.data())
def test_odd_bytes_are_a_command_or_refused(data: st.DataObject) -> None:
    seed = json.dumps(data.draw(changed()), ensure_ascii=data.draw(st.booleans()))
    body = bytearray(seed.encode(errors="surrogatepass"))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    told(lambda: CATALOGUE.prepare(parse_json(bytes(body)), lambda: "U"))


@bounded
@given(
    command=st.dictionaries(st.sampled_from([*NAMES, "RequestType"]), odd, max_size=4),
    request_type=st.sampled_from(tuple(CATALOGUE.forms)) | odd,
    query=st.dictionaries(
        st.sampled_from(["priority", "TTL", "expires_at", "supersede", "x"]),
        odd_text | st.just("true"),
    ),
)
def test_an_odd_property_list_is_a_command_or_refused(
    command: dict[str, Any], request_type: Any, query: Mapping[str, str]
) -> None:
    document = {"CommandUUID": "U", "Command": {**command, "RequestType": request_type}}
    for form in plistlib.PlistFormat:
        try:
            plist = plistlib.dumps(document, fmt=form, skipkeys=True)
        except (TypeError, OverflowError, ValueError):  # JSON holds more than a property list
            continue
        prepared = told(lambda plist=plist: prepare_raw("a", plist, query))
        assert prepared is None or prepared.command.plist == plist
