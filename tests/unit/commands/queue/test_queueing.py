"""Commands are accepted durably, once, and for the generation in which their device is.

The interleavings in the second half are those in which a naive order of steps loses a command, or
gives it to the wrong generation (docs/rules.md, rules 4, 5 and 13).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from services.commands.queue.requeue import QueueRules
from shared.domain.command import EntryState, QueueEntry
from shared.domain.errors import Conflict, NotFound, OfNewerVersion, Overtaken, StoreUnavailable
from shared.domain.versions import known
from tests.support.commands_world import (
    ANNA,
    ANNA_ON_PAD,
    FIRST_UUID,
    MAC,
    MINUTE,
    PAD,
    Barrier,
    World,
    command,
    enrolled,
    removed,
    stopped,
)
from tests.support.fakes.clock import settle

HOUR = timedelta(hours=1)
SECOND_UUID = "0198f1d2-0000-7000-8000-000000000002"


# --- what a client sees


async def test_an_accepted_command_is_stored_and_open() -> None:
    world = World()

    assert await world.post() is True

    entry = world.entry()
    assert entry.state is EntryState.QUEUED
    assert entry.generation == world.generation()
    stored = await world.queue.commands({entry.command_hash})
    assert stored[entry.command_hash] == command().command


async def test_a_push_is_requested_after_the_command_is_in_its_queue() -> None:
    world = World()
    posting, gate = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))

    before = list(world.push_requests.requested)
    gate.set()
    await posting

    assert before == []
    assert world.push_requests.requested == [{"MAC"}]


async def test_commands_are_handed_out_in_the_order_of_their_acceptance() -> None:
    world = World()

    for n in range(5):
        await world.post(uuid=f"uuid-{n}")

    assert await world.shown() == [f"uuid-{n}" for n in range(5)]


async def test_commands_that_arrive_together_keep_their_order() -> None:
    world = World()

    await asyncio.gather(*(world.post(uuid=f"uuid-{n:03}") for n in range(150)))

    assert await world.shown() == [f"uuid-{n:03}" for n in range(150)]


async def test_requests_that_arrive_together_share_the_steps() -> None:
    calls: list[str] = []

    class Counting(Barrier):
        async def __call__(self, operation: str) -> None:
            calls.append(operation)
            await super().__call__(operation)

    world = World(at_store=Counting())

    await asyncio.gather(*(world.post(uuid=f"uuid-{n}") for n in range(60)))

    assert calls == ["find", "store", "insert", "load"]


async def test_a_command_for_a_user_carries_the_generation_of_the_device() -> None:
    world = World()

    await world.post("anna")

    assert world.entry(ANNA).generation == world.generation("MAC")
    assert world.entry(ANNA).device == "MAC"


@pytest.mark.parametrize("name", ["MAC", "C02"])
async def test_any_id_of_a_device_names_it(name: str) -> None:
    world = World()

    await world.post(name)

    assert await world.shown("MAC") == [FIRST_UUID]


async def test_a_command_for_an_unknown_device_is_refused_and_leaves_nothing() -> None:
    world = World()

    with pytest.raises(NotFound, match="NOBODY"):
        await world.post("NOBODY")

    assert world.queue.entries == {}
    assert world.push_requests.requested == []


async def test_a_command_for_a_removed_device_is_refused() -> None:
    world = World()
    await world.inventory.remove(["MAC"], [])

    with pytest.raises(NotFound):
        await world.post("MAC")


async def test_a_name_of_several_users_is_refused_with_their_full_ids() -> None:
    world = World()
    world.enrollments.add(enrolled(ANNA_ON_PAD))

    with pytest.raises(Conflict, match="MAC:anna, PAD:anna"):
        await world.post("anna")


async def test_one_refused_command_does_not_fail_its_neighbours() -> None:
    world = World()

    outcomes = await asyncio.gather(
        world.post("MAC"), world.post("NOBODY"), world.post("PAD"), return_exceptions=True
    )

    assert outcomes[0] is True
    assert isinstance(outcomes[1], NotFound)
    assert outcomes[2] is True


# --- unknown devices, where the operator wants them


async def test_unknown_devices_get_their_commands_after_they_enrolled() -> None:
    world = World(QueueRules(accept_unknown_devices=True))
    await world.post("NEW")
    world.enrollments.add(enrolled(replace(MAC, id="NEW", device="NEW", udid="NEW")))

    marked_sent = await world.connect(replace(MAC, id="NEW", device="NEW", udid="NEW"))

    assert marked_sent is not None
    assert marked_sent.command_uuid == FIRST_UUID


async def test_a_reader_shows_what_waits_for_an_unknown_device() -> None:
    world = World(QueueRules(accept_unknown_devices=True))
    await world.post("NEW")

    assert await world.shown("NEW") == [FIRST_UUID]


# --- the same CommandUUID again


async def test_the_same_command_again_is_a_retry_while_it_is_open() -> None:
    world = World()
    await world.post()

    assert await world.post() is False

    assert await world.shown() == [FIRST_UUID]


async def test_a_retry_asks_for_a_push_too() -> None:
    world = World()
    await world.post()

    await world.post()

    assert world.push_requests.requested == [{"MAC"}, {"MAC"}]


async def test_two_retries_at_once_queue_one_command() -> None:
    world = World()

    outcomes = await asyncio.gather(*(world.post() for _ in range(10)))

    assert sorted(outcomes) == [False] * 9 + [True]


async def test_another_command_under_that_uuid_is_refused() -> None:
    world = World()
    await world.post(text="a")

    with pytest.raises(Conflict, match=FIRST_UUID):
        await world.post(text="b")


async def test_another_command_under_the_uuid_of_a_finished_one_is_refused() -> None:
    world = World()
    await world.post(text="a")
    await world.open_commands.clear("MAC")

    with pytest.raises(Conflict):
        await world.post(text="b")


async def test_one_uuid_may_go_to_many_devices() -> None:
    world = World()

    assert await world.post("MAC") is True
    assert await world.post("PAD") is True


async def _finish(world: World, state: EntryState) -> None:
    """Bring the one command to a final state."""
    if state is EntryState.CANCELLED:
        await world.open_commands.clear("MAC")
    elif state is EntryState.DROPPED_REENROLLED:
        await world.authenticate()
    else:
        marked_sent = await world.connect()
        assert marked_sent is not None
        await world.answer(marked_sent, state)
    assert world.entry().state is state


@pytest.mark.parametrize(
    "state", [EntryState.ACKNOWLEDGED, EntryState.ERROR, EntryState.FORMAT_ERROR]
)
async def test_what_the_device_ended_is_a_retry_within_the_window(state: EntryState) -> None:
    world = World(QueueRules(retry_window=HOUR))
    await world.post()
    await _finish(world, state)
    world.clock.advance(HOUR)

    assert await world.post() is False

    assert world.entry().state is state


@pytest.mark.parametrize("state", [EntryState.ACKNOWLEDGED, EntryState.ERROR])
async def test_what_the_device_ended_is_queued_anew_after_the_window(state: EntryState) -> None:
    world = World(QueueRules(retry_window=HOUR))
    await world.post()
    await _finish(world, state)
    world.clock.advance(HOUR + timedelta(seconds=1))

    assert await world.post() is True

    assert await world.shown() == [FIRST_UUID]


@pytest.mark.parametrize("state", [EntryState.CANCELLED, EntryState.DROPPED_REENROLLED])
async def test_what_others_ended_is_queued_anew_at_once(state: EntryState) -> None:
    world = World()
    await world.post()
    await _finish(world, state)

    assert await world.post() is True

    assert await world.shown() == [FIRST_UUID]
    assert world.entry().generation == world.generation()


async def test_what_is_queued_anew_goes_to_the_end_of_the_queue() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    await world.post(uuid=SECOND_UUID)

    await world.post()

    assert await world.shown() == [SECOND_UUID, FIRST_UUID]


async def test_the_window_of_a_command_queued_anew_begins_anew() -> None:
    world = World(QueueRules(retry_window=HOUR))
    await world.post()
    world.clock.advance(2 * HOUR)
    await world.open_commands.clear("MAC")
    await world.post()
    await _finish(world, EntryState.ACKNOWLEDGED)
    world.clock.advance(HOUR - MINUTE)

    assert await world.post() is False


# --- a device that enrolls again beside the POST (rule 4)


async def test_rule_04_enrolling_between_read_and_insert_does_not_lose_the_command() -> None:
    world = World()
    posting, gate = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    await world.authenticate()
    gate.set()

    assert await posting is True

    assert world.entry().generation == world.generation()
    assert await world.connect() is not None


async def test_enrolling_between_read_and_insert_does_not_lose_a_users_command() -> None:
    world = World()
    posting, gate = await stopped(
        world, "insert", lambda: asyncio.ensure_future(world.post("MAC:anna"))
    )
    await world.authenticate()
    gate.set()

    assert await posting is True

    assert await world.connect(ANNA) is not None


async def test_rule_04_the_new_stamp_does_not_revive_what_was_cancelled_meanwhile() -> None:
    world = World()
    posting, at_insert = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    await world.authenticate()
    at_stamp = world.at_store.stop("stamp")
    at_insert.set()
    await world.at_store.reached("stamp")
    await world.open_commands.clear("MAC")
    at_stamp.set()

    assert await posting is True

    assert world.entry().state is EntryState.CANCELLED
    assert await world.connect() is None


async def test_enrolling_after_the_insert_ends_the_command_visibly() -> None:
    world = World()
    await world.post()

    await world.authenticate()

    assert world.entry().state is EntryState.DROPPED_REENROLLED
    assert await world.connect() is None


async def test_a_post_that_read_an_old_generation_does_not_end_anothers_command() -> None:
    """The first client has read the generation and stops; the device enrolls; the second client
    queues the same command in the new generation. The first must not hold that against the old."""
    world = World()
    posting, gate = await stopped(world, "store", lambda: asyncio.ensure_future(world.post()))
    await world.authenticate()
    other = World(clock=world.clock, ids=world.ids)
    other.queue.entries, other.enrollments.records = world.queue.entries, world.enrollments.records
    assert await other.post() is True
    gate.set()

    assert await posting is False

    assert world.entry().state is EntryState.QUEUED
    assert await world.connect() is not None


async def test_an_open_entry_of_a_past_generation_is_queued_anew_for_the_present_one() -> None:
    world = World()
    await world.post()
    await world.apply_authenticate()  # killed before it cleans

    assert await world.post() is True

    assert world.entry().generation == world.generation()
    assert await world.connect() is not None


# --- a device that is removed beside the POST


async def test_a_command_queued_beside_the_removal_of_its_device_is_taken_back() -> None:
    world = World()
    posting, gate = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    await world.inventory.remove(["MAC"], [])
    gate.set()

    with pytest.raises(NotFound):
        await posting

    assert world.entry().state is EntryState.CANCELLED


async def test_what_another_client_was_answered_for_is_not_taken_back() -> None:
    world = World()
    posting, at_insert = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    world.enrollments.add(removed(world.enrollments.records["MAC"]))
    first, second = world.at_store.stop("load"), world.at_store.stop("load")
    at_insert.set()
    await world.at_store.reached("load")
    first.set()  # it finds the device removed
    await settle()
    await world.enrollments.revive({"MAC"})
    assert await world.post_elsewhere() is False
    second.set()

    assert await posting is True

    assert world.entry().state is EntryState.QUEUED


async def test_a_command_queued_before_the_removal_ends_with_it() -> None:
    world = World()
    await world.post("MAC")
    await world.post("anna")
    await world.post("PAD")

    await world.inventory.remove(["MAC"], [])

    assert world.entry(MAC).state is EntryState.CANCELLED
    assert world.entry(ANNA).state is EntryState.CANCELLED
    assert world.entry(PAD).state is EntryState.QUEUED


async def test_a_command_queued_while_a_removal_is_under_way_ends_with_it() -> None:
    world = World()
    gate = world.at_store.stop("remove")
    removing = asyncio.ensure_future(world.inventory.remove(["MAC"], []))
    await world.at_store.reached("remove")
    await world.post()
    gate.set()
    await removing

    assert world.entry().state is EntryState.CANCELLED


# --- queueing again is conditional (rule 5)


async def test_rule_05_queueing_anew_beside_another_looks_again_and_is_a_retry() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    posting, gate = await stopped(world, "requeue", lambda: asyncio.ensure_future(world.post()))
    assert await world.post_elsewhere() is True
    marked_sent = await world.connect()
    gate.set()

    assert await posting is False

    assert world.entry().state is EntryState.SENT
    assert world.entry().order == marked_sent.order if marked_sent else False


async def test_queueing_anew_beside_another_and_its_answer_does_not_run_it_twice() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    posting, gate = await stopped(world, "requeue", lambda: asyncio.ensure_future(world.post()))
    await world.post_elsewhere()
    await _finish(world, EntryState.ACKNOWLEDGED)
    gate.set()

    assert await posting is False

    assert world.entry().state is EntryState.ACKNOWLEDGED


async def test_enrolling_beside_queueing_anew_does_not_lose_the_command() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    posting, gate = await stopped(world, "requeue", lambda: asyncio.ensure_future(world.post()))
    await world.authenticate()
    gate.set()

    assert await posting is True

    assert await world.connect() is not None


async def test_looking_again_does_not_end_what_another_queued_in_a_new_generation() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    posting, gate = await stopped(world, "requeue", lambda: asyncio.ensure_future(world.post()))
    await world.authenticate()
    assert await world.post_elsewhere() is True
    queued = world.entry()
    gate.set()

    assert await posting is False

    assert world.entry() == queued


async def test_an_entry_that_expired_meanwhile_is_made_anew() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    posting, gate = await stopped(world, "requeue", lambda: asyncio.ensure_future(world.post()))
    world.queue.entries.clear()
    gate.set()

    assert await posting is True

    assert await world.shown() == [FIRST_UUID]


async def test_rule_05_a_late_answer_does_not_close_what_was_queued_anew() -> None:
    world = World(QueueRules(retry_window=timedelta()))
    await world.post()
    marked_sent = await world.connect()
    assert marked_sent is not None
    await world.open_commands.clear("MAC")
    await world.post()

    await world.answer(marked_sent)

    assert await world.shown() == [FIRST_UUID]


async def test_whoever_is_always_overtaken_hears_of_it_after_a_few_attempts() -> None:
    class AlwaysOvertaken(World):
        async def no_requeue(self, entry: QueueEntry, seen: QueueEntry) -> bool:
            return False

    world = AlwaysOvertaken()
    await world.post()
    await world.open_commands.clear("MAC")
    world.queue.requeue = world.no_requeue  # type: ignore[method-assign]  # a store that says no

    with pytest.raises(Overtaken):
        await world.post()


# --- trouble


async def test_a_store_that_is_away_accepts_nothing() -> None:
    class Away(Barrier):
        async def __call__(self, operation: str) -> None:
            if operation == "insert":
                raise StoreUnavailable("away")

    world = World(at_store=Away())

    outcomes: Sequence[object] = await asyncio.gather(
        world.post(uuid="1"), world.post(uuid="2"), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable, StoreUnavailable]
    assert world.push_requests.requested == []


async def test_rule_13_a_process_that_was_stopped_for_a_day_does_not_say_yes() -> None:
    """The janitor may have deleted the stored command before its entry was inserted (rule 13)."""
    world = World()
    posting, gate = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    world.clock.advance(timedelta(days=1, minutes=1))
    gate.set()

    with pytest.raises(Overtaken):
        await posting


async def test_a_client_that_gives_up_does_not_stop_its_command() -> None:
    world = World()
    posting, gate = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    posting.cancel()
    await settle()
    gate.set()

    await world.queue_service.drain()

    assert await world.shown() == [FIRST_UUID]


async def test_accepted_commands_are_counted_and_retries_are_not() -> None:
    world = World()
    await world.post()
    await world.post()
    await world.post("PAD")

    counted = world.metrics.registry.get_sample_value("macromdm_commands_accepted_total")

    assert counted == 2


# --- readers (rule 4)


async def test_a_reader_ends_what_is_left_of_a_past_generation() -> None:
    world = World()
    await world.post()
    await world.apply_authenticate()  # killed before it cleans

    assert await world.shown() == []

    assert world.entry().state is EntryState.DROPPED_REENROLLED


async def test_rule_04_a_reader_shows_what_is_queued_beside_an_authenticate() -> None:
    """It has read the entries; the device enrolls and a command comes; then it reads the
    generation. What it shows as ended must stay ended, what is accepted must not end."""
    world = World()
    await world.post()
    gate = world.at_store.stop("open_entries")
    reading = asyncio.ensure_future(world.shown())
    await world.at_store.reached("open_entries")
    await world.authenticate()
    await world.post(uuid=SECOND_UUID)
    gate.set()

    assert await reading == [SECOND_UUID]

    assert world.entry(MAC, SECOND_UUID).state is EntryState.QUEUED


async def test_rule_04_a_reader_that_wants_to_end_an_entry_shows_what_it_has_become() -> None:
    world = World()
    posting, at_insert = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    await world.apply_authenticate()
    at_stamp = world.at_store.stop("stamp")
    at_insert.set()
    await world.at_store.reached("stamp")
    at_drop = world.at_store.stop("drop")
    reading = asyncio.ensure_future(world.shown())
    await world.at_store.reached("drop")
    at_stamp.set()
    await posting
    at_drop.set()

    assert await reading == [FIRST_UUID]

    assert world.entry().state is EntryState.QUEUED


async def test_a_reader_sees_rested_and_handed_out_commands() -> None:
    world = World()
    await world.post()
    await world.post(uuid=SECOND_UUID)
    marked_sent = await world.connect()
    assert marked_sent is not None
    await world.answer(marked_sent, EntryState.NOT_NOW)

    assert await world.shown() == [FIRST_UUID, SECOND_UUID]


async def test_clearing_ends_what_was_handed_out() -> None:
    world = World()
    await world.post()
    await world.connect()

    await world.open_commands.clear("MAC")

    assert await world.shown() == []
    assert await world.connect() is None


async def test_clearing_a_users_queue_leaves_the_devices_alone() -> None:
    world = World()
    await world.post("MAC")
    await world.post("anna")

    await world.open_commands.clear("anna")

    assert await world.shown("anna") == []
    assert await world.shown("MAC") == [FIRST_UUID]


async def test_nothing_waits_for_an_unknown_device_and_clearing_it_is_no_error() -> None:
    world = World()

    assert await world.shown("NOBODY") == []
    assert await world.open_commands.clear("NOBODY") == 0


# --- removing


async def test_devices_are_removed_by_serial_number_too() -> None:
    world = World()
    await world.post("MAC")

    await world.inventory.remove([], ["C02"])

    assert world.enrollments.records["MAC"] == replace(
        removed(world.enrollments.records["MAC"]), certificate="cert-MAC"
    )
    assert world.entry().state is EntryState.CANCELLED


async def test_removing_again_ends_what_a_killed_removal_left_open() -> None:
    world = World()
    await world.post("MAC")
    world.enrollments.add(removed(world.enrollments.records["MAC"]))

    await world.inventory.remove(["MAC"], [])

    assert world.entry().state is EntryState.CANCELLED


async def test_a_removal_that_is_killed_has_ended_the_commands_before_the_record() -> None:
    world = World()
    await world.post("MAC")
    world.at_store.stop("remove")
    removing = asyncio.ensure_future(world.inventory.remove([], ["C02"]))
    await world.at_store.reached("remove")
    removing.cancel()
    await settle()

    assert world.entry().state is EntryState.CANCELLED


async def test_an_entry_in_a_state_of_a_newer_version_is_not_used_again() -> None:
    world = World()
    await world.post()
    held = replace(world.entry(), state=known(EntryState, "held"))
    world.queue.entries[held.id] = held

    with pytest.raises(OfNewerVersion, match="held"):
        await world.post()
    with pytest.raises(OfNewerVersion, match="held"):
        await world.open_commands.cancel(held)

    assert world.entry() == held
