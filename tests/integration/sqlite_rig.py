"""A store of the test's own on a disk that a test meddles with: fixtures and documents."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from shared.concurrency.clock import SystemClock
from shared.storage.database import Collection, Document
from shared.storage.sqlite import SqliteDatabase, open_database
from shared.storage.sqlite.engine.wal import CommitBounds
from tests.support.harness.meddled_store import Meddler

DEADLINE = timedelta(milliseconds=300)
BOUNDS = CommitBounds(deadline=DEADLINE, checkpoint_frames=1, unseen_bytes=100_000)
SOON = 0.1
LARGE = b"." * 600_000
"""So much is written in the thread."""


@pytest.fixture
async def meddler() -> AsyncIterator[Meddler]:
    meddler = Meddler()
    yield meddler
    meddler.go_on()


@pytest.fixture
async def database(tmp_path: Path, meddler: Meddler) -> AsyncIterator[SqliteDatabase]:
    database = open_database(tmp_path, SystemClock(), BOUNDS, meddler.kind)
    await database.collection("things").insert_one(thing("first"))
    yield database
    meddler.go_on()
    meddler.failing.clear()
    await database.close()


@pytest.fixture
def things(database: SqliteDatabase) -> Collection:
    return database.collection("things")


def thing(key: str, **more: object) -> Document:
    return {"_id": key, "kind": "a", "tags": ["x"], **more}


async def is_there(things: Collection, *keys: str) -> list[bool]:
    found = {each["_id"] for each in await things.find({"_id": {"$in": list(keys)}})}
    return [key in found for key in keys]
