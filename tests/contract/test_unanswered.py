"""The contract of `CommandQueue` on what is never answered (rule 5): it is counted, and moves back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.command import EntryState, QueueEntry
from shared.ports.queue import CommandQueue, SendClaim, Wanted
from shared.storage.queue import documents as entry_documents
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.sqlite import open_database
from tests.contract.stores import KEYRING, STORES, open_store
from tests.contract.test_queue import ANNA, MAC, MINUTE, NOW, PAD, entry, generation_of, report
from tests.support.fakes.queue import FakeCommandQueue

MANY = 40
REPORTS = [EntryState.NOT_NOW, EntryState.ACKNOWLEDGED, EntryState.ERROR]


@pytest.fixture(params=STORES)
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[CommandQueue]:
    if request.param == "fake":
        yield FakeCommandQueue()
        return
    async with open_store(request) as database:
        yield MongoCommandQueue(database, KEYRING)


async def there(queue: CommandQueue, of: QueueEntry) -> QueueEntry:
    return (await queue.entries_of([of.id]))[of.id]


async def marked_sent(
    queue: CommandQueue, *entries: QueueEntry, by: str, counts: bool = False
) -> list[QueueEntry]:
    claims = [SendClaim(each, each.generation, counts) for each in entries]
    assert await queue.mark_sent(claims, by, NOW) == {each.id for each in entries}
    return [await there(queue, each) for each in entries]


async def moved(queue: CommandQueue, *entries: QueueEntry) -> list[QueueEntry]:
    """Of entries that are queued: they are sent, and move back."""
    sent = await marked_sent(queue, *entries, by="before")
    assert await queue.move_back(sent) == {each.id for each in sent}
    return [await there(queue, each) for each in entries]


async def order_of(queue: CommandQueue) -> list[str]:
    return [each.command_uuid for each in await queue.open_entries(MAC)]


async def test_the_first_of_its_hand_outs_is_kept(queue: CommandQueue) -> None:
    await queue.insert([entry()])

    await queue.mark_sent([SendClaim(entry(), entry().generation)], "a", NOW)
    await queue.mark_sent([SendClaim(entry(), entry().generation)], "b", NOW + MINUTE)

    found = await there(queue, entry())
    assert (found.first_handed_at, found.handed_at) == (NOW, NOW + MINUTE)
    assert (found.attempts, found.unanswered) == (2, 0)


async def test_a_hand_out_counts_the_one_before_it(queue: CommandQueue) -> None:
    await queue.insert([entry("c1"), entry("p1", PAD)])
    [first] = await marked_sent(queue, entry("c1"), by="a")

    [second] = await marked_sent(queue, first, by="b", counts=True)
    _, other = await marked_sent(queue, second, entry("p1", PAD), by="c")

    assert (second.unanswered, second.attempts, second.is_unanswered) == (1, 2, True)
    assert (other.unanswered, other.attempts) == (0, 1)


async def test_counted_and_others_go_out_together(queue: CommandQueue) -> None:
    await queue.insert([entry("c1"), entry("p1", PAD, expires_at=NOW + timedelta(days=9999))])
    [first] = await marked_sent(queue, entry("c1"), by="a")
    pad = entry("p1", PAD, expires_at=NOW + timedelta(days=9999))

    won = await queue.mark_sent(
        [SendClaim(first, first.generation, counts=True), SendClaim(pad, pad.generation)], "b", NOW
    )

    assert won == {first.id, pad.id}
    assert [(await there(queue, each)).unanswered for each in (first, pad)] == [1, 0]


async def test_rule_05_only_the_hand_out_that_was_seen_counts(queue: CommandQueue) -> None:
    await queue.insert([entry()])
    [seen] = await marked_sent(queue, entry(), by="a")
    await marked_sent(queue, seen, by="b")

    assert await queue.mark_sent([SendClaim(seen, seen.generation, counts=True)], "c", NOW) == set()
    assert await queue.move_back([seen]) == set()

    found = await there(queue, seen)
    assert (found.handed_by, found.unanswered, found.moved) == ("b", 0, None)


@pytest.mark.parametrize("state", REPORTS)
async def test_rule_05_what_was_answered_meanwhile_does_not_count(
    queue: CommandQueue, state: EntryState
) -> None:
    await queue.insert([entry()])
    [seen] = await marked_sent(queue, entry(), by="a")
    await queue.report([report(state, seen)], NOW)

    assert await queue.mark_sent([SendClaim(seen, seen.generation, counts=True)], "b", NOW) == set()
    assert await queue.move_back([seen]) == set()

    found = await there(queue, seen)
    assert (found.state, found.unanswered, found.moved) == (state, 0, None)


async def test_rule_05_one_that_moves_goes_behind_all_others(queue: CommandQueue) -> None:
    urgent = entry("a", priority=0)
    await queue.insert([urgent, entry("b"), entry("c"), entry("z", ANNA)])
    [sent] = await marked_sent(queue, urgent, by="a")

    assert await queue.move_back([sent]) == {sent.id}
    assert await queue.move_back([sent]) == set()

    found = await there(queue, urgent)
    assert (found.unanswered, found.is_unanswered, found.state) == (1, False, EntryState.SENT)
    assert await order_of(queue) == ["b", "c", "a"]
    of_device = (await queue.open_of_devices({"MAC"}))["MAC"]
    assert of_device is not None
    assert [each.command_uuid for each in of_device] == ["b", "c", "z", "a"]


async def test_rule_05_of_a_long_queue_it_is_the_last_one_found(queue: CommandQueue) -> None:
    entries = [entry(f"c{number:02}") for number in range(MANY)]
    begun = [entry(f"b{number:02}", not_before=NOW) for number in range(MANY)]
    await queue.insert([*entries, *begun])
    [first, second] = await moved(queue, entries[0], begun[0])
    wanted = Wanted("MAC", "MAC", generation_of("MAC"), with_resting=True)

    found = await queue.next_of([wanted], NOW)
    assert [each.command_uuid for each in found if each] == ["b01"]

    rest = frozenset(each.id for each in (*entries[1:], *begun[1:]))
    found = await queue.next_of([replace(wanted, but_not=rest)], NOW)
    assert found in ([first], [second])


async def test_rule_05_those_that_moved_take_exchanges(queue: CommandQueue) -> None:
    entries = [entry(uuid) for uuid in ("a", "b", "c")]
    await queue.insert(entries)
    await moved(queue, *entries[:2])
    if isinstance(queue, FakeCommandQueue):
        queue.now = NOW + MINUTE
    seen = []

    for exchange in range(4):
        [_, first, _] = await queue.open_entries(MAC)
        seen.append(first.command_uuid)
        [again] = await marked_sent(queue, first, by=f"turn-{exchange}", counts=first.is_unanswered)
        assert again.moved is not None
        if isinstance(queue, FakeCommandQueue):
            queue.now = again.moved + MINUTE
        await asyncio.sleep(0.002)  # the clock of a real store has milliseconds

    assert seen in (["a", "b", "a", "b"], ["b", "a", "b", "a"])
    assert (await there(queue, entries[0])).unanswered == 2


@pytest.mark.parametrize("state", REPORTS)
async def test_rule_05_an_answer_forgets_the_attempts_and_the_move(
    queue: CommandQueue, state: EntryState
) -> None:
    await queue.insert([entry("a"), entry("b")])
    [found] = await moved(queue, entry("a"))

    await queue.report([report(state, found)], NOW)

    after = await there(queue, found)
    assert (after.state, after.moved, after.unanswered) == (state, None, 0)
    assert (after.first_handed_at, after.is_counted) == (None, False)
    if state.is_open:
        assert await order_of(queue) == ["a", "b"]


async def test_rule_05_queueing_anew_forgets_the_attempts_and_the_move(queue: CommandQueue) -> None:
    await queue.insert([entry("a"), entry("b")])
    [found] = await moved(queue, entry("a"))
    await queue.cancel_one("MAC", "a")
    ended = await there(queue, found)
    assert (ended.state, ended.unanswered) == (EntryState.CANCELLED, 1)

    assert await queue.requeue(entry("a"), ended)

    assert await there(queue, found) == entry("a")
    assert await order_of(queue) == ["a", "b"]


async def test_one_that_moved_ends_like_any_other(queue: CommandQueue) -> None:
    await queue.insert([entry("a"), entry("b")])
    [found] = await moved(queue, entry("a"))

    await queue.end_generation("MAC", generation_of("MAC"))

    assert (await there(queue, found)).state is EntryState.DROPPED_REENROLLED


async def test_rule_05_one_that_moves_is_superseded_by_the_newer_one_that_waits(
    queue: CommandQueue,
) -> None:
    older, newer = (entry(uuid, collapse_key="k") for uuid in ("a", "b"))
    await queue.insert([older, newer])
    [sent] = await marked_sent(queue, older, by="a")
    assert await queue.supersede([newer]) == 0

    assert await queue.move_back([sent]) == set()

    found = await there(queue, older)
    assert (found.state, found.superseded_by) == (EntryState.SUPERSEDED, "b")
    assert (await there(queue, newer)).state is EntryState.QUEUED


async def test_rule_05_one_that_moves_is_superseded_by_a_newer_one_that_was_put_off(
    queue: CommandQueue,
) -> None:
    older, newer = (entry(uuid, collapse_key="k") for uuid in ("a", "b"))
    await queue.insert([older])
    await marked_sent(queue, older, by="a")
    await queue.insert([newer])
    await marked_sent(queue, newer, by="b")
    await queue.report([report(EntryState.NOT_NOW, newer)], NOW)

    assert await queue.move_back([await there(queue, older)]) == set()

    found = await there(queue, older)
    assert (found.state, found.superseded_by) == (EntryState.SUPERSEDED, "b")
    assert (await there(queue, newer)).state is EntryState.NOT_NOW


async def test_rule_05_what_moved_meanwhile_is_not_handed_out_as_if_it_had_not(
    queue: CommandQueue,
) -> None:
    await queue.insert([entry("c1")])
    [seen] = await marked_sent(queue, entry("c1"), by="a")
    await queue.move_back([seen])
    before = await there(queue, seen)

    for counts in (False, True):
        assert await queue.mark_sent([SendClaim(seen, seen.generation, counts)], "b", NOW) == set()

    assert await there(queue, seen) == before


async def test_rule_05_what_was_put_off_meanwhile_is_not_moved_by_a_hand_out(
    queue: CommandQueue,
) -> None:
    await queue.insert([entry("c1")])
    [seen] = await moved(queue, entry("c1"))
    await queue.report([report(EntryState.NOT_NOW, seen)], NOW)
    before = await there(queue, seen)

    assert await queue.mark_sent([SendClaim(seen, seen.generation)], "b", NOW) == set()

    assert await there(queue, seen) == before


@pytest.mark.parametrize("tried_again", [False, True])
async def test_rule_05_one_that_moved_is_superseded_by_the_newer_one_that_comes(
    queue: CommandQueue, tried_again: bool
) -> None:
    older, newer = (entry(uuid, collapse_key="k") for uuid in ("a", "b"))
    await queue.insert([older])
    [found] = await moved(queue, older)
    if tried_again:
        await marked_sent(queue, found, by="again")
    await queue.insert([newer])

    assert await queue.supersede([newer]) == 1

    assert (await there(queue, older)).state is EntryState.SUPERSEDED


async def test_one_that_answers_not_now_cannot_be_superseded_any_more(queue: CommandQueue) -> None:
    older, newer = (entry(uuid, collapse_key="k") for uuid in ("a", "b"))
    await queue.insert([older])
    [found] = await moved(queue, older)
    await queue.report([report(EntryState.NOT_NOW, found)], NOW)
    await queue.insert([newer])

    assert await queue.supersede([newer]) == 0


async def test_what_a_former_version_queued_anew_is_offered_after_the_others(
    tmp_path: Path,
) -> None:
    """That version leaves the fields alone that it does not know."""
    database = open_database(tmp_path, SystemClock())
    await database.ensure(entry_documents.indexes(timedelta(days=30)))
    queue = MongoCommandQueue(database, KEYRING)
    await queue.insert([entry("a"), entry("b")])
    await moved(queue, entry("a"))
    anew = entry_documents.encode_entry(entry("a"))
    await database.collection(entry_documents.NAME).update_one(
        {"_id": anew.pop("_id")},
        {"$set": anew, "$unset": {"handed_by": "", "handed_at": "", "collapse": ""}},
    )

    assert await order_of(queue) == ["b", "a"]
    [again] = await marked_sent(queue, (await queue.open_entries(MAC))[1], by="b")
    await queue.report([report(EntryState.ACKNOWLEDGED, again)], NOW)
    done = await there(queue, again)

    assert (again.state, again.attempts) == (EntryState.SENT, 1)
    assert (done.state, done.moved, done.unanswered) == (EntryState.ACKNOWLEDGED, None, 0)
    await database.close()
