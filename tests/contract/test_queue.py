"""The contract of `CommandQueue`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.command import Command, EntryState, QueueEntry, Terms
from shared.domain.enrollment import EnrollmentKey
from shared.domain.job import Job, JobState, Progress
from shared.ports.queue import CommandQueue, Jobs, Report, SendClaim, StoredCommands
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.queue import FakeCommandQueue

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OTHER = "gen-2"
FINAL_REPORTS = [EntryState.ACKNOWLEDGED, EntryState.ERROR, EntryState.FORMAT_ERROR]

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")


@dataclass
class Kept:
    """A queue, and what it keeps beside the entries."""

    queue: CommandQueue
    commands: StoredCommands
    jobs: Jobs


@asynccontextmanager
async def open_kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    """On the store that the parameter names."""
    if request.param == "fake":
        fake = FakeCommandQueue()
        yield Kept(fake, fake, fake.jobs)
        return
    from shared.storage.queue.commands import MongoStoredCommands
    from shared.storage.queue.jobs import MongoJobs, indexes
    from shared.storage.queue.store import MongoCommandQueue

    async with open_store(request) as mongo:
        await mongo.ensure(indexes(timedelta(days=30)))
        queue = MongoCommandQueue(mongo, KEYRING)
        yield Kept(queue, MongoStoredCommands(mongo), MongoJobs(mongo))


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    async with open_kept(request) as made:
        yield made


@pytest.fixture
def queue(kept: Kept) -> CommandQueue:
    return kept.queue


def generation_of(device: str) -> str:
    """The generation of a device now; no two devices share one."""
    return f"gen-1-{device}"


def command(letter: str = "a") -> Command:
    plist = f"<plist>{letter}</plist>".encode()
    return Command(letter * 64, f"uuid-{letter}", "DeviceInformation", plist)


def entry(uuid: str = "c1", key: EnrollmentKey = MAC, **changes: object) -> QueueEntry:
    made = QueueEntry(
        enrollment=key.id,
        device=key.device,
        command_uuid=uuid,
        command_hash="a" * 64,
        request_type="DeviceInformation",
        generation=generation_of(key.device),
        order=f"order-{uuid}",
        accepted_at=NOW,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # any field of a QueueEntry


def job(id: str, command_hash: str) -> Job:
    terms, type_ = Terms(), "DeviceInformation"
    return Job(id, "c1", command_hash, type_, terms, False, "ci", total=1, created_at=NOW)


def report(state: EntryState, of: QueueEntry, **changes: object) -> Report:
    made = Report(of.enrollment, of.command_uuid, of.generation, state, event_id="event-1")
    return replace(made, **changes)  # type: ignore[arg-type]  # any field of a Report


async def stored(queue: CommandQueue, of: QueueEntry) -> QueueEntry:
    """What is there under this entry's name (inserting it again changes nothing)."""
    [there] = await queue.insert([of])
    assert there is not None
    return there


async def listed(pages: AsyncIterator[list[QueueEntry]]) -> list[QueueEntry]:
    return [entry async for page in pages for entry in page]


async def mark_sent(queue: CommandQueue, of: QueueEntry, by: str = "connect-1") -> QueueEntry:
    assert await queue.mark_sent([SendClaim(of, of.generation)], by, NOW) == {of.id}
    return await stored(queue, of)


async def finished(
    queue: CommandQueue, state: EntryState, of: QueueEntry | None = None
) -> QueueEntry:
    """An entry that has come to this final state."""
    of = of or entry()
    await queue.insert([of])
    if state is EntryState.CANCELLED:
        await queue.cancel_one(of.enrollment, of.command_uuid)
    elif state is EntryState.DROPPED_REENROLLED:
        await queue.drop(of)
    else:
        await mark_sent(queue, of)
        await queue.report([report(state, of)], NOW)
    there = await stored(queue, of)
    assert there.state is state
    return there


async def late_answer(queue: CommandQueue, of: QueueEntry) -> EntryState | None:
    there = (await stored(queue, of)).late_answer
    return None if there is None else there.state


# --- stored commands


