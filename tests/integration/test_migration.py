"""A fleet of another server moves here, over HTTP: imported as export tools do it, then its devices speak.

The fleet's identities are of a CA of their own, which is in MDM_DEVICE_CA; they never authenticate here.
"""

import asyncio
import plistlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.whole import TOPIC, Device, Whole, given, new_id, whole_server
from tests.support.harness.identities import FleetAuthority

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNLOCK, BOOTSTRAP = b"unlock-token", b"bootstrap-token"


def message(device: Device, message_type: str, **keys: object) -> bytes:
    return plistlib.dumps({"MessageType": message_type, "Topic": TOPIC, **device.ids, **keys})


def authenticate(device: Device, **keys: object) -> bytes:
    return message(device, "Authenticate", SerialNumber=f"S{device.id[:10]}", **keys)


def token_update(device: Device, **keys: object) -> bytes:
    keys = {"Token": device.token, "PushMagic": f"magic-{device.id}"} | keys
    return message(device, "TokenUpdate", **keys)


async def put(whole: Whole, body: bytes, status: int = 200, **more: Any) -> httpx.Response:
    """As the export tools send it: no Content-Type."""
    answer = await whole.api("PUT", "/migration", body, headers={}, **more)
    assert answer.status_code == status, answer.text
    return answer


async def migrated(whole: Whole, **ids: str) -> Device:
    """A device of the other server, imported."""
    device = whole.device(**ids)
    await put(whole, authenticate(device, OSVersion="15.1"))
    await put(whole, token_update(device, UnlockToken=UNLOCK))
    return device


