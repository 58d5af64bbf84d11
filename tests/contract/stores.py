"""The stores that a contract suite runs against: the fake, SQLite in the process and by its
socket, and MongoDB with both drivers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.concurrency.clock import SystemClock
from shared.security.encryption import AesKeyring
from shared.storage.database import Database
from shared.storage.enrollments import store as enrollments
from shared.storage.mongo import Mongo
from shared.storage.queue import documents as entry_documents
from shared.storage.remote import RemoteDatabase, StoreServer
from shared.storage.sqlite import SqliteDatabase, open_database
from tests.contract.query_plans import Watched, plans

MONGODB: list[Any] = [
    pytest.param("motor", marks=pytest.mark.real),
    pytest.param("pymongo", marks=pytest.mark.real),
]
DRIVERS: list[Any] = ["sqlite", "remote", *MONGODB]
STORES: list[Any] = ["fake", *DRIVERS]
KEYRING = AesKeyring([b"a secret key for tests: 32 bytes"])


@asynccontextmanager
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """A database of the test's own, with its indexes: the one that the parameter names.

    Of an async fixture: what gives a folder or a URL is asked for by name, so that nothing but MongoDB needs
    a server."""
    async with _opened(request) as database:
        await database.ensure(enrollments.INDEXES)
        await database.ensure(entry_documents.indexes(timedelta(days=30)))
        yield Watched(database, await plans()) if isinstance(database, SqliteDatabase) else database


@asynccontextmanager
async def _opened(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        if request.param not in {"sqlite", "remote"}:
            mongo = Mongo(request.getfixturevalue("mongodb_url"), driver=request.param)
            stack.push_async_callback(mongo.close)
            yield mongo
            return
        folder: Path = request.getfixturevalue("tmp_path")
        database = open_database(folder, SystemClock())
        stack.push_async_callback(database.close)
        if request.param == "sqlite":
            yield database
            return
        server = StoreServer(database, folder)
        await server.start()
        stack.push_async_callback(server.close)
        yield RemoteDatabase(folder)