async def test_stored_commands_come_back_byte_for_byte(queue: CommandQueue) -> None:
    await queue.store([command("a"), command("b")], NOW)

    found = await queue.commands({command("a").hash, command("b").hash, "f" * 64})

    assert found == {c.hash: c for c in (command("a"), command("b"))}


async def test_storing_a_command_again_touches_it(kept: Kept) -> None:
    await kept.queue.store([command()], NOW)
    await kept.queue.store([command()], NOW + MINUTE)

    untouched = await kept.commands.untouched("", NOW + 2 * MINUTE)

    assert untouched == {command().hash: NOW + MINUTE}


async def test_a_touch_never_makes_a_command_older(kept: Kept) -> None:
    await kept.queue.store([command()], NOW)
    await kept.queue.store([command()], NOW - MINUTE)

    assert await kept.commands.untouched("", NOW + MINUTE) == {command().hash: NOW}


async def test_two_of_the_same_command_in_one_flush_are_stored_once(queue: CommandQueue) -> None:
    await queue.store([command(), command()], NOW)

    assert set(await queue.commands({command().hash})) == {command().hash}


async def test_untouched_takes_only_its_prefix_and_only_what_is_old(kept: Kept) -> None:
    await kept.queue.store([command("a"), command("b")], NOW)
    await kept.queue.store([replace(command("c"), hash="a" + "c" * 63)], NOW + MINUTE)

    assert await kept.commands.untouched("a", NOW + MINUTE) == {"a" * 64: NOW}
    assert set(await kept.commands.untouched("b", NOW + MINUTE)) == {"b" * 64}
    assert await kept.commands.untouched("aa", NOW) == {}


async def test_a_command_with_a_finished_entry_is_in_use(kept: Kept) -> None:
    await finished(kept.queue, EntryState.ACKNOWLEDGED, entry("c1", command_hash="a" * 64))
    await kept.queue.insert([entry("c2", command_hash="b" * 64)])

    in_use = await kept.commands.in_use({"a" * 64, "b" * 64, "c" * 64})

    assert in_use == {"a" * 64, "b" * 64}


async def test_rule_13_a_command_is_forgotten_only_if_nobody_touched_it(
    kept: Kept,
) -> None:
    await kept.queue.store([command("a"), command("b")], NOW)
    seen = await kept.commands.untouched("", NOW + MINUTE)
    await kept.queue.store([command("b")], NOW + MINUTE)

    forgotten = await kept.commands.forget(seen)

    assert forgotten == 1
    assert set(await kept.queue.commands({"a" * 64, "b" * 64})) == {"b" * 64}


async def test_rule_13_what_has_an_entry_or_a_job_that_runs_is_in_use(kept: Kept) -> None:
    hashes = {letter * 64 for letter in "abcdef"}
    for letter in "bcd":
        await kept.jobs.add(job(letter, command_hash=letter * 64))
    await kept.jobs.finish("c", Progress(), NOW)
    await kept.jobs.finish("d", Progress(), NOW, "failed")
    await kept.jobs.add(replace(job("1", command_hash="e" * 64), state=JobState.FINISHED))
    await kept.queue.insert([entry()])

    assert await kept.commands.in_use(hashes) == {"a" * 64, "b" * 64}
    assert await kept.commands.in_use({"a" * 64}) == {"a" * 64}
    assert await kept.commands.in_use({"f" * 64}) == set()


# --- insert, stamp, requeue, drop


async def test_a_new_entry_is_open_and_of_its_generation(queue: CommandQueue) -> None:
    new = entry(priority=3)

    assert await queue.insert([new]) == [None]

    assert await queue.open_entries(MAC) == [new]


async def test_an_entry_without_a_generation_comes_back_as_it_was(queue: CommandQueue) -> None:
    new = entry(generation=None)
    await queue.insert([new])

    assert await queue.open_entries(MAC) == [new]


async def test_inserting_a_uuid_again_gives_the_entry_that_is_there(queue: CommandQueue) -> None:
    first = entry("c1", command_hash="a" * 64)
    await queue.insert([first])

    there = await queue.insert([entry("c1", command_hash="b" * 64), entry("c2")])

    assert there == [first, None]