async def shown(device: Device) -> dict[str, Any]:
    answer = await device.whole.api("GET", f"/v1/devices/{device.id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def audited(whole: Whole, action: str, target: str) -> list[dict[str, Any]]:
    filters = {"action": action, "target": target}
    answer = await whole.api("GET", "/v1/audit", params=filters)
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


@pytest.mark.parametrize("kind", ["UDID", "EnrollmentID"])
async def test_a_migrated_device_is_pushed_bound_and_served(whole: Whole, kind: str) -> None:
    device = await migrated(whole, **{kind: new_id()})

    command = await device.queue()
    push = await whole.pushed(device.token)
    was_given = given(await device.connect())
    await device.connect("Acknowledged", CommandUUID=command)

    assert push["mdm"] == f"magic-{device.id}"
    assert was_given == command
    assert await device.open_commands() == []
    found = await shown(device)
    assert found["certificate_sha256"] == device.identity.fingerprint
    assert found["migrating_until"] is None
    [entry] = await audited(whole, "device.first_certificate", device.id)
    assert device.identity.fingerprint in entry["detail"]


@pytest.mark.parametrize(
    ("connect", "checkin"), [("/mdm", "/mdm"), ("/mdm", "/checkin")], ids=["one URL", "two"]
)
async def test_a_device_of_nanomdm_is_served_at_the_urls_in_its_profile(
    whole: Whole, connect: str, checkin: str
) -> None:
    device = await migrated(whole)
    command = await device.queue()

    idle = await device.send(connect, plistlib.dumps({"Status": "Idle", **device.ids}))
    updated = await device.send(checkin, token_update(device, Token=b"n" * 32))
    report = {"Status": "Acknowledged", "CommandUUID": command, **device.ids}
    done = await device.send(connect, plistlib.dumps(report))

    assert given(idle) == command
    assert [(each.status_code, each.content) for each in (updated, done)] == [(200, b"")] * 2
    assert await device.open_commands() == []
    topics = [event["topic"] for event in await whole.events_of(device.id, 3)]
    assert topics == ["mdm.Connect", "mdm.TokenUpdate", "mdm.Connect"]


async def test_the_import_makes_no_event_and_what_the_device_says_does(whole: Whole) -> None:
    device = await migrated(whole)
    journaled = whole.journaled()

    await put(whole, token_update(device, PushMagic="another"))
    assert whole.journaled() == journaled
    await device.connect()

    assert [event["topic"] for event in await whole.events_of(device.id, 1)] == ["mdm.Connect"]


async def test_a_later_token_update_of_the_device_counts(whole: Whole) -> None:
    device = await migrated(whole)
    await device.connect()
    device.token = b"n" * 32

    assert (await device.token_update()).status_code == 200
    await device.queue()

    assert await whole.pushed(device.token)
    assert (await device.authenticate()).status_code == 200


async def test_user_channels_move_with_their_device(whole: Whole) -> None:
    device = await migrated(whole)
    user = device.user(UserID=new_id())
    user.token = b"u" * 32
    await put(whole, token_update(user))

    command = await user.queue()
    await whole.pushed(user.token)

    assert given(await user.connect()) == command
    found = await shown(device)
    assert [each["user"] for each in found["users"]] == [user.ids["UserID"]]
    assert found["certificate_sha256"] == device.identity.fingerprint


async def test_the_tokens_move_and_only_an_administrator_reads_them(whole: Whole) -> None:
    device = await migrated(whole)
    await put(whole, message(device, "SetBootstrapToken", BootstrapToken=BOOTSTRAP))
    made = await whole.api("POST", "/v1/tokens", {"name": new_id(), "scopes": ["read", "push"]})
    reader = ("any", made.json()["token"])
    path = f"/v1/devices/{device.id}/unlock_token"

    async with asyncio.timeout(10):  # every process knows the token within seconds
        while (await whole.api("GET", path, auth=reader)).status_code == 401:
            await asyncio.sleep(0.05)
    refused = await whole.api("GET", path, auth=reader)
    unlock = await whole.api("GET", path)
    bootstrap = await whole.api("GET", f"/v1/devices/{device.id}/bootstrap_token")

    assert refused.status_code == 403
    assert unlock.json()["unlock_token"] == "dW5sb2NrLXRva2Vu"
    assert bootstrap.json()["bootstrap_token"] == "Ym9vdHN0cmFwLXRva2Vu"
    statuses = {
        entry["status"] for entry in await audited(whole, "device.read_unlock_token", device.id)
    }
    assert statuses == {200, 403}
    asked = await device.checkin("GetBootstrapToken")
    assert plistlib.loads(asked.content)["BootstrapToken"] == BOOTSTRAP


async def test_the_same_import_again_changes_nothing(whole: Whole) -> None:
    device = await migrated(whole)
    before = await shown(device)

    first = await put(whole, authenticate(device, OSVersion="15.1"))
    second = await put(whole, token_update(device, UnlockToken=UNLOCK))
    unchanged = await shown(device)
    await device.connect()
    bound = await shown(device)
    await put(whole, authenticate(device, OSVersion="15.1"))
    await put(whole, token_update(device, UnlockToken=UNLOCK))

    assert {first.json()["outcome"], second.json()["outcome"]} == {"unchanged"}
    assert unchanged == before
    assert await shown(device) | {"last_seen": ""} == bound | {"last_seen": ""}


async def test_other_messages_of_a_device_that_is_bound_are_refused(whole: Whole) -> None:
    device = await migrated(whole)
    await device.connect()

    await put(whole, token_update(device, PushMagic="stale"), 409)

    await device.queue()
    assert (await whole.pushed(device.token))["mdm"] == f"magic-{device.id}"


async def test_a_device_that_enrolled_here_is_refused(whole: Whole) -> None:
    device = await whole.enrolled()
    before = await shown(device)

    await put(whole, authenticate(device), 409)
    await put(whole, token_update(device), 409)

    assert await shown(device) | {"last_seen": ""} == before | {"last_seen": ""}


async def test_only_the_first_certificate_is_heard(whole: Whole) -> None:
    device = await migrated(whole)
    second = Device(whole, whole.authority.issue(), device.ids)
    await device.connect()

    assert (await second.connect()).status_code == 400
    assert (await second.token_update()).status_code == 400
    assert (await device.connect()).status_code == 200


async def test_of_many_certificates_at_once_exactly_one_is_heard(whole: Whole) -> None:
    device = await migrated(whole)
    rivals = [Device(whole, whole.authority.issue(), device.ids) for _ in range(8)]

    await asyncio.gather(*(rival.connect() for rival in rivals))
    again = [(await rival.connect()).status_code for rival in rivals]

    assert sorted(again) == [200] + [400] * 7
    found = (await shown(device))["certificate_sha256"]
    assert found == rivals[again.index(200)].identity.fingerprint


async def test_strangers_and_holders_of_other_certificates_bind_nothing(whole: Whole) -> None:
    device, neighbour = await migrated(whole), await whole.enrolled()
    stranger = Device(whole, FleetAuthority().issue(), device.ids)
    thief = Device(whole, neighbour.identity, device.ids)

    assert (await stranger.connect()).status_code == 400
    assert (await thief.connect()).status_code == 400

    found = await shown(device)
    assert found["certificate_sha256"] is None and found["migrating_until"] is not None
    assert (await device.connect()).status_code == 200


async def test_what_remains_to_move_is_listed(whole: Whole) -> None:
    fleet = [await migrated(whole) for _ in range(3)]
    await fleet[0].connect()

    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"migrating": "true", "limit": "1", "cursor": cursor}
        page = (await whole.api("GET", "/v1/devices", params=params)).json()
        found += [device["udid"] for device in page["devices"]]
        cursor = page["next_cursor"]

    ids = {device.id for device in fleet}
    assert ids.intersection(found) == {fleet[1].id, fleet[2].id}


