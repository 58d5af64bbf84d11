"""The contract of `CommandQueue` on queues that are too long to be read, and what reading them costs."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.command import EntryState, QueueEntry
from shared.ports.queue import CommandQueue, SendClaim, Wanted
from shared.storage.queue import documents as entry_documents
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.sqlite import open_database
from tests.contract.stores import KEYRING, STORES, open_store
from tests.contract.test_queue import (
    ANNA,
    MAC,
    MINUTE,
    NOW,
    OTHER,
    PAD,
    entry,
    generation_of,
    report,
)
from tests.support.fakes.queue import FakeCommandQueue

MANY = 60


@pytest.fixture(params=STORES)
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[CommandQueue]:
    if request.param == "fake":
        yield FakeCommandQueue()
        return
    async with open_store(request) as database:
        yield MongoCommandQueue(database, KEYRING)


def many(prefix: str, count: int = MANY, **changes: Any) -> list[QueueEntry]:
    """Entries in the order of their numbers, behind those of a prefix that sorts before theirs."""
    return [entry(f"{prefix}-{number:05}", **changes) for number in range(count)]


def wanted(**changes: Any) -> Wanted:
    made = Wanted("MAC", "MAC", generation_of("MAC"), with_resting=False)
    return replace(made, **changes)


async def rested(queue: CommandQueue, entries: list[QueueEntry]) -> None:
    await queue.insert(entries)
    for each in entries:
        await queue.mark_sent([SendClaim(each, each.generation)], "by", NOW)
    await queue.report([report(EntryState.NOT_NOW, each) for each in entries], NOW)


async def next_uuid(queue: CommandQueue, of: Wanted, minutes: int = 0) -> str | None:
    [found] = await queue.next_of([of], NOW + minutes * MINUTE)
    return None if found is None else found.command_uuid


async def test_a_device_with_many_open_entries_is_named_and_its_neighbours_are_read(
    queue: CommandQueue,
) -> None:
    pads = [replace(PAD, id=f"{name}PAD", device=f"{name}PAD") for name in ("A", "Z")]
    await queue.insert([*many("c"), *(entry("p", key) for key in pads)])

    found = await queue.open_of_devices({"MAC", "NOBODY", *(key.device for key in pads)})

    assert found.pop("MAC", ()) is None
    assert {device: [*(those or ())] for device, those in found.items()} == {
        key.device: [entry("p", key)] for key in pads
    }


async def test_every_one_of_many_devices_is_read_or_named(queue: CommandQueue) -> None:
    keys = [replace(PAD, id=f"PAD{n:02}", device=f"PAD{n:02}") for n in range(20)]
    long = {key.device for key in keys[::2]}
    for key in keys:
        await queue.insert(many("c", MANY if key.device in long else 1, key=key))

    found = await queue.open_of_devices({key.device for key in keys})

    assert set(found) == {key.device for key in keys}
    assert [device for device, those in found.items() if those is None]
    for device, those in found.items():
        assert those is None or len(those) == (MANY if device in long else 1)


async def test_the_next_entry_is_the_first_by_priority_and_order(queue: CommandQueue) -> None:
    urgent = entry("urgent", priority=1, order="order-z")
    await queue.insert([*many("c"), urgent])

    assert await next_uuid(queue, wanted()) == "urgent"
    assert await next_uuid(queue, wanted(but_not=frozenset({urgent.id}))) == "c-00000"


async def test_an_entry_that_has_begun_stands_among_the_others_by_its_order(
    queue: CommandQueue,
) -> None:
    begun = many("b", 10, not_before=NOW, priority=7)
    await queue.insert([*many("c"), *begun, entry("a", not_before=NOW + MINUTE)])

    assert await next_uuid(queue, wanted()) == "c-00000"
    assert await next_uuid(queue, wanted(), minutes=1) == "a"


async def test_what_begins_later_or_is_of_another_generation_is_passed_over(
    queue: CommandQueue,
) -> None:
    later = many("a", not_before=NOW + MINUTE)
    await queue.insert([*later, *many("b", generation=OTHER), entry("c"), entry("d", ANNA)])

    assert await next_uuid(queue, wanted()) == "c"
    assert await next_uuid(queue, wanted(enrollment="MAC:anna")) == "d"
    assert await next_uuid(queue, wanted(), minutes=1) == "a-00000"
    assert await next_uuid(queue, wanted(generation="gen-3")) is None


async def test_what_was_queued_before_the_device_was_known_is_found(queue: CommandQueue) -> None:
    await queue.insert([*many("b"), entry("a", generation=None)])

    assert await next_uuid(queue, wanted()) == "a"


async def test_what_rests_is_passed_over_until_it_is_asked_for(queue: CommandQueue) -> None:
    await rested(queue, many("a", 12))
    await queue.insert([entry("b")])

    assert await next_uuid(queue, wanted()) == "b"
    assert await next_uuid(queue, wanted(with_resting=True)) == "a-00000"


async def test_what_the_device_reports_on_is_passed_over_once_it_was_handed_out(
    queue: CommandQueue,
) -> None:
    entries = many("c")
    await queue.insert(entries)
    assert await next_uuid(queue, wanted(reported="c-00000")) == "c-00000"

    await queue.mark_sent([SendClaim(entries[0], entries[0].generation)], "by", NOW)

    assert await next_uuid(queue, wanted(reported="c-00000")) == "c-00001"


async def test_however_many_cannot_be_had_the_first_that_can_is_found(queue: CommandQueue) -> None:
    over, missing = many("a", 40, expires_at=NOW), many("b", 40)
    await queue.insert([*over, *missing, entry("c")])

    of = wanted(but_not=frozenset(each.id for each in missing))

    assert await next_uuid(queue, of) == "c"
    assert await next_uuid(queue, replace(of, enrollment="MAC:anna")) is None


async def test_of_a_long_queue_only_what_is_due_counts_for_a_push(queue: CommandQueue) -> None:
    await queue.insert([*many("a", not_before=NOW + MINUTE), *many("b", 40, expires_at=NOW)])
    await queue.insert(many("c", key=ANNA))

    assert await queue.has_due([MAC, ANNA, PAD], NOW) == {"MAC:anna"}
    assert await queue.has_due([MAC, PAD], NOW + MINUTE) == {"MAC"}


async def test_cancelling_devices_ends_all_that_is_open_of_all_their_channels(
    queue: CommandQueue,
) -> None:
    await queue.insert([*many("c"), entry("d", ANNA), entry("e", PAD)])

    assert await queue.cancel_devices({"MAC", "NOBODY"}) == MANY + 1

    left = await queue.open_of_devices({"MAC", "PAD"})
    assert {device: [*(those or ())] for device, those in left.items()} == {
        "PAD": [entry("e", PAD)]
    }


# --- cost

STEP = 10


class Counting(sqlite3.Connection):
    """Counts the instructions of SQLite's virtual machine, in tens."""

    tens = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.set_progress_handler(self._count, STEP)

    def _count(self) -> int:
        Counting.tens += 1
        return 0


