"""The life of commands over HTTP, with devices that answer: looked up, listed, cancelled, expired."""

import asyncio
import base64
import plistlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.integration.whole import Device, Whole, given, new_id, whole_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPIC = "macromdm.CommandExpired"
CHAIN = [{"ErrorCode": 12021, "ErrorDomain": "MCMDMErrorDomain", "LocalizedDescription": "no"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """A server whose subscriber asked for our own topics."""
    settings = {"MDM_WEBHOOK_EXTRA_TOPICS": TOPIC}
    async with whole_server(tmp_path_factory.mktemp("asking"), settings) as found:
        yield found


async def shown(device: Device, command_uuid: str) -> dict[str, Any]:
    answer = await device.whole.api("GET", f"/v1/commands/{device.id}/{command_uuid}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def queue(device: Device, **terms: object) -> str:
    body = {"udid": device.id, "request_type": "ProfileList", "command_uuid": new_id(), **terms}
    answer = await device.whole.api("POST", "/v1/commands", body)
    assert answer.status_code == 201, answer.text
    return str(body["command_uuid"])


async def cancel(device: Device, command_uuid: str) -> httpx.Response:
    return await device.whole.api("DELETE", f"/v1/commands/{device.id}/{command_uuid}")


async def test_a_command_is_followed_from_the_queue_to_its_answer(whole: Whole) -> None:
    device = await whole.enrolled()
    uuid = await queue(device, priority=1, ttl=3600)
    queued = await shown(device, uuid)
    assert given(await device.connect()) == uuid
    sent = await shown(device, uuid)
    await device.connect("NotNow", CommandUUID=uuid)
    rests = await shown(device, uuid)
    assert given(await device.connect()) == uuid
    await device.connect("Acknowledged", CommandUUID=uuid, ProfileList=[{"Payload": b"\x00\xff"}])
    done = await shown(device, uuid)

    states = [each["state"] for each in (queued, sent, rests, done)]
    assert states == ["queued", "sent", "not_now", "acknowledged"]
    assert [each["attempts"] for each in (queued, sent, rests, done)] == [0, 1, 1, 2]
    assert (queued["priority"], queued["answer"], rests["answer"]["status"]) == (1, None, "NotNow")
    assert queued["accepted_at"] < queued["expires_at"]
    assert done["accepted_at"] <= done["sent_at"] <= done["answered_at"] == done["finished_at"]
    assert done["answer"]["response"]["ProfileList"] == [{"Payload": "AP8="}]
    raw = plistlib.loads(base64.b64decode(done["answer"]["raw"]))
    assert raw["ProfileList"] == [{"Payload": b"\x00\xff"}]
    events = await whole.events_of(device.id, 6)
    assert done["answer"]["event_id"] == events[-1]["event_id"]


async def test_an_error_is_shown_with_its_chain(whole: Whole) -> None:
    device = await whole.enrolled()
    uuid = await queue(device)
    await device.connect()
    await device.connect("Error", CommandUUID=uuid, ErrorChain=CHAIN)

    found = await shown(device, uuid)

    assert (found["state"], found["answer"]["error_chain"]) == ("error", CHAIN)


async def test_a_command_that_nobody_knows_is_404(whole: Whole) -> None:
    device = await whole.enrolled()

    for method in ("GET", "DELETE"):
        answer = await whole.api(method, f"/v1/commands/{device.id}/{new_id()}")
        assert answer.status_code == 404
        assert "command_uuid" in answer.json()["error"]


async def test_a_cancelled_command_is_never_handed_out(whole: Whole) -> None:
    device = await whole.enrolled()
    first, second = await queue(device), await queue(device)

    answer = await cancel(device, first)
    again = await cancel(device, first)

    assert (answer.status_code, answer.json()["handed_out"]) == (200, False)
    assert (again.status_code, again.json()) == (200, answer.json())
    assert given(await device.connect()) == second
    assert (await shown(device, first))["state"] == "cancelled"


async def test_cancelling_what_the_device_has_says_so_and_keeps_what_it_reports(
    whole: Whole,
) -> None:
    device = await whole.enrolled()
    uuid = await queue(device)
    assert given(await device.connect()) == uuid

    answer = await cancel(device, uuid)
    await device.connect("Acknowledged", CommandUUID=uuid, ProfileList=[])
    found = await shown(device, uuid)

    assert (answer.status_code, answer.json()["handed_out"]) == (200, True)
    assert (found["state"], found["late_answer"]["state"]) == ("cancelled", "acknowledged")
    assert found["late_answer"]["answer"]["response"]["ProfileList"] == []


async def test_commands_are_listed_page_by_page_while_others_are_queued(whole: Whole) -> None:
    device = await whole.enrolled()
    uuids = [await queue(device) for _ in range(7)]
    await cancel(device, uuids[3])
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"udid={device.id}&limit=2&since=2020-01-01T00:00:00Z&cursor={cursor}"
        answer = await whole.api("GET", f"/v1/commands?{query}")
        assert answer.status_code == 200
        found += [each["command_uuid"] for each in answer.json()["commands"]]
        cursor = answer.json()["next_cursor"]
        await queue(device)

    filtered = await whole.api("GET", f"/v1/commands?udid={device.id}&state=cancelled")
    assert found == uuids[::-1]
    assert [each["command_uuid"] for each in filtered.json()["commands"]] == [uuids[3]]


async def test_a_list_that_cannot_be_read_names_what_is_wrong(whole: Whole) -> None:
    answer = await whole.api("GET", "/v1/commands?cursor=nonsense&state=done")

    assert answer.status_code == 400
    assert {fault["path"] for fault in answer.json()["faults"]} == {"cursor", "state"}


async def test_an_expired_command_is_never_delivered_and_its_event_says_so(asking: Whole) -> None:
    device = await asking.enrolled()
    uuid = await queue(device, ttl=0.5)
    other = await queue(device, ttl=3600)

    events = await asking.events_of(device.id, 3)

    [event] = [each for each in events if each["topic"] == TOPIC]
    found = await shown(device, uuid)
    assert event["command_event"] == {
        "udid": device.id,
        "command_uuid": uuid,
        "request_type": "ProfileList",
        "state": "expired",
        "expires_at": found["expires_at"],
    }
    assert found["state"] == "expired"
    assert given(await device.connect()) == other


async def test_who_did_not_ask_hears_nothing_of_an_expiry(whole: Whole) -> None:
    device = await whole.enrolled()
    uuid = await queue(device, ttl=0.2)
    async with asyncio.timeout(20):
        while not whole.log_lines("commands_expired"):
            await asyncio.sleep(0.1)

    await device.connect()
    events = await whole.events_of(device.id, 3)

    assert (await shown(device, uuid))["state"] == "expired"
    assert [each["topic"] for each in events] == [
        "mdm.Authenticate",
        "mdm.TokenUpdate",
        "mdm.Connect",
    ]
