"""The stores that a contract suite runs against: the fake, and MongoDB with both drivers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from shared.security.sealing import Sealer
from shared.storage import enrollments, place_documents, schema
from shared.storage.mongo import Mongo

DRIVERS: list[Any] = [
    pytest.param("motor", marks=pytest.mark.real),
    pytest.param("pymongo", marks=pytest.mark.real),
]
STORES: list[Any] = ["fake", *DRIVERS]
SEALER = Sealer([b"a secret key for tests: 32 bytes"])


@asynccontextmanager
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[Mongo]:
    """A database of the test's own, with its indexes, through the driver that the parameter names.

    Of an async fixture: the fixture that gives the URL is asked for by name, so that the fake needs
    no server."""
    mongo = Mongo(request.getfixturevalue("mongodb_url"), driver=request.param)
    try:
        await schema.ensure(mongo, enrollments.INDEXES)
        await schema.ensure(mongo, place_documents.indexes(timedelta(days=30)))
        yield mongo
    finally:
        await mongo.close()
