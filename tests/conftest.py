"""Fixtures that give tests real servers: private ones, or those that the two variables name.

`amqp_url` and `mongodb_url` are what most tests want: a broker without our queues, a database of its
own. Tests that stop, kill or freeze a server ask for `fault_rabbit` or `fault_store`, which are never
the ones that the variables name.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import aiormq
import hypothesis
import pytest
from pymongo import MongoClient

from shared.messaging.topology import EVENTS_EXCHANGE, QUEUES
from tests.support.harness.servers import (
    AMQP_VARIABLE,
    MONGODB_VARIABLE,
    Elsewhere,
    HasUrl,
    Rabbit,
    Server,
    ServerMissing,
    Store,
)
from tests.support.harness.system import ServiceProcess

# How long an example takes says more about what else the machine does than about our code; the tests that
# bound a time say so.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

ServiceProcess.forks = True

REAL = {"rabbit", "store_server", "amqp_url", "mongodb_url", "fault_rabbit", "fault_store"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


def _running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    except ServerMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    finally:
        server.close()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HasUrl]:
    """A broker that all tests of the run share."""
    if given := os.environ.get(AMQP_VARIABLE):
        yield Elsewhere(given)
    else:
        yield from _running(Rabbit(tmp_path_factory.mktemp("rabbit")))


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HasUrl]:
    """A document store that all tests of the run share."""
    if given := os.environ.get(MONGODB_VARIABLE):
        yield Elsewhere(given)
    else:
        yield from _running(Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def fault_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A broker of the module's own; a test that leaves it stopped or frozen brings it back."""
    yield from _running(Rabbit(tmp_path_factory.mktemp("fault-rabbit")))


@pytest.fixture(scope="module")
def fault_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _running(Store(tmp_path_factory.mktemp("fault-store")))


@pytest.fixture
async def amqp_url(rabbit: HasUrl) -> AsyncIterator[str]:
    """A broker that has none of our queues yet."""
    await remove_topology(rabbit.url)
    yield rabbit.url


@pytest.fixture
def mongodb_url(store_server: HasUrl) -> Iterator[str]:
    """A database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(store_server.url)._replace(path=f"/{name}"))
    yield url
    client: MongoClient[dict[str, object]] = MongoClient(url)
    with client:
        client.drop_database(name)


async def remove_topology(url: str) -> None:
    """Delete our queues and the exchange, with all that is in them.

    Not before a test that kills the broker: RabbitMQ 3.10 may lose what is in a queue that was
    deleted and made anew a moment earlier."""
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        for queue in QUEUES:
            await channel.queue_delete(queue.name)
        await channel.exchange_delete(EVENTS_EXCHANGE)
        await channel.close()
