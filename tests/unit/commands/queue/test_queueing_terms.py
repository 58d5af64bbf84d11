"""Terms of commands as they are queued: times, priorities, collapse keys, warnings, many targets."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.commands.queue.submission import Queued
from shared.apple.request.plist import PreparedCommand, encode_command
from shared.domain.command import EntryState, QueueEntry, Terms
from shared.domain.enrollment import EnrollmentKey, Inventory
from shared.domain.errors import BadRequest, Conflict, MdmError, NotFound, StoreUnavailable
from shared.times import EARLIEST
from tests.support.commands_world import (
    ANNA,
    ANNA_ON_PAD,
    CATALOGUE,
    FIRST_UUID,
    MAC,
    MINUTE,
    Barrier,
    World,
    enrolled,
)
from tests.support.fakes.clock import START, settle

SECOND_UUID = "0198f1d2-0000-7000-8000-000000000002"


def prepared(terms: Terms, uuid: str = FIRST_UUID, *targets: str) -> PreparedCommand:
    made = encode_command(uuid, "ProfileList", {})
    return PreparedCommand(targets or ("MAC",), made, {"command_uuid": uuid}, terms=terms)


def from_json(**body: object) -> PreparedCommand:
    return CATALOGUE.prepare({"udid": "MAC", **body}, lambda: FIRST_UUID)


def open_uuids(world: World, key: EnrollmentKey = MAC) -> list[str]:
    return [
        entry.command_uuid
        for entry in world.queue.entries.values()
        if entry.enrollment == key.id and entry.state.is_open
    ]


async def test_the_entry_has_the_terms_of_its_command() -> None:
    world = World()
    later = world.clock.now() + MINUTE
    terms = Terms(priority=7, ttl=2 * MINUTE, not_before=later, collapse_key="mine")

    queued = await world.queue_service.enqueue(prepared(terms))

    entry = world.entry()
    assert queued.entry.id == entry.id
    assert (entry.priority, entry.not_before, entry.collapse_key) == (7, later, "mine")
    assert entry.expires_at == later + MINUTE


async def test_a_command_whose_time_is_over_is_refused_and_leaves_nothing() -> None:
    world = World()

    with pytest.raises(BadRequest) as refused:
        await world.queue_service.enqueue(prepared(Terms(expires_at=world.clock.now())))

    assert [fault.path for fault in refused.value.faults] == ["expires_at"]
    assert world.queue.entries == {}


@pytest.mark.parametrize("times", [{"ttl": MINUTE}, {"expires_at": MINUTE}])
async def test_a_command_that_would_be_over_before_it_begins_is_refused(
    times: dict[str, timedelta],
) -> None:
    world = World()
    begin = world.clock.now() + MINUTE
    over = {name: begin if name == "expires_at" else value for name, value in times.items()}

    with pytest.raises(BadRequest) as refused:
        await world.queue_service.enqueue(prepared(Terms(not_before=begin, **over)))  # type: ignore[arg-type]  # either

    assert [fault.path for fault in refused.value.faults] == list(times)


@pytest.mark.parametrize("ago", [timedelta(), MINUTE, START - EARLIEST])
async def test_a_begin_that_is_over_is_taken_as_absent(ago: timedelta) -> None:
    """Go's zero time is a client's word for none."""
    world = World()
    begin = world.clock.now() - ago

    await world.queue_service.enqueue(prepared(Terms(not_before=begin, ttl=MINUTE)))

    assert world.entry().not_before is None
    assert world.entry().expires_at == world.clock.now() + MINUTE
    assert world.push_requests.requested == [{"MAC"}]


async def test_no_push_is_asked_for_before_the_time_has_come() -> None:
    world = World()

    await world.queue_service.enqueue(prepared(Terms(not_before=world.clock.now() + MINUTE)))

    assert world.push_requests.requested == []


async def test_the_newest_of_a_collapse_key_ends_the_older_one() -> None:
    world = World()
    terms = Terms(collapse_key="k")

    await world.queue_service.enqueue(prepared(terms))
    await world.queue_service.enqueue(prepared(terms, SECOND_UUID))

    assert world.entry().state is EntryState.SUPERSEDED
    assert open_uuids(world) == [SECOND_UUID]


async def test_a_retry_of_the_older_one_is_queued_anew_and_ends_the_newer_one() -> None:
    """A command that was not ended by its device is queued again: it is the newest then."""
    world = World()
    terms = Terms(collapse_key="k")
    await world.queue_service.enqueue(prepared(terms))
    await world.queue_service.enqueue(prepared(terms, SECOND_UUID))

    again = await world.queue_service.enqueue(prepared(terms))

    assert again.is_new
    assert open_uuids(world) == [FIRST_UUID]


async def test_what_the_former_version_accepted_with_the_key_of_its_type_is_superseded_as_it_was() -> (
    None
):
    """It gave that key to every question. Only a newer one that asks for it replaces the older one."""
    world = World()
    await world.queue_service.enqueue(prepared(Terms(collapse_key="ProfileList:all")))
    question = {"request_type": "ProfileList", "command_uuid": SECOND_UUID}

    await world.queue_service.enqueue(from_json(**question))
    both = open_uuids(world)
    await world.queue_service.enqueue(
        from_json(**question | {"command_uuid": "3", "supersede": True})
    )

    assert both == [FIRST_UUID, SECOND_UUID]
    assert open_uuids(world) == [SECOND_UUID, "3"]
    assert world.entry().superseded_by == "3"


@pytest.mark.parametrize("step", ["end", "supersede"])
async def test_a_superseding_that_was_cut_off_is_done_by_the_retry(step: str) -> None:
    world = World()
    terms = Terms(collapse_key="k")
    await world.queue_service.enqueue(prepared(terms))

    async def fails_once(operation: str) -> None:
        if operation == step:
            world.queue.before = world.at_store
            raise StoreUnavailable("away")

    world.queue.before = fails_once
    with pytest.raises(StoreUnavailable):
        await world.queue_service.enqueue(prepared(terms, SECOND_UUID))

    again = await world.queue_service.enqueue(prepared(terms, SECOND_UUID))

    assert not again.is_new
    assert open_uuids(world) == [SECOND_UUID]


async def test_of_two_that_are_queued_at_once_by_two_replicas_one_stays_open() -> None:
    """Neither knew of the other when it was written."""
    barrier = Barrier()
    world = World(at_store=barrier)
    inserts = [barrier.stop("insert"), barrier.stop("insert")]
    terms = Terms(collapse_key="k")
    both = [
        asyncio.create_task(replica.enqueue(prepared(terms, uuid)))
        for replica, uuid in ((world.queue_service, FIRST_UUID), (world.replica(), SECOND_UUID))
    ]
    await settle()

    for each in inserts:
        each.set()
    await asyncio.gather(*both)

    assert len(open_uuids(world)) == 1


async def test_a_job_stores_its_command_again_if_it_was_not_stored() -> None:
    world = World()
    calls: list[str] = []

    async def fails_once(operation: str) -> None:
        calls.append(operation)
        if operation == "store" and calls.count("store") == 1:
            raise StoreUnavailable("away")

    world.queue.before = fails_once
    since = world.clock.now()
    with pytest.raises(StoreUnavailable):
        await world.queue_service.enqueue_for(prepared(Terms()), ["MAC"], since)

    await world.queue_service.enqueue_for(prepared(Terms()), ["MAC"], since)
    await world.queue_service.enqueue_for(prepared(Terms()), ["PAD"], since)

    assert calls.count("store") == 2


async def test_what_the_device_has_is_not_superseded() -> None:
    world = World()
    terms = Terms(collapse_key="k")
    await world.queue_service.enqueue(prepared(terms))
    await world.connect()

    await world.queue_service.enqueue(prepared(terms, SECOND_UUID))

    assert open_uuids(world) == [FIRST_UUID, SECOND_UUID]


async def test_a_command_for_devices_only_is_refused_on_a_user_channel() -> None:
    world = World()
    erase = CATALOGUE.prepare({"udid": ANNA.id, "request_type": "EraseDevice"}, lambda: FIRST_UUID)

    with pytest.raises(BadRequest, match="EraseDevice is for the device channel only"):
        await world.queue_service.enqueue(erase)

    assert world.queue.entries == {}


async def test_warnings_come_with_the_answer() -> None:
    world = World()
    inventory = Inventory(product_name="MacBookPro17,1", os_version="10.12")
    world.enrollments.add(replace(enrolled(MAC), inventory=inventory))

    queued = await world.queue_service.enqueue(
        from_json(request_type="SetRecoveryLock", new_password="x")
    )

    assert queued.is_new
    assert any("macOS" in warning for warning in queued.warnings)


# --- one command for many


async def test_many_targets_get_the_same_command_or_their_refusal() -> None:
    world = World()
    world.enrollments.add(enrolled(ANNA_ON_PAD))
    names = ("MAC", "PAD", "nobody", "anna")

    outcomes = await world.queue_service.enqueue_for(
        prepared(Terms(), FIRST_UUID, *names), names, world.clock.now()
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Queued, Queued, NotFound, Conflict]
    assert {entry.command_hash for entry in world.queue.entries.values()} == {
        encode_command(FIRST_UUID, "ProfileList", {}).hash
    }


@pytest.mark.parametrize("state", [EntryState.ACKNOWLEDGED, EntryState.CANCELLED])
async def test_repeating_a_chunk_queues_nothing_anew(state: EntryState) -> None:
    world = World()
    since = world.clock.now() + timedelta(microseconds=300)
    await world.clock.run(MINUTE)
    command = prepared(Terms(), FIRST_UUID, "MAC")
    await world.queue_service.enqueue_for(command, ["MAC"], since)
    await _end(world, state)
    await world.clock.run(timedelta(days=2))

    [again] = await world.queue_service.enqueue_for(command, ["MAC"], since)

    assert isinstance(again, Queued)
    assert not again.is_new
    assert world.entry().state is state


async def _end(world: World, state: EntryState) -> None:
    if state is EntryState.CANCELLED:
        await world.open_commands.clear("MAC")
        return
    entry: QueueEntry | None = await world.connect()
    assert entry is not None
    await world.answer(entry, state)


async def test_what_stood_there_before_the_job_is_queued_anew() -> None:
    world = World()
    command = prepared(Terms(), FIRST_UUID, "MAC")
    await world.queue_service.enqueue(command)
    await world.open_commands.clear("MAC")
    await world.clock.run(MINUTE)

    [outcome] = await world.queue_service.enqueue_for(command, ["MAC"], world.clock.now())

    assert isinstance(outcome, Queued)
    assert outcome.is_new


async def test_the_time_of_many_counts_from_the_beginning_of_their_job() -> None:
    world = World()
    since = world.clock.now()
    await world.clock.run(MINUTE)

    await world.queue_service.enqueue_for(prepared(Terms(ttl=2 * MINUTE)), ["MAC"], since)

    expires_at = world.entry().expires_at
    assert expires_at is not None
    assert abs(expires_at - (since + 2 * MINUTE)) < timedelta(milliseconds=1)


async def test_a_store_that_is_away_fails_the_whole_chunk() -> None:
    world = World()

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    world.queue.before = away
    with pytest.raises(MdmError):
        await world.queue_service.enqueue_for(prepared(Terms()), ["MAC", "PAD"], world.clock.now())