async def test_of_two_equal_entries_in_one_flush_the_first_is_new(queue: CommandQueue) -> None:
    first, second = entry(order="order-1"), entry(order="order-2")

    assert await queue.insert([first, second]) == [None, first]


async def test_one_uuid_may_stand_in_many_queues(queue: CommandQueue) -> None:
    entries = [entry("c1", key) for key in (MAC, ANNA, PAD)]

    assert await queue.insert(entries) == [None, None, None]


async def test_ids_and_uuids_that_join_to_the_same_text_stay_apart(queue: CommandQueue) -> None:
    one = entry("b:c", EnrollmentKey("a", device="a", udid="a"))
    other = entry("c", EnrollmentKey("a:b", device="a", udid="a", user="b"))

    assert await queue.insert([one, other]) == [None, None]


async def test_an_open_entry_can_be_stamped_anew(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    await queue.stamp(entry(), OTHER)

    assert (await stored(queue, entry())).generation == OTHER


@pytest.mark.parametrize("state", [EntryState.CANCELLED, EntryState.ACKNOWLEDGED])
async def test_a_final_entry_is_not_stamped(queue: CommandQueue, state: EntryState) -> None:
    before = await finished(queue, state)

    await queue.stamp(before, OTHER)

    assert await stored(queue, before) == before


@pytest.mark.parametrize(
    "state", [*FINAL_REPORTS, EntryState.CANCELLED, EntryState.DROPPED_REENROLLED]
)
async def test_a_final_entry_can_be_queued_anew(queue: CommandQueue, state: EntryState) -> None:
    before = await finished(queue, state)
    again = entry(order="order-9", generation=OTHER, priority=2, accepted_at=NOW + MINUTE)

    assert await queue.requeue(again, before) is True

    assert await queue.open_entries(MAC) == [again]


async def test_an_open_entry_is_not_queued_anew(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    assert await queue.requeue(entry(order="order-9"), entry()) is False

    assert await queue.open_entries(MAC) == [entry()]


async def test_rule_05_only_one_of_two_queues_a_final_entry_anew(queue: CommandQueue) -> None:
    before = await finished(queue, EntryState.CANCELLED)

    outcomes = await asyncio.gather(
        queue.requeue(entry(order="order-8"), before), queue.requeue(entry(order="order-9"), before)
    )

    assert sorted(outcomes) == [False, True]


async def test_an_entry_that_ended_again_meanwhile_is_not_queued_anew(queue: CommandQueue) -> None:
    before = await finished(queue, EntryState.CANCELLED)
    await queue.requeue(entry(order="order-8"), before)
    await queue.cancel_one("MAC", "c1")

    assert await queue.requeue(entry(order="order-9"), before) is False


async def test_dropping_ends_an_open_entry_of_the_generation_seen(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    dropped = await queue.drop(entry())

    assert dropped is not None
    assert dropped.state is EntryState.DROPPED_REENROLLED
    assert dropped.finished_at is not None
    assert await stored(queue, entry()) == dropped


async def test_dropping_shows_an_entry_that_was_stamped_anew_unchanged(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    await queue.stamp(entry(), OTHER)

    there = await queue.drop(entry())

    assert there == entry(generation=OTHER)
    assert await queue.open_entries(MAC) == [entry(generation=OTHER)]


async def test_dropping_shows_a_final_entry_unchanged(queue: CommandQueue) -> None:
    before = await finished(queue, EntryState.ACKNOWLEDGED)

    assert await queue.drop(before) == before
    assert await stored(queue, before) == before


async def test_dropping_an_entry_that_is_gone_shows_nothing(queue: CommandQueue) -> None:
    assert await queue.drop(entry()) is None


async def test_an_entry_without_a_generation_can_be_dropped(queue: CommandQueue) -> None:
    await queue.insert([entry(generation=None)])

    dropped = await queue.drop(entry(generation=None))

    assert dropped is not None
    assert dropped.state is EntryState.DROPPED_REENROLLED


# --- reading and cancelling


async def test_open_entries_are_in_order_of_priority_then_acceptance(queue: CommandQueue) -> None:
    await queue.insert(
        [
            entry("late", order="order-3"),
            entry("early", order="order-1"),
            entry("urgent", order="order-9", priority=1),
            entry("middle", order="order-2"),
            entry("lazy", order="order-0", priority=10),
        ]
    )

    found = [p.command_uuid for p in await queue.open_entries(MAC)]

    assert found == ["urgent", "early", "middle", "late", "lazy"]


async def test_open_entries_are_of_any_generation_and_of_this_enrollment_only(
    queue: CommandQueue,
) -> None:
    mine = [entry("c1"), entry("c2", generation=OTHER), entry("c3", generation=None)]
    await queue.insert([*mine, entry("c4", ANNA), entry("c5", PAD)])
    await finished(queue, EntryState.ACKNOWLEDGED, entry("c6"))

    found = await queue.open_entries(MAC)

    assert found == mine


async def test_cancelling_ends_all_open_entries_of_these_enrollments(queue: CommandQueue) -> None:
    done = await finished(queue, EntryState.ACKNOWLEDGED, entry("c1"))
    sent, queued, user = entry("c2"), entry("c3"), entry("c4", ANNA)
    await queue.insert([sent, queued, user, entry("c5", PAD)])
    await mark_sent(queue, sent)

    assert await queue.cancel([MAC, ANNA]) == 3

    for ended in (sent, queued, user):
        there = await stored(queue, ended)
        assert there.state is EntryState.CANCELLED
        assert there.finished_at is not None
    assert await stored(queue, done) == done
    assert await queue.open_entries(PAD) == [entry("c5", PAD)]


async def test_cancelling_again_ends_nothing(queue: CommandQueue) -> None:
    await finished(queue, EntryState.CANCELLED)

    assert await queue.cancel([MAC]) == 0


async def test_one_command_can_be_cancelled(queue: CommandQueue) -> None:
    await queue.insert([entry("c1"), entry("c2"), entry("c1", PAD)])

    assert await queue.cancel_one("MAC", "c1") is True

    assert (await stored(queue, entry("c1"))).state is EntryState.CANCELLED
    assert await queue.open_entries(MAC) == [entry("c2")]
    assert await queue.open_entries(PAD) == [entry("c1", PAD)]


async def test_a_command_that_is_final_or_unknown_is_not_cancelled(queue: CommandQueue) -> None:
    done = await finished(queue, EntryState.ACKNOWLEDGED)

    assert await queue.cancel_one("MAC", "c1") is False
    assert await queue.cancel_one("MAC", "unknown") is False
    assert await stored(queue, done) == done


async def test_cancelling_one_of_another_order_changes_nothing(queue: CommandQueue) -> None:
    await queue.insert([entry("c1")])

    assert await queue.cancel_one("MAC", "c1", "order-before") is False
    assert await queue.open_entries(MAC) == [entry("c1")]
    assert await queue.cancel_one("MAC", "c1", "order-c1") is True


async def test_has_due_names_enrollments_with_an_open_entry(queue: CommandQueue) -> None:
    await finished(queue, EntryState.ACKNOWLEDGED, entry("c1", MAC))
    await queue.insert([entry("c2", ANNA)])
    rested = entry("c3", PAD)
    await queue.insert([rested])
    await mark_sent(queue, rested)
    await queue.report([report(EntryState.NOT_NOW, rested)], NOW)

    assert await queue.has_due([MAC, ANNA, PAD], NOW) == {"MAC:anna", "PAD"}


async def test_accepted_between_takes_open_entries_of_a_closed_window(queue: CommandQueue) -> None:
    times = {"c1": NOW - MINUTE, "c2": NOW, "c3": NOW + MINUTE, "c4": NOW + 2 * MINUTE}
    await queue.insert([entry(uuid, accepted_at=at) for uuid, at in times.items()])
    await finished(queue, EntryState.CANCELLED, entry("c5", accepted_at=NOW))

    found = await listed(queue.accepted_between(NOW, NOW + MINUTE))

    assert {p.command_uuid for p in found} == {"c2", "c3"}


# --- sending


async def test_handing_out_marks_the_entry(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    marked_sent = await mark_sent(queue, entry(), by="connect-7")

    assert marked_sent == entry(
        state=EntryState.SENT,
        handed_by="connect-7",
        handed_at=NOW,
        first_handed_at=NOW,
        attempts=1,
    )


async def test_an_entry_is_handed_out_again_until_it_is_final(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    await mark_sent(queue, entry(), by="connect-1")

    again = await mark_sent(queue, entry(), by="connect-2")

    assert again == entry(
        state=EntryState.SENT,
        handed_by="connect-2",
        handed_at=NOW,
        first_handed_at=NOW,
        attempts=2,
    )


async def test_a_rested_entry_is_handed_out_again(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    await mark_sent(queue, entry())
    await queue.report([report(EntryState.NOT_NOW, entry())], NOW)

    again = await mark_sent(queue, entry(), by="connect-2")

    assert again.state is EntryState.SENT


@pytest.mark.parametrize("state", [EntryState.CANCELLED, EntryState.ACKNOWLEDGED])
async def test_a_final_entry_is_not_handed_out(queue: CommandQueue, state: EntryState) -> None:
    done = await finished(queue, state)

    marked_sent = await queue.mark_sent([SendClaim(done, done.generation)], "connect-2", NOW)

    assert marked_sent == set()
    assert await stored(queue, done) == done


async def test_an_entry_of_another_generation_is_not_handed_out(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    marked_sent = await queue.mark_sent([SendClaim(entry(), OTHER)], "connect-1", NOW)

    assert marked_sent == set()
    assert await queue.open_entries(MAC) == [entry()]


async def test_an_entry_from_before_the_device_was_known_goes_to_any_generation(
    queue: CommandQueue,
) -> None:
    nameless = entry(generation=None)
    await queue.insert([nameless])

    assert await queue.mark_sent([SendClaim(nameless, OTHER)], "connect-1", NOW) == {nameless.id}


async def test_rule_03_a_bulk_hand_out_tells_which_entries_it_got(queue: CommandQueue) -> None:
    mine, stale, cancelled = entry("c1"), entry("c2", PAD), entry("c3", ANNA)
    await queue.insert([mine, stale, cancelled])
    await queue.cancel([ANNA])

    marked_sent = await queue.mark_sent(
        [
            SendClaim(mine, mine.generation),
            SendClaim(stale, OTHER),
            SendClaim(cancelled, cancelled.generation),
        ],
        "connect-1",
        NOW,
    )

    assert marked_sent == {mine.id}


async def test_two_hand_outs_at_once_leave_one_name_on_the_entry(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    first, second = await asyncio.gather(
        queue.mark_sent([SendClaim(entry(), entry().generation)], "connect-1", NOW),
        queue.mark_sent([SendClaim(entry(), entry().generation)], "connect-2", NOW),
    )

    name = (await stored(queue, entry())).handed_by
    assert name in {"connect-1", "connect-2"}
    assert entry().id in (first if name == "connect-1" else second)


async def test_rule_03_a_cancel_beside_a_hand_out_wins_or_loses_never_both(
    queue: CommandQueue,
) -> None:
    entries = [entry(f"c{n}") for n in range(20)]
    await queue.insert(entries)

    async with asyncio.TaskGroup() as beside:
        handing = beside.create_task(
            queue.mark_sent([SendClaim(p, p.generation) for p in entries], "connect-1", NOW)
        )
        cancels = [
            beside.create_task(queue.cancel_one("MAC", p.command_uuid)) for p in entries[::2]
        ]
    marked_sent = handing.result()

    # A cancel may come after the send; but what it ended first was not sent.
    assert all(cancel.result() for cancel in cancels)
    for p in entries:
        there = await stored(queue, p)
        if there.handed_by is None:
            assert p.id not in marked_sent


async def test_open_of_devices_has_all_channels_in_queue_order(queue: CommandQueue) -> None:
    mac = [
        entry("c3", ANNA, priority=1),
        entry("c1", MAC, order="order-1"),
        entry("c2", ANNA, order="order-2"),
        entry("c4", MAC, order="order-4", generation=OTHER),
    ]
    await queue.insert([mac[2], mac[0], entry("c5", PAD), mac[3], mac[1]])
    await finished(queue, EntryState.CANCELLED, entry("c6", order="order-0"))

    found = await queue.open_of_devices({"MAC", "PAD", "NOBODY"})

    assert [*(found["MAC"] or ())] == mac
    assert [*(found["PAD"] or ())] == [entry("c5", PAD)]
    assert mac[0] in (found["MAC"] or ())
    assert not found.get("NOBODY")


async def test_what_open_of_devices_gives_can_be_handed_out(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    [found] = (await queue.open_of_devices({"MAC"}))["MAC"]

    assert await queue.mark_sent([SendClaim(found, found.generation)], "connect-1", NOW) == {
        entry().id
    }


# --- reports


@pytest.mark.parametrize("state", FINAL_REPORTS)
async def test_a_report_closes_the_entry(queue: CommandQueue, state: EntryState) -> None:
    await queue.insert([entry()])
    await mark_sent(queue, entry())

    await queue.report([report(state, entry())], NOW + MINUTE)

    there = await stored(queue, entry())
    assert there.state is state
    assert there.finished_at == NOW + MINUTE
    assert await queue.open_entries(MAC) == []


async def test_not_now_rests_the_entry_and_keeps_it_open(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    await mark_sent(queue, entry())

    closed = await queue.report([report(EntryState.NOT_NOW, entry())], NOW)

    assert closed == 0

    [rested] = await queue.open_entries(MAC)
    assert rested.state is EntryState.NOT_NOW
    assert rested.finished_at is None


async def test_a_rested_entry_is_closed_by_a_later_answer(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    await mark_sent(queue, entry())
    await queue.report([report(EntryState.NOT_NOW, entry())], NOW)

    await queue.report([report(EntryState.ACKNOWLEDGED, entry())], NOW)

    assert (await stored(queue, entry())).state is EntryState.ACKNOWLEDGED


async def test_a_report_of_another_generation_changes_nothing(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    before = await mark_sent(queue, entry())

    await queue.report([report(EntryState.ACKNOWLEDGED, entry(), generation=OTHER)], NOW)

    assert await stored(queue, entry()) == before


async def test_a_report_closes_an_entry_from_before_the_device_was_known(
    queue: CommandQueue,
) -> None:
    nameless = entry(generation=None)
    await queue.insert([nameless])
    await queue.mark_sent([SendClaim(nameless, OTHER)], "connect-1", NOW)

    await queue.report([report(EntryState.ACKNOWLEDGED, nameless, generation=OTHER)], NOW)

    assert (await stored(queue, nameless)).state is EntryState.ACKNOWLEDGED


async def test_a_report_of_an_entry_that_was_never_handed_out_changes_nothing(
    queue: CommandQueue,
) -> None:
    await queue.insert([entry()])

    await queue.report([report(EntryState.ACKNOWLEDGED, entry())], NOW)

    assert await queue.open_entries(MAC) == [entry()]


async def test_rule_05_a_late_report_does_not_close_an_entry_that_was_queued_anew(
    queue: CommandQueue,
) -> None:
    before = await finished(queue, EntryState.ACKNOWLEDGED)
    again = entry(order="order-9")
    await queue.requeue(again, before)

    await queue.report([report(EntryState.ACKNOWLEDGED, entry())], NOW)

    assert await queue.open_entries(MAC) == [again]


@pytest.mark.parametrize("first", [EntryState.CANCELLED, EntryState.ACKNOWLEDGED])
async def test_rule_05_a_final_state_is_written_once(
    queue: CommandQueue, first: EntryState
) -> None:
    done = await finished(queue, first)

    await queue.report([report(EntryState.ERROR, entry())], NOW + MINUTE)
    await queue.report([report(EntryState.NOT_NOW, entry())], NOW + MINUTE)

    there = await stored(queue, entry())
    assert replace(there, late_answer=None) == done


async def test_a_report_of_an_unknown_command_makes_no_entry(queue: CommandQueue) -> None:
    await queue.report([report(EntryState.ACKNOWLEDGED, entry())], NOW)

    assert await queue.insert([entry()]) == [None]


async def test_reports_in_bulk_are_each_on_their_own_condition(queue: CommandQueue) -> None:
    marked_sent, waiting, gone = entry("c1"), entry("c2", PAD), entry("c3", ANNA)
    await queue.insert([marked_sent, waiting, gone])
    await mark_sent(queue, marked_sent)
    await queue.cancel([ANNA])

    closed = await queue.report(
        [report(EntryState.ACKNOWLEDGED, p) for p in (waiting, gone, marked_sent)], NOW
    )

    assert closed == 1
    assert (await stored(queue, marked_sent)).state is EntryState.ACKNOWLEDGED
    assert (await stored(queue, waiting)).state is EntryState.QUEUED
    assert (await stored(queue, gone)).state is EntryState.CANCELLED


async def test_a_repeated_report_changes_nothing(queue: CommandQueue) -> None:
    done = await finished(queue, EntryState.ACKNOWLEDGED)

    await queue.report([report(EntryState.ACKNOWLEDGED, done)], NOW + MINUTE)

    assert await stored(queue, done) == done


async def test_rule_05_a_report_that_finds_another_final_state_is_kept(kept: Kept) -> None:
    cancelled = await finished(kept.queue, EntryState.CANCELLED)

    await kept.queue.report([report(EntryState.ACKNOWLEDGED, cancelled)], NOW)

    assert await late_answer(kept.queue, cancelled) is EntryState.ACKNOWLEDGED


async def test_a_report_that_comes_twice_is_not_kept_as_a_late_answer(kept: Kept) -> None:
    done = await finished(kept.queue, EntryState.ACKNOWLEDGED)

    await kept.queue.report([report(EntryState.ACKNOWLEDGED, done, event_id="event-2")], NOW)

    assert await late_answer(kept.queue, done) is None


async def test_a_report_on_an_open_entry_that_it_may_not_close_is_not_kept(kept: Kept) -> None:
    waiting, marked_sent = entry("c1"), entry("c2", PAD)
    await kept.queue.insert([waiting, marked_sent])
    await mark_sent(kept.queue, marked_sent)

    await kept.queue.report(
        [
            report(EntryState.ACKNOWLEDGED, waiting),
            report(EntryState.ACKNOWLEDGED, marked_sent, generation=OTHER),
        ],
        NOW,
    )

    assert await late_answer(kept.queue, waiting) is None
    assert await late_answer(kept.queue, marked_sent) is None


async def test_beside_a_late_report_those_in_time_are_not_kept_as_late(kept: Kept) -> None:
    cancelled = await finished(kept.queue, EntryState.CANCELLED, entry("c1"))
    marked_sent = entry("c2", PAD)
    await kept.queue.insert([marked_sent])
    await mark_sent(kept.queue, marked_sent)

    await kept.queue.report([report(EntryState.ERROR, p) for p in (cancelled, marked_sent)], NOW)

    assert await late_answer(kept.queue, cancelled) is EntryState.ERROR
    assert await late_answer(kept.queue, marked_sent) is None


async def test_an_entry_that_is_queued_anew_has_no_late_answer(kept: Kept) -> None:
    cancelled = await finished(kept.queue, EntryState.CANCELLED)
    await kept.queue.report([report(EntryState.ACKNOWLEDGED, cancelled)], NOW)

    await kept.queue.requeue(entry(order="order-9"), cancelled)

    assert await late_answer(kept.queue, cancelled) is None


# --- generations


async def test_ending_a_generation_drops_its_open_entries_of_all_channels(
    queue: CommandQueue,
) -> None:
    old, user, rested = entry("c1"), entry("c2", ANNA), entry("c3")
    from_before = entry("c5", generation=None)
    newer, elsewhere = entry("c4", generation=OTHER), entry("c6", PAD)
    await queue.insert([old, user, rested, newer, from_before, elsewhere])
    await mark_sent(queue, rested)
    await queue.report([report(EntryState.NOT_NOW, rested)], NOW)
    done = await finished(queue, EntryState.ACKNOWLEDGED, entry("c7"))

    assert await queue.end_generation("MAC", generation_of("MAC")) == 4

    for ended in (old, user, rested, from_before):
        there = await stored(queue, ended)
        assert there.state is EntryState.DROPPED_REENROLLED
        assert there.finished_at is not None
    assert await queue.open_entries(MAC) == [newer]
    assert await queue.open_entries(PAD) == [elsewhere]
    assert await stored(queue, done) == done
