"""The connections of the embedded store: one writes and checkpoints, and the log stays short."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops
from shared.domain.errors import StoreUnavailable
from shared.storage.database import Collection, Document
from shared.storage.indexes import Index
from shared.storage.sqlite import FILE, SqliteDatabase, open_database
from shared.storage.sqlite.engine.wal import CommitBounds
from tests.support.harness.meddled_store import Meddler

CHECKPOINT_FRAMES = 50
BOUNDS = CommitBounds(checkpoint_frames=CHECKPOINT_FRAMES, most_frames=300, unseen_bytes=20_000)
FRAME = 4096 + 24
INDEXES = [Index("things", [("kind", 1)])]
FEW = 300
"""More than one step of a read."""


@pytest.fixture
def meddler() -> Meddler:
    return Meddler()


@pytest.fixture
async def database(tmp_path: Path, meddler: Meddler) -> AsyncIterator[SqliteDatabase]:
    database = open_database(tmp_path, SystemClock(), BOUNDS, meddler.kind)
    await database.ensure(INDEXES)
    await database.collection("things").insert_many([thing(f"{n}") for n in range(FEW)])
    yield database
    await database.close()


@pytest.fixture
def things(database: SqliteDatabase) -> Collection:
    return database.collection("things")


def thing(key: str) -> Document:
    return {"_id": key, "kind": "a", "body": b"." * 1_000}


async def write(things: Collection, name: str, count: int) -> None:
    for number in range(count):
        await things.insert_many([thing(f"{name}/{number}/{n}") for n in range(4)])


async def read(things: Collection, count: int) -> None:
    for _ in range(count):
        assert len([each async for each in things.scan({"kind": "a"})]) >= FEW / 100


async def stress(things: Collection) -> None:
    async with asyncio.TaskGroup() as tasks:
        for name in "abcdef":
            tasks.create_task(write(things, name, 40))
        for _ in range(4):
            tasks.create_task(read(things, 5))


async def test_one_connection_commits_and_checkpoints_one_thing_at_a_time(
    database: SqliteDatabase, things: Collection, meddler: Meddler
) -> None:
    await stress(things)

    done = sorted(meddler.done, key=lambda each: each.begun)
    assert len(meddler.made) > 2  # long reads had connections of their own
    assert {each.connection for each in done} == {id(meddler.made[0])}
    assert sum(each.sql == "COMMIT" for each in done) > 20
    assert sum("checkpoint" in each.sql for each in done) > 5
    assert all(before.ended <= after.begun for before, after in pairwise(done))


async def test_readers_cannot_write_and_no_connection_checkpoints_or_maps_by_itself(
    database: SqliteDatabase, things: Collection, meddler: Meddler
) -> None:
    await read(things, 1)

    writer, *readers = meddler.made
    assert len(readers) == 2
    for connection in meddler.made:
        assert value_of(connection, "wal_autocheckpoint") == 0
        assert value_of(connection, "mmap_size") == 0
    assert value_of(writer, "synchronous") == 2  # FULL
    for reader in readers:
        assert value_of(reader, "query_only") == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("DELETE FROM things")


def value_of(connection: sqlite3.Connection, name: str) -> int:
    [(value,)] = connection.execute(f"PRAGMA {name}").fetchall()
    return int(value)


async def test_the_connection_that_writes_closes_last_though_a_read_has_not_come_to_its_end(
    tmp_path: Path, meddler: Meddler
) -> None:
    database = open_database(tmp_path, SystemClock(), BOUNDS, meddler.kind)
    await database.ensure(INDEXES)
    things = database.collection("things")
    await things.insert_many([thing(f"{n}") for n in range(FEW)])
    scan = things.scan({"kind": "a"})
    await anext(scan)

    await database.close()

    assert len(meddler.made) == 3
    assert set(meddler.closed) == set(meddler.made)
    assert meddler.closed[-1] is meddler.made[0]
    assert [each.name for each in tmp_path.iterdir()] == [FILE]  # the log is in the file
    with pytest.raises(StoreUnavailable):
        await anext(scan)


async def test_a_long_read_cannot_make_the_log_grow_without_bound(
    things: Collection, tmp_path: Path
) -> None:
    log = tmp_path / f"{FILE}-wal"
    scan = things.scan({"kind": "a"})
    await anext(scan)  # from here on the log cannot begin anew

    await write(things, "beside", 400)

    assert BOUNDS.most_frames * FRAME < log.stat().st_size < 2 * BOUNDS.most_frames * FRAME
    with pytest.raises(StoreUnavailable):
        async for _ in scan:
            pass
    before = log.stat().st_size
    await write(things, "after", 200)
    assert log.stat().st_size == before


async def test_the_log_does_not_grow_while_short_reads_go_on(
    things: Collection, tmp_path: Path
) -> None:
    await stress(things)

    assert (tmp_path / f"{FILE}-wal").stat().st_size < 4 * CHECKPOINT_FRAMES * FRAME


async def test_the_log_does_not_grow_while_nothing_but_old_documents_leave(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    over = Index("notes", [("at", 1)], expire_after=timedelta(days=1))
    await database.ensure([over, Index("notes", [("name", 1)])])
    notes = database.collection("notes")
    old = datetime(2020, 1, 1, tzinfo=UTC)
    chance = random.Random(1)

    def new() -> str:
        return chance.randbytes(8).hex()

    for _ in range(4):
        batch = [{"_id": new(), "at": old, "name": new()} for _ in range(1_000)]
        await notes.insert_many([each | {"body": b"." * 800} for each in batch])

    work = asyncio.create_task(database.watch(Loops(SystemClock())))
    async with asyncio.timeout(20):
        while await notes.find({}, limit=1):
            await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.wait({work})

    assert (tmp_path / f"{FILE}-wal").stat().st_size < 10 * CHECKPOINT_FRAMES * FRAME


async def test_the_start_is_logged_with_sqlites_version_and_the_file_is_its_owners_alone(
    tmp_path: Path,
) -> None:
    with capture_logs() as lines:
        database = open_database(tmp_path / "data", SystemClock())
    await database.collection("things").insert_one(thing("first"))

    modes = {oct(each.stat().st_mode)[-3:] for each in (tmp_path / "data").iterdir()}
    await database.close()
    assert [each for each in lines if each["event"] == "store_opened"] == [
        {
            "event": "store_opened",
            "log_level": "info",
            "file": str(tmp_path / "data" / FILE),
            "sqlite": sqlite3.sqlite_version,
        }
    ]
    assert modes == {"600"}
