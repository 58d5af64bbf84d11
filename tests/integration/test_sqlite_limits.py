"""The embedded store at its limits: without memory, with a log that is too long, damaged."""

import asyncio
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.errors import StoreUnavailable
from shared.storage.indexes import Index
from shared.storage.sqlite import Damaged, open_database
from shared.storage.sqlite.engine.wal import CommitBounds
from tests.support.harness.meddled_store import Meddler, error_of

INDEX = Index("things", [("kind", 1)])


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT", "PRAGMA wal_checkpoint"])
async def test_writes_go_on_after_sqlite_had_no_memory(tmp_path: Path, statement: str) -> None:
    meddler = Meddler()
    bounds = CommitBounds(deadline=timedelta(seconds=1), checkpoint_frames=1, unseen_bytes=0)
    database = open_database(tmp_path, SystemClock(), bounds, meddler.kind)
    things = database.collection("things")
    await things.insert_one({"_id": "first"})

    meddler.failing[statement] = MemoryError()  # what Python's module makes of SQLITE_NOMEM
    try:
        async with asyncio.timeout(3):
            await things.insert_one({"_id": "meanwhile"})
    except (StoreUnavailable, TimeoutError):
        pass
    meddler.failing.clear()
    await asyncio.sleep(1.2)

    async with asyncio.timeout(3):
        assert await things.insert_one({"_id": "later"})
    await database.close()


async def test_long_reads_are_served_again_once_the_log_was_too_long(tmp_path: Path) -> None:
    bounds = CommitBounds(checkpoint_frames=10, most_frames=60, unseen_bytes=20_000)
    database = open_database(tmp_path, SystemClock(), bounds)
    things = database.collection("things")
    await database.ensure([INDEX])
    await things.insert_many([{"_id": str(n), "kind": "a", "p": "." * 2000} for n in range(500)])

    async def read(tag: str, writes: int) -> None:
        async for found in things.scan({"kind": "a"}):
            for n in range(writes):
                key = f"{tag}{found[0]['_id']}{n}"
                await things.insert_one({"_id": key, "kind": "b", "p": "." * 9000})

    with pytest.raises(StoreUnavailable):
        await read("much", 60)  # keeps the log from being shortened
    await read("little", 1)
    await database.close()


async def test_the_log_of_a_damaged_store_is_left_as_it_is(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    await database.collection("things").insert_one({"_id": "first"})
    file, log = tmp_path / "store.db", tmp_path / "store.db-wal"
    before = file.read_bytes(), log.read_bytes()
    assert isinstance(database._commits.failed(error_of(sqlite3.SQLITE_CORRUPT)), Damaged)
    await database.close()
    assert log.exists()
    assert (file.read_bytes(), log.read_bytes()) == before


async def test_a_document_that_is_nested_too_deeply_to_read_is_no_damage(tmp_path: Path) -> None:
    deep: dict[str, object] = {}
    for _ in range(900):
        deep = {"in": deep}
    database = open_database(tmp_path, SystemClock())
    things = database.collection("things")
    await things.insert_one({"_id": "deep", "in": deep})

    async def read(frames: int) -> object:
        return await (read(frames - 1) if frames else things.find_one({"_id": "deep"}))

    with pytest.raises(StoreUnavailable) as caught:
        await read(50)

    assert not isinstance(caught.value, Damaged)
    assert await things.insert_one({"_id": "next"})
    await database.close()