CROWDS: dict[str, dict[str, Any]] = {
    "due": {},
    "begin later": {"not_before": NOW + MINUTE},
    "have begun": {"not_before": NOW},
    "of another generation": {"generation": OTHER},
    "rest": {"state": EntryState.NOT_NOW, "handed_by": "by"},
    "moved back": {"state": EntryState.SENT, "handed_by": "by", "moved": NOW},
}


async def _cost(folder: Path, count: int, crowd: dict[str, Any]) -> list[int]:
    """Of a connect's reads and of a push's, beside a queue with so many entries before the due one."""
    database = open_database(folder, SystemClock(), factory=Counting)
    await database.ensure(entry_documents.indexes(timedelta(days=30)))
    queue = MongoCommandQueue(database, KEYRING)
    pads = [replace(PAD, id=f"PAD{n:02}", device=f"PAD{n:02}") for n in range(8)]
    await queue.insert([*many("a", count, **crowd), entry("b"), *(entry("p", key) for key in pads)])
    if "moved" in crowd:
        await database.collection(entry_documents.NAME).update_many(
            {"open_device": "MAC", "state": "sent"}, {"$set": {"moved": crowd["moved"]}}
        )
    devices = {"MAC", *(key.device for key in pads)}
    costs = []
    for reading in (
        lambda: queue.open_of_devices(devices),
        lambda: queue.next_of([wanted()], NOW),
        lambda: queue.next_of([wanted(but_not=frozenset({entry("b").id}))], NOW),
        lambda: queue.has_due([MAC, *pads], NOW),
    ):
        await reading()  # its plan is checked once
        before = Counting.tens
        await reading()
        costs.append(Counting.tens - before)
    await database.close()
    return costs


@pytest.mark.parametrize("crowd", CROWDS)
async def test_no_length_of_a_queue_decides_what_a_read_costs(crowd: str, tmp_path: Path) -> None:
    few = await _cost(tmp_path / "few", 100, CROWDS[crowd])
    more = await _cost(tmp_path / "more", 3_000, CROWDS[crowd])

    assert all(much <= 1.2 * little + 2 for little, much in zip(few, more, strict=True)), (
        few,
        more,
    )
