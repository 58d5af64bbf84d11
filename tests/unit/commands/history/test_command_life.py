"""One command of a queue, shown and cancelled over HTTP."""

import base64
import plistlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

import pytest

from services.commands.history.lookup import FAR
from shared.apple.request.plist import prepare_raw
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import Refusal
from shared.domain.errors import BadRequest, Conflict, NotFound
from shared.domain.event import Topic
from shared.ports.pushes import PushRecord
from shared.times import rfc3339
from tests.support.commands_world import ANNA, CATALOGUE, FIRST_UUID, MINUTE, World, command
from tests.support.fakes.clock import START
from tests.support.life_client import LifeClient

PATH = f"/MAC/{FIRST_UUID}"
ANSWER = {
    "UDID": "MAC",
    "CommandUUID": FIRST_UUID,
    "Status": "Acknowledged",
    "Data": b"\x00\xff",
    "Count": 3,
}
CHAIN = [{"ErrorCode": 12021, "ErrorDomain": "MCMDMErrorDomain", "USEnglishDescription": "no"}]


@pytest.fixture
async def client() -> AsyncIterator[LifeClient]:
    made = LifeClient(World())
    yield made
    await made.http.aclose()


async def was_sent(world: World) -> QueueEntry:
    await world.post()
    assert await world.connect() is not None
    return world.entry()


async def expiring(world: World, after: timedelta = MINUTE) -> QueueEntry:
    """An open command whose time is over after a while."""
    await world.post()
    return set_expiry(world, after)


def set_expiry(world: World, after: timedelta) -> QueueEntry:
    entry = replace(world.entry(), expires_at=world.clock.now() + after)
    world.queue.entries[entry.id] = entry
    return entry


# --- GET one


async def test_a_queued_command_is_shown_with_its_terms_and_the_push_of_its_device(
    client: LifeClient,
) -> None:
    await client.world.post()
    entry = replace(
        client.world.entry(),
        priority=0,
        not_before=START + MINUTE,
        expires_at=START + 2 * MINUTE,
        collapse_key="client:mine",
    )
    client.world.queue.entries[entry.id] = entry
    next_at = START + timedelta(minutes=5)
    await client.pushes.record([PushRecord("MAC", START, next_at, 2, None, "BadDeviceToken")])

    status, shown = await client.call(PATH)

    assert status == 200
    assert shown == {
        "udid": "MAC",
        "command_uuid": FIRST_UUID,
        "request_type": "DeviceInformation",
        "state": "queued",
        "priority": 0,
        "collapse_key": "mine",
        "superseded_by": None,
        "handed_out": False,
        "attempts": 0,
        "unanswered_attempts": 0,
        "accepted_at": "2026-01-02T03:04:05Z",
        "not_before": "2026-01-02T03:05:05Z",
        "expires_at": "2026-01-02T03:06:05Z",
        "sent_at": None,
        "answered_at": None,
        "finished_at": None,
        "pushes": {
            "attempts": 2,
            "last_at": "2026-01-02T03:04:05Z",
            "pushed_at": None,
            "error": "BadDeviceToken",
            "next_at": "2026-01-02T03:09:05Z",
        },
        "answer": None,
        "last_refusal": None,
        "late_answer": None,
    }


