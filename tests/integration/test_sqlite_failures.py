"""The embedded store on a disk that fails: whom it concerns, and what is there afterwards (F10)."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops
from shared.domain.errors import StoreUnavailable
from shared.storage.database import Collection
from shared.storage.indexes import Index
from shared.storage.sqlite import Damaged, SqliteDatabase
from tests.integration import sqlite_rig
from tests.integration.sqlite_rig import LARGE, is_there, thing
from tests.support.harness.meddled_store import Meddler, error_of

meddler, database, things = sqlite_rig.meddler, sqlite_rig.database, sqlite_rig.things

INDEXES = [Index("things", [("kind", 1)]), Index("things", [("tags", 1)], of_array=True)]


async def test_a_fault_of_one_write_is_told_to_it_alone(
    database: SqliteDatabase, things: Collection
) -> None:
    await database.ensure(INDEXES)
    documents = [thing("before"), thing("odd") | {"tags": "no array"}, thing("behind")]

    told = await asyncio.gather(*map(things.insert_one, documents), return_exceptions=True)

    assert [told[0], told[2]] == [True, True]
    assert isinstance(told[1], NotImplementedError)
    assert await is_there(things, "before", "odd", "behind") == [True, False, True]


@pytest.mark.parametrize("statement", ["UPDATE", "COMMIT"])
async def test_an_error_of_the_disk_takes_back_the_whole_transaction(
    things: Collection, meddler: Meddler, statement: str
) -> None:
    meddler.failing[statement] = error_of(sqlite3.SQLITE_FULL)
    told = await asyncio.gather(
        things.insert_one(thing("before")),
        things.update_one({"_id": "first"}, {"$set": {"kind": "b"}}),
        things.insert_one(thing("behind")),
        return_exceptions=True,
    )
    meddler.failing.clear()

    assert [type(each) for each in told] == [StoreUnavailable] * 3
    assert await is_there(things, "before", "behind") == [False, False]
    assert await things.find_one({"_id": "first"}) == thing("first")
    assert await things.insert_one(thing("next")) is True


@pytest.mark.parametrize("index", INDEXES)
async def test_an_index_that_was_taken_back_is_forgotten_and_can_be_made_again(
    database: SqliteDatabase, things: Collection, meddler: Meddler, index: Index
) -> None:
    await things.delete_one({"_id": "first"})  # an index of an empty table is made in one step
    query = {index.keys[0][0]: "x" if index.of_array else "a"}
    meddler.failing["COMMIT"] = error_of(sqlite3.SQLITE_FULL)
    with pytest.raises(StoreUnavailable):
        await database.ensure([index])
    meddler.failing.clear()

    assert await things.insert_one(thing("after")) is True
    assert await things.find(query) == [thing("after")]
    await database.ensure([index])
    assert await things.insert_one(thing("last")) is True
    assert await things.find(query) == [thing("after"), thing("last")]


async def test_a_write_that_changes_nothing_does_not_hide_that_the_disk_is_full(
    database: SqliteDatabase, things: Collection, meddler: Meddler
) -> None:
    await database.ping()
    meddler.failing["INSERT"] = error_of(sqlite3.SQLITE_FULL)
    with pytest.raises(StoreUnavailable):
        await things.insert_one(thing("refused"))

    assert await things.delete_one({"_id": "nobody"}) == 0

    with pytest.raises(StoreUnavailable):
        await database.ping()


@pytest.mark.parametrize("statement", ["COMMIT", "PRAGMA wal_checkpoint"])
async def test_after_an_fsync_that_failed_nothing_is_answered_any_more(
    database: SqliteDatabase, things: Collection, meddler: Meddler, statement: str
) -> None:
    watch = asyncio.create_task(database.watch(Loops(SystemClock())))
    meddler.failing[statement] = error_of(sqlite3.SQLITE_IOERR_FSYNC)
    told = await asyncio.gather(things.insert_one(thing("new", body=LARGE)), return_exceptions=True)
    async with asyncio.timeout(5):
        while not watch.done():
            await asyncio.sleep(0)
    meddler.failing.clear()

    if statement == "COMMIT":
        assert isinstance(told[0], Damaged)
    with pytest.raises(ExceptionGroup) as ended:
        await watch
    assert ended.group_contains(Damaged, match="start again on a sound disk")
    for work in (
        things.find_one({"_id": "first"}),
        things.find({}),
        things.insert_one(thing("more")),
        database.ping(),
    ):
        with pytest.raises(Damaged):
            await work


async def test_the_length_of_the_log_cannot_be_seen_and_writes_go_on(
    things: Collection, tmp_path: Path
) -> None:
    log = tmp_path / "store.db-wal"
    aside = tmp_path / "aside"
    log.rename(aside)  # SQLite has it open
    log.mkdir()

    told = [await things.insert_one(thing(f"{n}", body=LARGE)) for n in range(3)]

    log.rmdir()
    aside.rename(log)
    assert told == [True, True, True]
