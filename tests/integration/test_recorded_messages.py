"""A CheckOut that somebody recorded, sent again over HTTP after the device has enrolled anew."""

import base64
import plistlib
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from tests.integration.whole import TOPIC, Device, Whole
from tests.support.harness.identities import envelope, raw_signature, signed_attributes, signer_info

pytestmark = pytest.mark.asyncio(loop_scope="module")


def signed_at(device: Device, body: bytes, at: datetime) -> str:
    info = signer_info(device.identity, body, "sha256")
    attributes = signed_attributes(sha256(body).digest(), "data", at)
    info["signed_attrs"] = attributes
    info["signature"] = raw_signature(device.identity.key, attributes.dump(), "sha256")
    return base64.b64encode(envelope([info], [device.identity])).decode()


async def test_a_recorded_checkout_does_not_end_the_present_enrollment(whole: Whole) -> None:
    device = await whole.enrolled()
    now = datetime.now(UTC).replace(microsecond=0)
    leaves = plistlib.dumps({"MessageType": "CheckOut", "Topic": TOPIC, **device.ids})
    comes = plistlib.dumps(
        {
            "MessageType": "TokenUpdate",
            "Topic": TOPIC,
            "Token": device.token,
            "PushMagic": "m",
            **device.ids,
        }
    )
    recorded = signed_at(device, leaves, now - timedelta(days=2))
    new = await device.send("/mdm/checkin", comes, signature=signed_at(device, comes, now))

    old = await device.send("/mdm/checkin", leaves, signature=recorded)

    assert (new.status_code, old.status_code, old.content) == (200, 400, b"")
    answer = await whole.api("GET", f"/v1/devices/{device.id}")
    assert answer.json()["enrollment_status"] is True
    [refusal] = await device.refusals()
    assert "over a day before a message that was taken" in refusal["detail"]
    fresh = await device.send("/mdm/checkin", leaves, signature=signed_at(device, leaves, now))
    assert fresh.status_code == 200
