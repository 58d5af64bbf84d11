"""From the bytes of a device's request to its batch."""

import base64
from typing import Any

from services.checkin.answers import EMPTY, Answer
from services.checkin.exchange import DeviceExchange
from services.checkin.pipeline.device_auth import DeviceAuthentication
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


class Scene:
    def __init__(self) -> None:
        self.served: list[DeviceExchange] = []
        work = HeavyWork("messages")
        devices = DeviceAuthentication(DeviceIdentities([OURS.certificate], FakeClock()), work)
        self.requests = DeviceRequests(BatchExecutor(self._serve), devices, work, len(BODY))

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