async def test_a_refusal_is_shown_while_the_command_is_not_answered(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    refused_at = client.world.clock.now() + MINUTE
    before = Refusal(START - MINUTE, "signature", "expired", "/mdm/connect")
    told = replace(before, at=refused_at, detail="Status: not known", reason="message", count=2)
    records = client.world.enrollments.records
    records["MAC"] = replace(records["MAC"], refusals=(told, before))

    _, shown = await client.call(PATH)
    await client.reports(entry, EntryState.ACKNOWLEDGED, b"<plist/>")
    _, answered = await client.call(PATH)

    assert shown["last_refusal"] == {
        "at": rfc3339(refused_at),
        "reason": "message",
        "detail": "Status: not known",
        "path": "/mdm/connect",
        "count": 2,
    }
    assert answered["last_refusal"] is None


async def test_a_refusal_of_before_its_first_hand_out_is_not_shown(client: LifeClient) -> None:
    await was_sent(client.world)
    records = client.world.enrollments.records
    before = Refusal(START - MINUTE, "signature", "expired", "/mdm/connect")
    records["MAC"] = replace(records["MAC"], refusals=(before,))

    _, shown = await client.call(PATH)

    assert shown["last_refusal"] is None


async def test_an_answer_is_shown_as_json_and_as_it_came(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    body = plistlib.dumps(ANSWER)
    event = await client.reports(entry, EntryState.ACKNOWLEDGED, body)

    _, shown = await client.call(PATH)

    assert (shown["state"], shown["handed_out"], shown["attempts"]) == ("acknowledged", True, 1)
    assert shown["sent_at"] == "2026-01-02T03:04:05Z"
    assert shown["answered_at"] == shown["finished_at"] == "2026-01-02T03:04:05.020000Z"
    assert shown["answer"] == {
        "event_id": event.id,
        "received_at": "2026-01-02T03:04:05.010000Z",
        "status": "Acknowledged",
        "error_chain": None,
        "response": {**ANSWER, "Data": "AP8="},
        "response_error": None,
        "raw": base64.b64encode(body).decode(),
    }


@pytest.mark.parametrize(
    ("state", "chain"), [(EntryState.ERROR, CHAIN), (EntryState.FORMAT_ERROR, "not a chain")]
)
async def test_an_error_is_shown_with_its_chain(
    client: LifeClient, state: EntryState, chain: object
) -> None:
    entry = await was_sent(client.world)
    await client.reports(entry, state, plistlib.dumps({"ErrorChain": chain}))

    _, shown = await client.call(PATH)

    assert shown["state"] == state.value
    assert shown["answer"]["error_chain"] == (chain if isinstance(chain, list) else None)


async def test_of_several_answers_the_one_that_counts_is_shown(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    await client.reports(entry, EntryState.NOT_NOW)
    _, rested = await client.call(PATH)
    await client.world.connect()
    acknowledged = await client.reports(entry, EntryState.ACKNOWLEDGED)

    _, shown = await client.call(PATH)

    assert (rested["state"], rested["answer"]["status"]) == ("not_now", "NotNow")
    assert (shown["state"], shown["answer"]["event_id"]) == ("acknowledged", acknowledged.id)


async def test_an_answer_of_a_process_that_was_stopped_is_found(client: LifeClient) -> None:
    """Its event is far older than the report."""
    entry = await was_sent(client.world)
    event = await client.reports(entry, EntryState.ACKNOWLEDGED)
    slow = replace(client.world.entry(), answered_at=client.world.clock.now() + FAR / 2)
    client.world.queue.entries[slow.id] = slow

    _, shown = await client.call(PATH)

    assert shown["answer"]["event_id"] == event.id


async def test_events_of_others_are_no_answers(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    event = await client.reports(entry, EntryState.ACKNOWLEDGED)
    others = [
        replace(event, id="1", key=ANNA),
        replace(event, id="2", command_uuid="other"),
        replace(event, id="3", topic=Topic.COMMAND_EXPIRED),
    ]
    client.journal.events = {other.id: other for other in others}

    _, shown = await client.call(PATH)

    assert (shown["state"], shown["answer"]) == ("acknowledged", None)
    assert shown["answered_at"] is not None


async def test_an_answer_too_large_to_show_is_there_raw(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    bomb = plistlib.dumps({"List": ["x" * 60_000] * 1000}, fmt=plistlib.FMT_BINARY)
    await client.reports(entry, EntryState.ACKNOWLEDGED, bomb)

    _, shown = await client.call(PATH)

    assert shown["answer"]["response"] is None
    assert shown["answer"]["response_error"] == "plist: too large to show as JSON"
    assert base64.b64decode(shown["answer"]["raw"]) == bomb


async def test_what_cannot_be_read_is_there_raw(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    await client.reports(entry, EntryState.ACKNOWLEDGED, b"\xff no plist")

    _, shown = await client.call(PATH)

    assert (shown["answer"]["response"], shown["answer"]["error_chain"]) == (None, None)
    assert shown["answer"]["response_error"] == "plist: is no property list"


async def test_a_date_outside_the_years_of_python_is_shown_as_text(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    body = plistlib.dumps({"LastCloudBackupDate": "?"})
    distant = b"<date>0000-12-30T00:00:00Z</date>"
    body = body.replace(b"<string>?</string>", distant)
    await client.reports(entry, EntryState.ACKNOWLEDGED, body)

    _, shown = await client.call(PATH)

    assert shown["answer"]["response"]["LastCloudBackupDate"] == "0000-12-30T00:00:00Z"
    assert shown["answer"]["response_error"] is None


async def test_a_finished_command_tells_of_no_pushes(client: LifeClient) -> None:
    entry = await was_sent(client.world)
    await client.reports(entry, EntryState.ACKNOWLEDGED)
    await client.pushes.record([PushRecord("MAC", START, START)])

    _, shown = await client.call(PATH)

    assert shown["pushes"] is None


async def test_a_command_is_found_by_any_name_of_its_enrollment(client: LifeClient) -> None:
    await client.world.post()
    await client.world.post("anna", uuid="second")

    assert (await client.call(f"/C02/{FIRST_UUID}"))[1]["udid"] == "MAC"
    assert (await client.call("/MAC:anna/second"))[1]["udid"] == "MAC:anna"


async def test_who_and_what_nobody_knows_is_told_apart(client: LifeClient) -> None:
    status, no_device = await client.call("/nobody/1")
    assert (status, no_device["error"]) == (404, "udid: no device or user nobody is enrolled")

    status, no_command = await client.call("/MAC/1")
    assert (status, no_command["error"]) == (404, "command_uuid: MAC has no command 1")


async def test_rule_04_a_command_of_a_past_generation_has_ended_when_it_is_shown(
    client: LifeClient,
) -> None:
    await client.world.post()
    await client.world.apply_authenticate()

    _, shown = await client.call(PATH)

    assert shown["state"] == "dropped_reenrolled"
    assert client.world.entry().state is EntryState.DROPPED_REENROLLED


async def test_a_command_whose_time_is_over_has_ended_when_it_is_shown(client: LifeClient) -> None:
    await expiring(client.world)
    client.world.clock.advance(MINUTE)

    _, shown = await client.call(PATH)

    assert (shown["state"], shown["finished_at"]) == ("expired", "2026-01-02T03:05:05Z")
    assert client.world.queue.unsafe == {client.world.entry().id}


async def test_a_command_whose_time_is_over_is_not_in_the_queue_that_is_shown(
    client: LifeClient,
) -> None:
    await expiring(client.world)
    assert await client.world.shown() == [FIRST_UUID]
    client.world.clock.advance(MINUTE)

    assert await client.world.shown() == []


# --- DELETE one


async def test_a_queued_command_is_cancelled_and_never_handed_out(client: LifeClient) -> None:
    await client.world.post()

    status, shown = await client.call(PATH, "DELETE")

    assert (status, shown["state"], shown["handed_out"]) == (200, "cancelled", False)
    assert await client.world.connect() is None


@pytest.mark.parametrize("rests", [False, True])
async def test_cancelling_what_the_device_has_had_says_so_and_keeps_its_answer(
    client: LifeClient, rests: bool
) -> None:
    entry = await was_sent(client.world)
    if rests:
        await client.reports(entry, EntryState.NOT_NOW)

    status, cancelled = await client.call(PATH, "DELETE")
    late = await client.reports(entry, EntryState.ACKNOWLEDGED, plistlib.dumps(ANSWER))
    _, shown = await client.call(PATH)

    assert (status, cancelled["state"], cancelled["handed_out"]) == (200, "cancelled", True)
    assert await client.world.connect() is None
    assert shown["state"] == "cancelled"
    assert shown["late_answer"]["state"] == "acknowledged"
    assert shown["late_answer"]["answer"]["event_id"] == late.id
    assert shown["late_answer"]["answer"]["response"]["Count"] == 3


async def test_a_hand_out_just_before_the_cancelling_is_told(client: LifeClient) -> None:
    """The route has read the entry; the device gets the command; then the route cancels."""
    world = client.world
    await world.post()
    seen = world.entry()
    await world.connect()

    ended = await world.open_commands.cancel(seen)

    assert (ended.state, ended.handed_by is not None) == (EntryState.CANCELLED, True)


async def test_an_ending_just_before_the_cancelling_wins(client: LifeClient) -> None:
    world = client.world
    seen = await was_sent(world)
    await world.answer(seen)

    with pytest.raises(Conflict, match="acknowledged"):
        await world.open_commands.cancel(seen)

    assert world.entry().state is EntryState.ACKNOWLEDGED


async def test_cancelling_what_is_gone_is_no_success(client: LifeClient) -> None:
    await client.world.post()
    seen = client.world.entry()
    client.world.queue.entries.clear()

    with pytest.raises(NotFound):
        await client.world.open_commands.cancel(seen)


async def test_cancelling_again_is_answered_as_the_first_time(client: LifeClient) -> None:
    await client.world.post()
    first = await client.call(PATH, "DELETE")

    assert await client.call(PATH, "DELETE") == first
    assert first[0] == 200


async def test_a_command_that_has_ended_otherwise_cannot_be_cancelled(client: LifeClient) -> None:
    await client.reports(await was_sent(client.world), EntryState.ERROR)

    status, refused = await client.call(PATH, "DELETE")

    assert status == 409
    assert refused["error"] == f"command_uuid: {FIRST_UUID} has ended already: error"


async def test_what_has_expired_cannot_be_cancelled_any_more(client: LifeClient) -> None:
    await expiring(client.world)
    client.world.clock.advance(MINUTE)

    status, refused = await client.call(PATH, "DELETE")

    assert (status, refused["error"].endswith("expired")) == (409, True)


async def test_cancelling_what_nobody_knows_is_refused(client: LifeClient) -> None:
    assert (await client.call("/MAC/1", "DELETE"))[0] == 404
    assert (await client.call("/nobody/1", "DELETE"))[0] == 404


async def test_a_cancelled_command_can_be_queued_anew(client: LifeClient) -> None:
    await client.world.post()
    await client.call(PATH, "DELETE")

    await client.world.post()

    assert (await client.call(PATH))[1]["state"] == "queued"
    assert await client.world.queue.commands({command().command.hash})


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", PATH), ("DELETE", PATH)])
async def test_every_route_needs_the_api_key(client: LifeClient, method: str, path: str) -> None:
    client.http.auth = None  # type: ignore[assignment]  # httpx takes a tuple or None

    assert (await client.call(path, method))[0] == 401


# --- ids with slashes


@pytest.mark.parametrize("uuid", ["job/42", "a//b", "aGVsbG8/d29ybGQ+/+8=", "50%2Foff %", "job 42"])
async def test_what_queueing_takes_as_an_id_a_path_can_name(client: LifeClient, uuid: str) -> None:
    await client.world.post(uuid=uuid)
    path = f"/MAC/{quote(uuid, safe='')}"

    assert (await client.call(path))[1]["command_uuid"] == uuid
    status, cancelled = await client.call(path, "DELETE")
    assert (status, cancelled["state"]) == (200, "cancelled")


@pytest.mark.parametrize("uuid", [".", ".."])
def test_an_id_that_no_path_can_name_is_refused(uuid: str) -> None:
    document = {"CommandUUID": uuid, "Command": {"RequestType": "ProfileList"}}
    body = {"udid": "MAC", "request_type": "ProfileList", "command_uuid": uuid}

    with pytest.raises(BadRequest, match=r"^command_uuid: .* neither"):
        CATALOGUE.prepare(body, str)
    with pytest.raises(BadRequest, match=r"^CommandUUID: .* neither"):
        prepare_raw("MAC", plistlib.dumps(document), {})
