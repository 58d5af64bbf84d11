"""The contract of `CommandQueue` and `Expiries` for times, collapse keys and lists; on fake and MongoDB."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.command import EntryState, QueueEntry
from shared.ports.queue import CommandQueue, EntryWindow, Expiries, Rival, SendClaim
from shared.storage.queue import documents
from shared.times import EARLIEST, EPOCH
from tests.contract.stores import KEYRING, STORES, open_store
from tests.contract.test_queue import (
    ANNA,
    MAC,
    MINUTE,
    NOW,
    PAD,
    entry,
    finished,
    listed,
    mark_sent,
    report,
    stored,
)
from tests.support.fakes.queue import FakeCommandQueue

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass
class Kept:
    queue: CommandQueue
    expiries: Expiries


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "fake":
        fake = FakeCommandQueue()
        fake.now = datetime.now(UTC)
        yield Kept(fake, fake)
        return
    from shared.storage.queue.expiries import MongoExpiries
    from shared.storage.queue.store import MongoCommandQueue

    async with open_store(request) as mongo:
        yield Kept(MongoCommandQueue(mongo, KEYRING), MongoExpiries(mongo))


@pytest.fixture
def queue(kept: Kept) -> CommandQueue:
    return kept.queue


async def states(queue: CommandQueue, *entries: QueueEntry) -> list[EntryState]:
    there = await queue.entries_of([entry.id for entry in entries])
    return [there[entry.id].state for entry in entries]


# --- what is kept


async def test_an_entry_comes_back_with_its_terms(queue: CommandQueue) -> None:
    of = entry(priority=0, not_before=NOW, expires_at=NOW + MINUTE, collapse_key="k")

    await queue.insert([of])

    assert await queue.entries_of([of.id, "nobody"]) == {of.id: of}


async def test_an_entry_tells_when_it_was_handed_out_and_answered(queue: CommandQueue) -> None:
    done = await finished(queue, EntryState.ACKNOWLEDGED)

    assert (done.handed_at, done.answered_at, done.finished_at) == (NOW, NOW, NOW)


async def test_an_entry_that_is_queued_anew_has_only_its_new_terms(queue: CommandQueue) -> None:
    old = entry(not_before=NOW, expires_at=FAR, collapse_key="k")
    done = await finished(queue, EntryState.ACKNOWLEDGED, old)
    anew = entry(order="order-9")

    assert await queue.requeue(anew, done)

    assert await stored(queue, anew) == anew


# --- times


async def test_only_what_is_due_counts_for_a_push(queue: CommandQueue) -> None:
    later, over = entry("c1", not_before=NOW + MINUTE), entry("c2", ANNA, expires_at=NOW)
    await queue.insert([later, over, entry("c3", PAD, not_before=NOW, expires_at=NOW + MINUTE)])

    assert await queue.has_due([MAC, ANNA, PAD], NOW) == {"PAD"}
    assert await queue.has_due([MAC, ANNA, PAD], NOW + MINUTE) == {"MAC"}


async def test_beginning_between_finds_open_entries_in_a_closed_window(queue: CommandQueue) -> None:
    first, last = entry("c1", not_before=NOW), entry("c2", not_before=NOW + MINUTE)
    done = entry("c3", PAD, not_before=NOW)
    await queue.insert([first, last, entry("c4"), entry("c5", not_before=NOW + 2 * MINUTE)])
    await finished(queue, EntryState.ACKNOWLEDGED, done)

    found = await listed(queue.beginning_between(NOW, NOW + MINUTE))

    assert {each.id for each in found} == {first.id, last.id}


async def test_what_is_over_ends_as_expired_once_and_waits_to_be_announced(kept: Kept) -> None:
    over, not_over = entry("c1", expires_at=NOW), entry("c2", expires_at=NOW + MINUTE)
    await kept.queue.insert([over, not_over, entry("c3")])

    overdue = await listed(kept.expiries.overdue(NOW))
    ended = (await kept.expiries.expire(overdue, NOW)).get(over.id)

    assert [each.id for each in overdue] == [over.id]
    assert ended is not None
    assert (ended.state, ended.finished_at) == (EntryState.EXPIRED, NOW)
    assert await listed(kept.expiries.overdue(NOW)) == []
    assert [each.id for each in await listed(kept.expiries.unpublished(NOW + MINUTE))] == [over.id]
    assert await listed(kept.expiries.unpublished(NOW)) == []
    assert await kept.expiries.is_unpublished(ended)
    await kept.expiries.published([ended])
    assert await listed(kept.expiries.unpublished(NOW + MINUTE)) == []
    assert not await kept.expiries.is_unpublished(ended)


@pytest.mark.parametrize(
    "times",
    [
        {"not_before": NOW - MINUTE},
        {"not_before": EPOCH - MINUTE},
        {"not_before": EARLIEST},  # Go's zero time
        {"not_before": EARLIEST, "expires_at": EPOCH - MINUTE},
        {"expires_at": EARLIEST},
    ],
)
async def test_rule_05_what_began_before_any_date_expires_and_is_told(
    kept: Kept, times: dict[str, datetime]
) -> None:
    of = entry(**{"expires_at": NOW, **times})
    await kept.queue.insert([of, entry("c2", not_before=EARLIEST)])

    overdue = await listed(kept.expiries.overdue(NOW))
    await kept.expiries.expire([of], NOW)
    told = await listed(kept.expiries.unpublished(NOW + MINUTE))

    assert [[each.id for each in found] for found in (overdue, told)] == [[of.id], [of.id]]


@pytest.mark.parametrize("state", [EntryState.ACKNOWLEDGED, EntryState.CANCELLED])
async def test_rule_05_what_ended_does_not_expire(kept: Kept, state: EntryState) -> None:
    of = entry(expires_at=FAR)
    await finished(kept.queue, state, of)

    there = (await kept.expiries.expire([of], FAR)).get(of.id)

    assert there is not None
    assert there.state is state
    assert await listed(kept.expiries.overdue(FAR)) == []
    assert await listed(kept.expiries.unpublished(FAR + MINUTE)) == []


async def test_of_many_only_those_expire_that_are_overdue(kept: Kept) -> None:
    over = [entry(uuid=f"c-{n}", order=f"order-{n}", expires_at=NOW) for n in range(3)]
    later = entry(uuid="later", order="order-8", expires_at=NOW + MINUTE)
    for_ever = entry(uuid="for ever", order="order-9")
    gone = entry(uuid="gone", order="order-7", expires_at=NOW)
    await kept.queue.insert([*over, later, for_ever])

    there = await kept.expiries.expire([*over, later, for_ever, gone], NOW)

    assert {each.id for each in there.values() if each.state is EntryState.EXPIRED} == {
        each.id for each in over
    }
    assert {later.id, for_ever.id} < there.keys()
    assert gone.id not in there


async def test_an_entry_queued_anew_does_not_expire_for_the_time_before(kept: Kept) -> None:
    old = entry(expires_at=NOW)
    await kept.queue.insert([old])
    ended = (await kept.expiries.expire([old], NOW)).get(old.id)
    assert ended is not None
    anew = entry(order="order-9", expires_at=NOW + MINUTE)
    assert await kept.queue.requeue(anew, ended)

    await kept.expiries.expire([old], NOW)
    await kept.expiries.published([old])

    assert await states(kept.queue, anew) == [EntryState.QUEUED]
    assert not await kept.expiries.is_unpublished(ended)
    assert await listed(kept.expiries.unpublished(NOW + MINUTE)) == []


async def test_an_expired_entry_is_not_handed_out(kept: Kept) -> None:
    over = entry(expires_at=NOW)
    await kept.queue.insert([over])
    await kept.expiries.expire([over], NOW)

    assert await kept.queue.open_of_devices({"MAC"}) == {}
    with pytest.raises(AssertionError):
        await mark_sent(kept.queue, over)


async def test_rule_05_what_is_over_by_the_stores_own_clock_is_not_handed_out(kept: Kept) -> None:
    """The process that sends is behind: its clock, or itself, since it looked."""
    over, other = entry("c1", expires_at=NOW), entry("c2", expires_at=FAR)
    for_ever = entry("c3")
    await kept.queue.insert([over, other, for_ever])
    asked = [SendClaim(each, each.generation) for each in (over, other, for_ever)]

    marked_sent = await kept.queue.mark_sent(asked, "by", NOW - MINUTE)

    assert marked_sent == {other.id, for_ever.id}
    assert await kept.queue.mark_sent(asked[:1], "by", NOW - MINUTE) == set()


async def test_rule_05_an_answer_after_the_expiry_is_kept_as_late(kept: Kept) -> None:
    over = entry(expires_at=FAR)
    await kept.queue.insert([over])
    await mark_sent(kept.queue, over)
    await kept.expiries.expire([over], FAR)

    await kept.queue.report([report(EntryState.ACKNOWLEDGED, over)], NOW + MINUTE)

    there = await stored(kept.queue, over)
    assert there.state is EntryState.EXPIRED
    assert there.late_answer is not None
    assert there.late_answer.state is EntryState.ACKNOWLEDGED
    assert there.late_answer.at == NOW + MINUTE


# --- collapse keys


async def test_the_newest_of_a_collapse_key_supersedes_the_older_ones(queue: CommandQueue) -> None:
    first, second, third = (entry(f"c{n}", collapse_key="k") for n in (1, 2, 3))
    await queue.insert([third, first, second])

    ended = await queue.supersede([second])

    assert ended == 2
    assert await states(queue, first, second, third) == [
        EntryState.SUPERSEDED,
        EntryState.SUPERSEDED,
        EntryState.QUEUED,
    ]
    assert (await stored(queue, first)).finished_at is not None
    assert [(await stored(queue, each)).superseded_by for each in (first, second, third)] == [
        third.command_uuid,
        third.command_uuid,
        None,
    ]


async def test_each_of_many_is_superseded_by_the_newest_of_its_own_key(queue: CommandQueue) -> None:
    pairs = [
        (entry(f"a{n}", of, collapse_key=key), entry(f"b{n}", of, collapse_key=key))
        for n, (of, key) in enumerate([(MAC, "k"), (MAC, "l"), (ANNA, "k"), (PAD, "k")])
    ]
    await queue.insert([each for pair in pairs for each in pair])

    assert await queue.supersede([newest for _, newest in pairs]) == len(pairs)

    by = [(await stored(queue, older)).superseded_by for older, _ in pairs]
    assert by == [newest.command_uuid for _, newest in pairs]


async def test_what_is_queued_anew_is_superseded_by_nothing(queue: CommandQueue) -> None:
    older, newest = entry("c1", collapse_key="k"), entry("c2", collapse_key="k")
    await queue.insert([older, newest])
    await queue.supersede([newest])
    anew = entry("c1", order="order-9")

    assert await queue.requeue(anew, await stored(queue, older))

    assert await stored(queue, anew) == anew


async def test_what_is_superseded_waits_to_be_announced(kept: Kept) -> None:
    older = entry("c1", collapse_key="k", not_before=FAR, expires_at=2 * (FAR - NOW) + NOW)
    newest, other = entry("c2", collapse_key="k"), entry("c3")
    await kept.queue.insert([older, newest, other])
    await kept.queue.supersede([newest])
    ended = await stored(kept.queue, older)
    assert ended.finished_at is not None
    after = ended.finished_at + MINUTE

    assert [each.id for each in await listed(kept.expiries.unpublished(after))] == [older.id]
    assert await listed(kept.expiries.unpublished(ended.finished_at)) == []
    assert await kept.expiries.is_unpublished(ended)
    assert not await kept.expiries.is_unpublished(newest)
    await kept.expiries.published([replace(ended, order="order-9")])
    assert await kept.expiries.is_unpublished(ended)
    await kept.expiries.published([ended])
    assert await listed(kept.expiries.unpublished(after)) == []
    assert not await kept.expiries.is_unpublished(ended)


async def test_what_is_superseded_and_queued_anew_is_not_to_be_announced(kept: Kept) -> None:
    older, newest = entry("c1", collapse_key="k"), entry("c2", collapse_key="k")
    await kept.queue.insert([older, newest])
    await kept.queue.supersede([newest])
    ended = await stored(kept.queue, older)
    assert ended.finished_at is not None

    assert await kept.queue.requeue(entry("c1", order="order-9"), ended)

    assert not await kept.expiries.is_unpublished(ended)
    assert await listed(kept.expiries.unpublished(ended.finished_at + MINUTE)) == []


async def test_the_rivals_of_an_entry_are_all_open_ones_of_its_collapse_key(
    queue: CommandQueue,
) -> None:
    sent, waits = entry("c3", collapse_key="k"), entry("c1", collapse_key="k")
    other, hers = entry("c5", collapse_key="other"), entry("c6", ANNA, collapse_key="k")
    await queue.insert([sent, waits, other, hers, entry("c7", PAD), entry("c8")])
    await mark_sent(queue, sent)
    await finished(queue, EntryState.CANCELLED, entry("c9", collapse_key="k"))

    asked = [entry("new", collapse_key="k"), entry("new", PAD, collapse_key="other")]

    assert {each.command_uuid: each for each in await queue.rivals(asked)} == {
        "c3": Rival("MAC", "c3", "k", sent.order, can_lose=False),
        "c1": Rival("MAC", "c1", "k", waits.order, can_lose=True),
    }


async def test_other_keys_and_other_enrollments_are_not_superseded(queue: CommandQueue) -> None:
    others = [
        entry("c1", collapse_key="other"),
        entry("c2", ANNA, collapse_key="k"),
        entry("c3", PAD, collapse_key="k"),
        entry("c4"),
    ]
    newest = entry("c9", collapse_key="k")
    await queue.insert([*others, newest])

    assert await queue.supersede([newest]) == 0

    assert set(await states(queue, *others, newest)) == {EntryState.QUEUED}


async def test_what_the_device_has_had_is_not_superseded(queue: CommandQueue) -> None:
    sent, rested = entry("c1", collapse_key="k"), entry("c2", collapse_key="k")
    newest = entry("c9", collapse_key="k")
    await queue.insert([sent, rested])
    await mark_sent(queue, sent)
    await mark_sent(queue, rested)
    await queue.report([report(EntryState.NOT_NOW, rested)], NOW)
    await queue.insert([newest])

    assert await queue.supersede([newest]) == 0

    assert await states(queue, sent, rested) == [EntryState.SENT, EntryState.NOT_NOW]


async def test_history_is_not_superseded(queue: CommandQueue) -> None:
    done = entry("c1", collapse_key="k")
    await finished(queue, EntryState.CANCELLED, done)
    newest = entry("c9", collapse_key="k")
    await queue.insert([newest])

    assert await queue.supersede([newest]) == 0

    assert await states(queue, done) == [EntryState.CANCELLED]


async def test_a_superseded_entry_is_not_handed_out(queue: CommandQueue) -> None:
    older, newest = entry("c1", collapse_key="k"), entry("c2", collapse_key="k")
    await queue.insert([older, newest])
    await queue.supersede([newest])

    with pytest.raises(AssertionError):
        await mark_sent(queue, older)


async def test_a_hand_out_beside_a_superseding_wins_or_loses_never_both(
    queue: CommandQueue,
) -> None:
    for n in range(20):
        older = entry(f"a{n}", collapse_key=f"k{n}")
        newest = entry(f"b{n}", collapse_key=f"k{n}")
        await queue.insert([older, newest])

        marked_sent, ended = await asyncio.gather(_tries(queue, older), queue.supersede([newest]))

        assert ended == (0 if marked_sent else 1)
        expected = EntryState.SENT if marked_sent else EntryState.SUPERSEDED
        assert await states(queue, older, newest) == [expected, EntryState.QUEUED]


async def _tries(queue: CommandQueue, of: QueueEntry) -> bool:
    try:
        await mark_sent(queue, of)
    except AssertionError:
        return False
    return True


async def test_two_that_supersede_at_once_leave_the_newest(queue: CommandQueue) -> None:
    for n in range(10):
        older = entry(f"a{n}", collapse_key=f"k{n}")
        newest = entry(f"b{n}", collapse_key=f"k{n}")

        async def queued(of: QueueEntry) -> None:
            await queue.insert([of])
            await queue.supersede([of])

        await asyncio.gather(queued(newest), queued(older))

        assert await states(queue, older, newest) == [EntryState.SUPERSEDED, EntryState.QUEUED]


# --- lists and counts


async def test_open_entries_are_counted_per_enrollment(queue: CommandQueue) -> None:
    await queue.insert([entry("c1"), entry("c2"), entry("c3", ANNA)])
    await finished(queue, EntryState.CANCELLED, entry("c4"))

    assert [await queue.count_open(key) for key in (MAC, ANNA, PAD)] == [2, 1, 0]


async def test_accepted_in_finds_open_and_finished_entries_of_a_closed_window(
    queue: CommandQueue,
) -> None:
    first, last = entry("c1"), entry("c2", PAD, accepted_at=NOW + MINUTE)
    await finished(queue, EntryState.CANCELLED, first)
    outside = entry("c3", accepted_at=NOW + MINUTE + timedelta(milliseconds=1))
    await queue.insert([last, outside])

    found = await queue.accepted_in(EntryWindow(NOW, NOW + MINUTE))

    assert {each.id for each in found} == {first.id, last.id}


async def test_accepted_in_takes_only_what_the_window_asks_for(queue: CommandQueue) -> None:
    wanted = entry("c1", request_type="ProfileList")
    await queue.insert(
        [wanted, entry("c2"), entry("c3", PAD, request_type="ProfileList"), entry("c4", ANNA)]
    )
    await finished(queue, EntryState.CANCELLED, entry("c5", request_type="ProfileList"))

    found = await queue.accepted_in(
        EntryWindow(NOW, NOW, "MAC", "ProfileList", frozenset({EntryState.QUEUED}))
    )

    assert [each.id for each in found] == [wanted.id]


async def test_accepted_in_with_a_limit_finds_those_that_were_accepted_last(
    queue: CommandQueue,
) -> None:
    times = [NOW + n * MINUTE for n in (3, 1, 4, 2)]
    await queue.insert([entry(f"c{at.minute}", accepted_at=at) for at in times])
    await queue.insert([entry("other", PAD, accepted_at=NOW + 2 * MINUTE)])
    until = NOW + 3 * MINUTE

    newest = await queue.accepted_in(EntryWindow(NOW, until), 1)
    of_mac = await queue.accepted_in(EntryWindow(NOW, until, enrollment="MAC"), 2)

    assert [each.accepted_at for each in newest] == [until]
    assert {each.accepted_at for each in of_mac} == {until, NOW + 2 * MINUTE}


WINDOWS = (
    EntryWindow(NOW, NOW + MINUTE),
    EntryWindow(NOW, NOW + MINUTE, states=frozenset({EntryState.ERROR}), request_type="DeviceLock"),
    EntryWindow(NOW, NOW + MINUTE, enrollment="MAC"),
    EntryWindow(NOW, NOW + MINUTE, enrollment="MAC", states=frozenset({EntryState.ERROR})),
)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_list_is_a_closed_range_of_an_index_in_the_order_of_that_index(
    window: EntryWindow,
) -> None:
    """The embedded store's `explain` does not tell which index a query takes, so it is not asked."""
    indexes = [list(index.keys) for index in documents.indexes(timedelta(days=30))]
    backwards = documents.newest_first(window)
    condition = documents.condition_of(window)

    wanted = [(field, -direction) for field, direction in backwards]
    assert wanted in [keys[: len(wanted)] for keys in indexes]
    *equal, last = (field for field, _ in backwards)
    assert all(isinstance(condition[field], str) for field in equal)
    assert set(condition[last]) == {"$gte", "$lte"}


