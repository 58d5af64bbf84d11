"""The stores that a contract suite runs against: the fake, SQLite, and MongoDB with both drivers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.clock import SystemClock
from shared.security.sealing import Sealer
from shared.storage import enrollments, place_documents
from shared.storage.database import Database
from shared.storage.mongo import Mongo
from shared.storage.sqlite import open_database

MONGODB: list[Any] = [
    pytest.param("motor", marks=pytest.mark.real),
    pytest.param("pymongo", marks=pytest.mark.real),
]
DRIVERS: list[Any] = ["sqlite", *MONGODB]
STORES: list[Any] = ["fake", *DRIVERS]
SEALER = Sealer([b"a secret key for tests: 32 bytes"])


@asynccontextmanager
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """A database of the test's own, with its indexes: the one that the parameter names.

    Of an async fixture: what gives a folder or a URL is asked for by name, so that nothing but MongoDB needs
    a server."""
    database = opened(request)
    try:
        await database.ensure(enrollments.INDEXES)
        await database.ensure(place_documents.indexes(timedelta(days=30)))
        yield database
    finally:
        await database.close()


def opened(request: pytest.FixtureRequest) -> Database:
    if request.param == "sqlite":
        folder: Path = request.getfixturevalue("tmp_path")
        return open_database(folder, SystemClock())
    return Mongo(request.getfixturevalue("mongodb_url"), driver=request.param)
