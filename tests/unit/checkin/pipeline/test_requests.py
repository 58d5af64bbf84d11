"""From the bytes of a device's request to its batch."""

import base64
from typing import Any

import pytest

from services.checkin.answers import EMPTY, Answer
from services.checkin.exchange import DeviceExchange
from services.checkin.pipeline.device_auth import SMALL_BODY, DeviceAuthentication
from services.checkin.pipeline.requests import DeviceRequests
from shared.apple.messages.connect import parse_connect
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.heavy_work import HeavyWork
from shared.security.identity import DeviceIdentities
from tests.support.fakes.clock import FakeClock
from tests.support.harness.identities import FleetAuthority, envelope, signer_info

OURS = FleetAuthority("Our CA")
BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    b"<key>Status</key><string>Idle</string><key>UDID</key><string>A</string></dict></plist>"
)

LARGE = BODY.replace(b"<dict>", b"<dict>" + b" " * SMALL_BODY)


class Scene:
    def __init__(self) -> None:
        self.served: list[DeviceExchange] = []
        work = HeavyWork("messages")
        devices = DeviceAuthentication(DeviceIdentities([OURS.certificate], FakeClock()), work)
        self.read: list[DeviceExchange] = []
        self.requests = DeviceRequests(
            BatchExecutor(self._serve), devices, self._read_answer, work, len(LARGE)
        )

    async def _read_answer(self, exchange: DeviceExchange) -> None:
        assert exchange not in self.served
        self.read.append(exchange)

    async def _serve(self, exchanges: list[DeviceExchange]) -> list[Answer | Exception]:
        self.served += exchanges
        return [EMPTY] * len(exchanges)


async def is_connected() -> bool:
    return True


async def test_a_signature_is_verified_once_though_its_certificate_needs_a_thread() -> None:
    device, scene = OURS.issue(), Scene()
    cms = envelope([signer_info(device, BODY, "sha256")], [device, OURS.issue()])
    header = (b"mdm-signature", base64.b64encode(cms))
    scope: dict[str, Any] = {"headers": [header], "query_string": b""}
    assert scene.requests.begin(parse_connect, scope, BODY, lambda: False) is None

    scope["headers"] = []  # nothing is left to verify
    answer = await scene.requests.serve(parse_connect, scope, BODY, is_connected)

    assert answer == EMPTY
    assert [each.certificate.fingerprint for each in scene.served] == [device.fingerprint]


@pytest.mark.parametrize("body", [BODY, LARGE], ids=["small", "large"])
async def test_a_large_answer_is_read_before_its_request_goes_into_a_batch(body: bytes) -> None:
    device, scene = OURS.issue(), Scene()
    cms = envelope([signer_info(device, body, "sha256")], [device])
    header = (b"mdm-signature", base64.b64encode(cms))
    scope: dict[str, Any] = {"headers": [header], "query_string": b""}

    await scene.requests.serve(parse_connect, scope, body, is_connected)

    assert scene.read == (scene.served if body is LARGE else [])
    assert len(scene.served) == 1