@pytest.mark.parametrize("how", ["one", "enrollment", "device"])
async def test_what_is_cancelled_waits_to_be_announced_where_that_is_asked(
    kept: Kept, how: str
) -> None:
    async def cancel(*, with_event: bool) -> None:
        if how == "one":
            await kept.queue.cancel_one("MAC", "c1", with_event=with_event)
        elif how == "enrollment":
            await kept.queue.cancel([MAC], with_event=with_event)
        else:
            await kept.queue.cancel_devices({"MAC"}, with_event=with_event)

    await kept.queue.insert([entry("c1", expires_at=FAR)])
    await cancel(with_event=True)
    await kept.queue.insert([entry("c1")])
    ended = await stored(kept.queue, entry("c1"))
    assert ended.state is EntryState.CANCELLED
    assert ended.finished_at is not None
    after = ended.finished_at + MINUTE

    assert [each.id for each in await listed(kept.expiries.unpublished(after))] == [ended.id]
    assert await kept.expiries.is_unpublished(ended)
    await kept.expiries.published([ended])
    assert not await kept.expiries.is_unpublished(ended)

    assert await kept.queue.requeue(entry("c1", order="order-9"), ended)
    await cancel(with_event=False)
    assert await listed(kept.expiries.unpublished(after + MINUTE)) == []
