"""What the store's adapters rely on: errors, cancellations and indexes, alike on every store."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.domain.errors import BadRequest, StoreUnavailable, TooLarge
from shared.storage.database import Bulk, Collection, Database, DeleteOne, UpdateOne
from shared.storage.indexes import Index
from shared.storage.mongo import driver_errors
from shared.storage.reads import pages, up_to
from shared.storage.sqlite import FILE
from tests.contract.stores import DRIVERS, open_store

HUGE = b"x" * (17 * 1024**2)
DAY = timedelta(days=1)
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(params=DRIVERS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with open_store(request) as database:
        yield database


@pytest.fixture
def things(store: Database) -> Collection:
    return store.collection("things")


async def options_of(things: Collection, folder: Path) -> tuple[bool, timedelta]:
    """Of the index of `at`, as the store keeps them: is it sparse, and how long do documents stay?"""
    if (file := folder / FILE).exists():
        with closing(sqlite3.connect(file)) as connection:
            [row] = connection.execute(
                "SELECT is_sparse, expire_seconds FROM _indexes WHERE name = 'at_1' AND ready"
            ).fetchall()
    else:
        found: dict[str, Any] = (await things.raw.index_information())["at_1"]
        row = found["sparse"], found["expireAfterSeconds"]
    return bool(row[0]), timedelta(seconds=row[1])


async def names_of_indexes(things: Collection, folder: Path) -> set[str]:
    """Beside that of `_id`."""
    if (file := folder / FILE).exists():
        with closing(sqlite3.connect(file)) as connection:
            return {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM _indexes WHERE collection = 'things' AND ready"
                )
            }
    return set(await things.raw.index_information()) - {"_id_"}


# --- documents that cannot be stored


@pytest.mark.parametrize("size", [16 * 1024**2, 17 * 1024**2, 50 * 1024**2])
async def test_a_document_that_is_too_large_is_refused(things: Collection, size: int) -> None:
    large = HUGE[:1] * size

    with pytest.raises(TooLarge):
        await things.insert_one({"_id": 1, "value": large})
    with pytest.raises(TooLarge):
        await things.insert_many([{"_id": 2, "value": large}])
    with pytest.raises(TooLarge):
        await things.update_one({"_id": 3}, {"$set": {"value": large}}, upsert=True)


async def test_what_the_store_has_no_type_for_is_refused(things: Collection) -> None:
    with pytest.raises(BadRequest):
        await things.insert_one({"_id": 1, "value": {1, 2}})


# --- bulks in order


async def test_bulks_are_written_up_to_the_first_that_meets_a_key(store: Database) -> None:
    things, others = store.collection("things"), store.collection("things_too")
    await things.insert_many([{"_id": 1, "n": 0}, {"_id": 2, "n": 0}])
    bulks = [
        Bulk("things_too", [{"_id": 1}]),
        Bulk("things", operations=[UpdateOne({"_id": n}, {"$set": {"n": 1}}) for n in (1, 9)]),
        Bulk("things", operations=[DeleteOne({"_id": 2})]),
        Bulk("things", [{"_id": 3}, {"_id": 1}]),
        Bulk("things_too", [{"_id": 2}]),
    ]

    assert await store.write_in_order(bulks) == [(1, set()), (1, set()), (0, set()), (1, {1})]

    assert await others.find({}) == [{"_id": 1}]
    assert await things.find({}, sort=[("_id", 1)]) == [{"_id": 1, "n": 1}, {"_id": 3}]


@pytest.mark.parametrize(("count", "size"), [(200, 10), (3, 6_000_000), (2, 300_000)])
async def test_many_or_large_bulks_are_written_in_order_too(
    store: Database, things: Collection, count: int, size: int
) -> None:
    await things.insert_one({"_id": 0, "value": "x" * size})
    added = [{"_id": number, "value": "x" * size} for number in range(1, count + 1)]
    changed = [UpdateOne({"_id": number}, {"$set": {"n": 1}}) for number in range(count + 1)]

    done = await store.write_in_order([Bulk("things", added), Bulk("things", operations=changed)])

    assert done == [(count, set()), (count + 1, set())]
    assert len(await things.find({"n": 1}, {"_id": 1})) == count + 1


async def test_nothing_is_written_behind_a_bulk_that_cannot_be(
    store: Database, things: Collection
) -> None:
    with pytest.raises(TooLarge):
        await store.write_in_order(
            [Bulk("things", [{"_id": 1, "value": HUGE}]), Bulk("things_too", [{"_id": 1}])]
        )

    assert await things.find({}) == []
    assert await store.collection("things_too").find({}) == []


# --- keys that are taken


async def test_an_update_to_a_key_that_is_taken_is_refused_and_changes_nothing(
    store: Database, things: Collection
) -> None:
    await store.ensure([Index("things", [("name", 1)], unique=True)])
    before = [{"_id": 1, "name": "a"}, {"_id": 2, "name": "b"}]
    await things.insert_many(before)

    with pytest.raises(StoreUnavailable):
        await things.update_one({"_id": 2}, {"$set": {"name": "a"}})
    with pytest.raises(StoreUnavailable):
        await things.update_many({"_id": {"$in": [2]}}, {"$set": {"name": "a"}})
    with pytest.raises(StoreUnavailable):
        # its id is there, its other condition does not hold: so it would be inserted
        await things.update_one({"_id": 2, "name": "x"}, {"$set": {"n": 1}}, upsert=True)
    rename = UpdateOne({"_id": 2}, {"$set": {"name": "a"}})
    assert await things.bulk_write([rename, UpdateOne({"_id": 1}, {"$set": {"n": 1}})]) == (1, {0})

    assert await things.find({}, {"n": 0}, sort=[("_id", 1)]) == before


async def test_an_upsert_matches_what_is_there_and_counts_what_it_inserts_in_a_bulk_only(
    things: Collection,
) -> None:
    update = {"$inc": {"n": 1}}

    assert await things.update_one({"_id": 1}, update, upsert=True) == 0
    assert await things.update_one({"_id": 1}, update, upsert=True) == 1
    upserts = [UpdateOne({"_id": number}, update, upsert=True) for number in (1, 2)]
    assert await things.bulk_write(upserts) == (2, set())

    assert await things.find({}, sort=[("_id", 1)]) == [{"_id": 1, "n": 3}, {"_id": 2, "n": 1}]
    assert await things.bulk_write([DeleteOne({"_id": 1}), DeleteOne({"_id": 3})]) == (0, set())
    assert await things.find({}) == [{"_id": 2, "n": 1}]


async def test_a_document_is_found_once_though_several_of_its_elements_are_listed(
    store: Database, things: Collection
) -> None:
    await store.ensure([Index("things", [("tags", 1)], of_array=True)])
    await things.insert_many([{"_id": n, "tags": ["all", f"own {n}"]} for n in range(300)])

    found = await things.find({"tags": {"$in": ["all", "own 0", "own 299"]}}, {"_id": 1})

    assert sorted(document["_id"] for document in found) == list(range(300))


async def test_an_id_that_is_listed_twice_is_found_once(things: Collection) -> None:
    await things.insert_many([{"_id": 1}, {"_id": 2}])

    found = await things.find({"_id": {"$in": [1, 2, *range(3, 90), 1]}})

    assert sorted(document["_id"] for document in found) == [1, 2]


async def test_an_id_that_is_listed_twice_is_changed_once(things: Collection) -> None:
    await things.insert_many([{"_id": 1, "n": 0}, {"_id": 2, "n": 0}])

    twice = {"_id": {"$in": [1, 2, *range(3, 90), 1]}}
    assert await things.update_many(twice, {"$inc": {"n": 1}}) == 2

    assert await things.find({}, sort=[("_id", 1)]) == [{"_id": 1, "n": 1}, {"_id": 2, "n": 1}]
    assert await things.delete_many(twice) == 2


# --- cancellation


async def test_a_cancellation_that_the_driver_swallows_is_not_lost() -> None:
    async def driver() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "the result that had come"
        return "never"

    async def call() -> None:
        with driver_errors():
            await driver()

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling}, timeout=5)

    assert calling.cancelled()


async def test_a_cancelled_task_can_clean_up_in_the_store(things: Collection) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await things.insert_one({"_id": 1})
            await things.insert_one({"_id": 2})

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait({working}, timeout=5)

    assert len(await things.find({})) == 2


# --- indexes


async def test_a_changed_retention_takes_effect(
    store: Database, things: Collection, tmp_path: Path
) -> None:
    await store.ensure([Index("things", [("at", 1)], sparse=True, expire_after=30 * DAY)])

    await store.ensure([Index("things", [("at", 1)], sparse=True, expire_after=7 * DAY)])

    assert await options_of(things, tmp_path) == (True, 7 * DAY)


async def test_an_index_that_changed_otherwise_is_made_anew(
    store: Database, things: Collection, tmp_path: Path
) -> None:
    await store.ensure([Index("things", [("at", 1)])])

    await store.ensure([Index("things", [("at", 1)], sparse=True, expire_after=DAY)])

    assert await options_of(things, tmp_path) == (True, DAY)


async def test_an_index_goes_once_the_one_that_replaces_it_is_made(
    store: Database, things: Collection, tmp_path: Path
) -> None:
    await store.ensure([Index("things", [("at", 1)], sparse=True)])
    await things.insert_many([{"_id": n, "at": n // 4, "n": -n} for n in range(8)])
    await things.insert_one({"_id": "without", "n": 1})
    wider = Index("things", [("at", 1), ("n", 1)], partial=True, replaces="at_1")

    for _ in range(2):
        await store.ensure([wider])

    assert await names_of_indexes(things, tmp_path) == {"at_1_n_1"}
    found = await things.find({"at": {"$in": [1, 0]}}, sort=[("at", 1), ("n", 1)], limit=5)
    assert [each["_id"] for each in found] == [3, 2, 1, 0, 7]


@pytest.mark.parametrize(
    "keys", [["b"], ["b", "c", "b"], [None, "b"], [5, "b"], [str(n) for n in range(70)]]
)
async def test_two_lists_find_each_value_of_the_one_with_each_of_the_other(
    store: Database, things: Collection, keys: list[object]
) -> None:
    await store.ensure([Index("things", [("a", 1), ("k", 1)], partial=True)])
    values = ["b", "c", "d", None, 5, "7", "69", "70"]
    made = [{"_id": f"{a}{k}", "a": a, "k": k} for a in range(70) for k in values]
    await things.insert_many([*made, {"_id": "no k", "a": 3}, {"_id": "no a", "k": "b"}])
    wanted: list[object] = [3, 3, 69, 71, *range(4, 67)]

    found = await things.find({"a": {"$in": wanted}, "k": {"$in": keys}})

    expected = {each["_id"] for each in made if each["a"] in wanted and each["k"] in keys}
    expected |= {"no k"} if None in keys else set()
    assert sorted(each["_id"] for each in found) == sorted(expected)


@pytest.mark.parametrize("size", [1, 3, 4, 100])
async def test_what_is_read_in_pages_comes_once_and_in_order(
    store: Database, things: Collection, size: int
) -> None:
    await store.ensure([Index("things", [("n", 1), ("_id", 1)], partial=True)])
    await things.insert_many([{"_id": each, "n": each // 4} for each in range(12)])
    await things.insert_one({"_id": "without"})

    def above(n: int) -> dict[str, list[int]] | None:
        return {"$in": [each for each in (0, 2) if each > n]} if n < 2 else None

    query = {"n": {"$in": [2, 0]}}
    read = pages(things, query, above, {"n": 1}, size)
    found = [each async for page in read for each in page]

    assert [each["_id"] for each in found] == [0, 1, 2, 3, 8, 9, 10, 11]


async def test_what_comes_and_goes_between_two_pages_moves_no_other(
    store: Database, things: Collection
) -> None:
    await store.ensure([Index("things", [("at", 1), ("_id", 1)])])
    times = [NOW, NOW, NOW + DAY, NOW + DAY]
    await things.insert_many([{"_id": n, "at": at} for n, at in enumerate(times)])
    query = {"at": {"$gte": NOW, "$lte": NOW + DAY}}

    seen: list[int] = []
    async for page in pages(things, query, up_to(NOW + DAY), size=1):
        seen += [each["_id"] for each in page]
        await things.delete_many({"_id": {"$in": seen}})

    assert seen == [0, 1, 2, 3]


async def test_services_that_ask_for_an_index_at_once_all_get_it(
    store: Database, things: Collection
) -> None:
    await things.insert_many([{"_id": number, "at": number} for number in range(600)])
    index = Index("things", [("at", 1)], unique=True)

    await asyncio.gather(*(store.ensure([index]) for _ in range(4)))

    assert [found["_id"] for found in await things.find({"at": 599})] == [599]
    assert not await things.insert_one({"_id": "double", "at": 599})


async def test_writes_do_not_change_the_term(store: Database, things: Collection) -> None:
    await store.ping()
    before = store.term

    await things.insert_one({"_id": 1})

    assert store.term == before
