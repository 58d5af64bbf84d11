"""Indexes of the embedded store are built beside all other work, and in the end."""

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import sleep

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.errors import StoreUnavailable
from shared.storage.indexes import Index
from shared.storage.sqlite import FILE, open_database
from shared.storage.sqlite.engine.wal import CommitBounds

INDEX = Index("things", [("kind", 1)])
UNIQUE = Index("things", [("kind", 1)], unique=True)


class SlowIndexes(sqlite3.Connection):
    """An index over much takes longer than a commit may."""

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if sql.startswith("CREATE INDEX"):
            sleep(0.6)
        return super().execute(sql, *values)


async def test_an_index_that_takes_longer_than_a_commit_may_is_built_in_the_end(
    tmp_path: Path,
) -> None:
    bounds = CommitBounds(deadline=timedelta(milliseconds=300))
    database = open_database(tmp_path, SystemClock(), bounds, SlowIndexes)
    await database.collection("things").insert_many(
        [{"_id": str(n), "kind": "a"} for n in range(9)]
    )
    built = False
    for _ in range(3):  # as a start is tried again
        try:
            await database.ensure([INDEX])
            built = True
        except StoreUnavailable:
            await asyncio.sleep(1)
    await database.close()
    assert built


async def test_a_unique_index_that_cannot_be_fails_no_other_write(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    things = database.collection("things")
    await things.insert_many([{"_id": str(n), "kind": "same"} for n in range(9)])
    building = asyncio.create_task(database.ensure([UNIQUE]))
    failed, number = 0, 0
    while not building.done():
        number += 1
        try:
            await things.insert_one({"_id": f"w{number}", "kind": f"w{number}"})
        except StoreUnavailable:
            failed += 1
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        building.result()
    await database.close()
    assert failed == 0


async def test_updates_beside_a_new_unique_index_are_done(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    things = database.collection("things")
    await things.insert_many([{"_id": str(n), "kind": f"k{n}", "count": 0} for n in range(900)])
    building = asyncio.create_task(database.ensure([UNIQUE]))
    number = 0
    while not building.done():
        await things.update_one({"_id": "899"}, {"$inc": {"count": 1}})  # filled in last
        number += 1
    await building
    [found] = await things.find({"kind": "k899"})
    with pytest.raises(NotImplementedError):
        await things.update_one({"_id": "899"}, {"$unset": {"kind": ""}})
    await database.close()
    assert found["count"] == number > 0


async def test_an_index_is_built_in_the_end_beside_steady_insertions(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    things = database.collection("things")
    await things.insert_many([{"_id": str(n), "kind": "a"} for n in range(300)])
    building = asyncio.create_task(database.ensure([INDEX]))
    number = 0
    while not building.done() and number < 3000:
        number += 1
        await things.insert_one({"_id": f"w{number}", "kind": "b"})
    ended = building.done()
    await building
    await database.close()
    assert ended  # two pieces of 250 have all that was there before


async def test_reads_beside_a_new_index_of_an_empty_collection_are_answered(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    things = database.collection("things")
    await things.insert_one({"_id": "first"})
    await things.delete_one({"_id": "first"})
    making = asyncio.create_task(database.ensure([INDEX]))
    while not making.done():
        assert await things.find({"kind": "a"}) == []
        await asyncio.sleep(0)
    await database.close()


async def test_a_column_of_a_build_that_was_cut_short_is_filled_in_by_the_next_one(
    tmp_path: Path,
) -> None:
    database = open_database(tmp_path, SystemClock())
    await database.ensure([INDEX])
    things = database.collection("things")
    await things.insert_many([{"_id": str(n), "kind": "a", "size": n % 2} for n in range(600)])
    both = Index("things", [("kind", 1), ("size", 1)])
    building = asyncio.create_task(database.ensure([both]))
    while await rows_with_size(tmp_path) == 0:
        await asyncio.sleep(0)
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    await database.close()
    database = open_database(tmp_path, SystemClock())
    await database.ensure([both])
    found = await database.collection("things").find({"kind": "a", "size": 1})
    await database.close()
    assert len(found) == 300
    assert await rows_with_size(tmp_path) == 600


async def rows_with_size(folder: Path) -> int:
    """The rows whose column `size` is filled in; 0 where there is no such column yet."""
    with closing(sqlite3.connect(folder / FILE)) as reader:
        if not reader.execute(
            "SELECT 1 FROM pragma_table_info('things') WHERE name = 'size'"
        ).fetchall():
            return 0
        [(count,)] = reader.execute('SELECT count("size") FROM things').fetchall()
        return int(count)


async def test_a_build_writes_only_rows_that_have_what_it_adds(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    await database.ensure([INDEX])
    things = database.collection("things")
    await things.insert_many([{"_id": str(n), "kind": "a", "text": "x" * 2000} for n in range(600)])
    await things.insert_one({"_id": "sized", "kind": "a", "size": 1})
    log = tmp_path / f"{FILE}-wal"
    before = log.stat().st_size
    await database.ensure([Index("things", [("kind", 1), ("size", 1)])])
    grown = log.stat().st_size - before
    found = await database.collection("things").find({"kind": "a", "size": 1})
    await database.close()
    assert [each["_id"] for each in found] == ["sized"]
    assert grown < 600 * 2000 // 2


async def test_an_index_with_which_another_one_begins_is_not_made(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    short = Index("things", [("kind", 1)], sparse=True)
    long = Index("things", [("kind", 1), ("size", 1)], partial=True)
    of_all = Index("things", [("size", 1)])
    await database.ensure([short, of_all])
    await database.collection("things").insert_one({"_id": "one", "kind": "a", "size": 2})
    await database.ensure([short, long, of_all])
    found = await database.collection("things").find({"kind": "a"})
    await database.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as reader:
        names = reader.execute("SELECT name FROM sqlite_schema WHERE type = 'index'").fetchall()
    assert len(found) == 1
    assert {name for (name,) in names if not name.startswith("sqlite")} == {
        "things.kind_1_size_1",
        "things.size_1",
    }
