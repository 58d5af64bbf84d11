"""Devices that say of themselves what others are called by, against the whole server (HTTP and store)."""

import httpx
import pytest

from tests.integration.whole import Device, Whole, given, new_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERIAL = "C02W00D3HTD"


async def post(whole: Whole, name: str) -> httpx.Response:
    body = {"udid": name, "request_type": "DeviceLock", "pin": "222222"}
    return await whole.api("POST", "/v1/commands", body)


async def everything(whole: Whole, name: str) -> list[httpx.Response]:
    """Each route that takes a name."""
    raw = b'<plist version="1.0"><dict><key>CommandUUID</key><string>raw</string><key>Command</key>'
    raw += b"<dict><key>RequestType</key><string>ProfileList</string></dict></dict></plist>"
    return [
        await post(whole, name),
        await whole.api("POST", f"/v1/commands/{name}", raw),
        await whole.api("GET", f"/v1/commands/{name}"),
        await whole.api("DELETE", f"/v1/commands/{name}"),
        await whole.api("GET", f"/v1/commands/{name}/{new_id()}"),
        await whole.api("DELETE", f"/v1/commands/{name}/{new_id()}"),
        await whole.api("GET", f"/v1/commands?udid={name}"),
        await whole.api("POST", f"/v1/devices/{name}/block"),
        await whole.api("POST", f"/v1/devices/{name}/unblock"),
        await whole.api("GET", f"/v1/devices/{name}"),
        await whole.api("GET", f"/v1/devices/{name}/unlock_token"),
        await whole.api("GET", f"/v1/devices/{name}/bootstrap_token"),
        await whole.api("GET", f"/v1/devices/{name}/identity"),
        await whole.api("POST", f"/v1/devices/{name}/identity", {"certificate_sha256": "0" * 64}),
        await whole.api("DELETE", f"/v1/devices/{name}/identity"),
        await whole.api("GET", f"/push/{name}"),
        await whole.api("POST", f"/v1/push/{name}"),
    ]


async def enroll(device: Device, serial: str) -> Device:
    for answer in (await device.authenticate(SerialNumber=serial), await device.token_update()):
        assert answer.status_code == 200
    return device


async def test_a_stranger_whose_udid_is_anothers_serial_number_gets_nothing(whole: Whole) -> None:
    serial = f"{SERIAL}1"
    victim = await enroll(whole.device(), serial)
    assert (await post(whole, serial)).status_code == 201
    evil = await enroll(whole.device(UDID=serial), "EVIL")

    answers = await everything(whole, serial)

    assert {str(a.request.url.path): a.status_code for a in answers if a.status_code != 409} == {}
    assert [a.json()["error"] for a in answers if victim.id not in a.json()["error"]] == []
    assert given(await evil.connect()) is None
    assert (await whole.api("GET", f"/v1/devices/{victim.id}")).json()["blocked"] is False
    assert (await post(whole, victim.id)).status_code == 201


async def test_a_stranger_whose_serial_number_is_anothers_user_id_gets_nothing(
    whole: Whole,
) -> None:
    victim = await enroll(whole.device(), f"{SERIAL}2")
    user_id = new_id()
    assert (await victim.user(UserID=user_id).token_update()).status_code == 200
    evil = await enroll(whole.device(), user_id)

    answer = await whole.api(
        "POST", "/v1/commands", {"udid": user_id, "request_type": "ProfileList"}
    )

    assert answer.status_code == 201
    assert given(await evil.connect()) is None
    assert (
        given(await victim.user(UserID=user_id).connect())
        == answer.json()["payload"]["command_uuid"]
    )


async def test_commands_for_a_udid_wait_for_nobody_before_it_enrolls_and_after_its_removal(
    whole: Whole,
) -> None:
    victim = whole.device()
    evil = await enroll(whole.device(), victim.id)

    before = await post(whole, victim.id)
    await enroll(victim, f"{SERIAL}3")
    during = await post(whole, victim.id)
    await whole.api("DELETE", "/v1/devices", {"udids": [victim.id]})
    after = await everything(whole, victim.id)

    assert (before.status_code, during.status_code) == (404, 201)
    missing = {
        str(a.request.url.path).replace(victim.id, "ID") for a in after if a.status_code == 404
    }
    assert missing >= {"/v1/commands", "/v1/devices/ID", "/v1/devices/ID/block", "/v1/push/ID"}
    assert [a.text for a in after if "names several" in a.text or evil.id in a.text] == []
    assert given(await evil.connect()) is None
    assert await evil.open_commands() == []


async def test_a_serial_number_that_was_given_up_names_nobody(whole: Whole) -> None:
    evil = await enroll(whole.device(), f"{SERIAL}4")
    await enroll(evil, f"{SERIAL}5")

    assert (await post(whole, f"{SERIAL}4")).status_code == 404
    assert (await post(whole, f"{SERIAL}5")).status_code == 201
