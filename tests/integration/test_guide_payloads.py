"""The payloads of MicroMDM's guide, replayed over HTTP: they give exactly the events that it shows."""

import base64
import json
import plistlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.whole import GUIDE_TOPIC, Device, Whole, given
from tests.support.harness.system import API_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAMPLES = Path(__file__).parents[1] / "contract" / "samples"
UDID = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"
IDLE_UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"
TOKEN = base64.b64decode("c3FyHWhjG3tmSA55LFFIQg==")
MAGIC = "728F8670-4934-4A30-BADF-7B43C261FC14"

# As the guide writes them: the one property list and the one JSON of its second half.
IDLE = f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
\t<key>Status</key>
\t<string>Idle</string>
\t<key>UDID</key>
\t<string>{IDLE_UDID}</string>
</dict>
</plist>
""".encode()
INSTALL_PROFILE = b"""{
    "udid": "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD",
    "request_type": "InstallProfile",
    "payload": "PD94bWwgdmVyc2lvbj0iMS4...base64_encoded_mobileconfig",
}"""
CREDENTIALS = {
    "Authorization": "Basic " + base64.b64encode(f"micromdm:{API_KEY}".encode()).decode()
}


def ordered(value: Any) -> Any:
    """Objects as lists of pairs, so that comparing sees the order of keys."""
    if isinstance(value, dict):
        return [(name, ordered(each)) for name, each in value.items()]
    return value


def without_id_and_time(event: dict[str, Any]) -> Any:
    return ordered(event | {"event_id": "", "created_at": ""})


@pytest.fixture(scope="module")
def device(whole: Whole) -> Device:
    return whole.device(UDID=UDID)


async def test_the_guides_payloads_give_the_guides_events(whole: Whole, device: Device) -> None:
    names = ("authenticate", "token_update", "connect", "check_out")
    shown = [json.loads((SAMPLES / f"guide_{name}.json").read_text()) for name in names]

    for name in names:
        path = "/mdm/connect" if name == "connect" else "/mdm/checkin"
        answer = await device.send(path, (SAMPLES / f"guide_{name}.plist").read_bytes())
        assert (answer.status_code, answer.content) == (200, b"")

    arrivals = await whole.arrivals_of(UDID, len(names))
    assert [without_id_and_time(a.event) for a in arrivals] == list(map(without_id_and_time, shown))
    for arrival in arrivals:
        assert arrival.headers["content-type"] == "application/json; charset=utf-8"
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", arrival.event_id)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", arrival.event["created_at"])
    times = [arrival.event["created_at"] for arrival in arrivals]
    assert times == sorted(set(times))
    assert len({arrival.event_id for arrival in arrivals}) == len(names)


async def test_the_guides_push_wakes_the_device_with_its_magic(
    whole: Whole, device: Device
) -> None:
    for name in ("authenticate", "token_update"):
        await device.send("/mdm/checkin", (SAMPLES / f"guide_{name}.plist").read_bytes())

    answer = await whole.api("GET", f"/push/{UDID}")

    assert answer.json().keys() == {"status", "push_notification_id"}
    assert answer.json()["status"] == "success"
    assert await whole.pushed(TOKEN) == {"mdm": MAGIC}


async def test_the_guides_idle_payload_is_answered_with_the_guides_command(whole: Whole) -> None:
    device = whole.device(UDID=IDLE_UDID)
    assert (await device.authenticate(Topic=GUIDE_TOPIC)).status_code == 200
    assert (await device.token_update(Topic=GUIDE_TOPIC)).status_code == 200
    profile = plistlib.dumps({"PayloadType": "Configuration", "PayloadContent": []})
    encoded = base64.b64encode(profile)
    corrected = re.sub(rb'"PD94[^"]*",', b'"' + encoded + b'"', INSTALL_PROFILE)

    as_written = await whole.api("POST", "/v1/commands", INSTALL_PROFILE, headers=CREDENTIALS)
    queued = await whole.api("POST", "/v1/commands", corrected, headers=CREDENTIALS)
    answer = await device.send("/mdm/connect", IDLE)

    assert as_written.status_code == 400
    assert "JSON" in as_written.json()["error"]
    assert queued.status_code == 201, queued.text
    command_uuid = queued.json()["payload"]["command_uuid"]
    assert queued.json() == {
        "payload": {
            "command_uuid": command_uuid,
            "command": {"request_type": "InstallProfile", "payload": encoded.decode()},
        }
    }
    assert given(answer) == command_uuid
    command = plistlib.loads(answer.content)["Command"]
    assert command == {"RequestType": "InstallProfile", "Payload": profile}
    event = (await whole.events_of(IDLE_UDID, 3))[-1]
    assert without_id_and_time(event) == without_id_and_time(
        {
            "topic": "mdm.Connect",
            "event_id": "",
            "created_at": "",
            "acknowledge_event": {
                "udid": IDLE_UDID,
                "status": "Idle",
                "url_params": None,
                "raw_payload": base64.b64encode(IDLE).decode(),
            },
        }
    )


async def test_the_guides_placeholder_for_a_profile_is_refused_by_name(whole: Whole) -> None:
    body = INSTALL_PROFILE.replace(b'",\n}', b'"\n}')

    answer = await whole.api("POST", "/v1/commands", body)

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("payload: ")
