"""The whole server of a test module, whose tests run on its loop; a store for one process; the brokers."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from shared.concurrency.clock import SystemClock
from shared.messaging.memory.broker import LocalBroker
from shared.messaging.rabbit.broker import RabbitBroker
from shared.storage.database import Database
from shared.storage.enrollments import store as enrollments
from shared.storage.queue import documents as entry_documents
from shared.storage.sqlite import open_database
from tests.conftest import remove_topology
from tests.integration.whole import Whole, whole_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with whole_server(tmp_path_factory.mktemp("whole")) as found:
        yield found


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """The store of a single process, with the indexes of the collections that services share."""
    opened = open_database(tmp_path / "data", SystemClock())
    await opened.ensure(enrollments.INDEXES)
    await opened.ensure(entry_documents.indexes(timedelta(days=30)))
    yield opened
    await opened.close()


@pytest_asyncio.fixture(params=["local", pytest.param("rabbit", marks=pytest.mark.real)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[LocalBroker | RabbitBroker]:
    """Each of the two brokers."""
    made: LocalBroker | RabbitBroker
    if request.param == "local":
        made = LocalBroker(clock=SystemClock())
        await made.start()
    else:
        url = request.getfixturevalue("rabbit").url
        await remove_topology(url)
        made = RabbitBroker(url, clock=SystemClock())
        await made.start(timedelta(seconds=30))
    yield made
    await made.close()