async def test_export_tools_send_any_user_name_and_a_token(whole: Whole) -> None:
    made = await whole.api("POST", "/v1/tokens", {"name": new_id(), "scopes": ["admin"]})
    reader = await whole.api("POST", "/v1/tokens", {"name": new_id(), "scopes": ["commands"]})
    admin, weak = ("nanomdm", made.json()["token"]), ("nanomdm", reader.json()["token"])
    device = whole.device()
    body = authenticate(device)
    async with asyncio.timeout(10):
        for auth in (admin, weak):
            # A token is unknown for a second at most; who asks often meanwhile hears 429.
            while (await whole.api("GET", "/v1/commands", auth=auth)).status_code in {401, 429}:
                await asyncio.sleep(0.05)

    await put(whole, body, 403, auth=weak)
    await put(whole, body, auth=admin)

    statuses = [each["status"] for each in await audited(whole, "migration.import", device.id)]
    assert statuses == [200]


async def test_a_removed_import_is_forgotten_and_may_come_again(whole: Whole) -> None:
    device = await migrated(whole)
    await whole.api("DELETE", "/v1/devices", {"udids": [device.id]})

    assert (await device.connect()).status_code == 400
    await put(whole, authenticate(device))
    await put(whole, token_update(device))

    assert (await device.connect()).status_code == 200


async def test_after_the_window_a_certificate_is_refused_until_the_next_import(
    tmp_path: Path,
) -> None:
    async with whole_server(tmp_path, {"MDM_MIGRATION_WINDOW": "0.1 s"}) as whole:
        device = await migrated(whole)
        until = datetime.fromisoformat((await shown(device))["migrating_until"])
        while datetime.now(UTC) <= until:
            await asyncio.sleep(0.01)

        assert (await device.connect()).status_code == 400
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(20):  # it is noted within seconds
            while not found:
                await asyncio.sleep(0.1)
                listed = await whole.api("GET", "/v1/devices", params={"quarantined": "true"})
                found = listed.json()["devices"]
        [quarantined] = found
        shown_certificate = quarantined["quarantine"]["certificate_sha256"]
        assert (quarantined["udid"], shown_certificate) == (device.id, device.identity.fingerprint)

        body = authenticate(device, OSVersion="15.1")
        async with asyncio.timeout(20):  # a slow machine may miss a window as short as this
            while (await device.connect()).status_code != 200:
                assert (await put(whole, body)).status_code == 200
