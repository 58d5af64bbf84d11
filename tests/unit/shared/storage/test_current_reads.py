"""What is believed of a read that found nothing, while a deposed primary may still answer reads."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import partition_of
from shared.domain.errors import StoreUnavailable
from shared.domain.subscription import Delivery, DeliveryQueueKey
from shared.storage.database import Collection, Database, Document, Query
from shared.storage.events import deliveries
from shared.storage.events.deliveries import MongoDeliveries
from shared.storage.sqlite import open_database
from tests.contract.stores import KEYRING

QUEUE = DeliveryQueueKey("config", "MAC")
PARTITION = partition_of("MAC")


class Primary:
    """A database whose server can be deposed: then it still reads, and no write of it is on a majority."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.term: object = ("db", 1)
        self.is_deposed = False
        self.reads = self.updates = 0
        self.may_write = asyncio.Event()
        self.may_write.set()

    def collection(self, name: str) -> "Documents":
        return Documents(self, self._database.collection(name))


class Documents:
    def __init__(self, primary: Primary, documents: Collection) -> None:
        self._primary = primary
        self._documents = documents

    async def find(self, query: Query, *rest: Any, **options: Any) -> list[Document]:
        found = await self._documents.find(query, *rest, **options)
        self._primary.reads += 1
        return found

    async def update_one(self, query: Query, update: Query, *, upsert: bool = False) -> int:
        self._primary.updates += 1
        await self._primary.may_write.wait()
        if self._primary.is_deposed:
            raise StoreUnavailable("MongoDB: NotWritablePrimary")
        return await self._documents.update_one(query, update, upsert=upsert)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._documents, name)


@pytest.fixture
async def primary(tmp_path: Path) -> AsyncIterator[Primary]:
    database = open_database(tmp_path, SystemClock())
    await database.ensure(deliveries.INDEXES)
    yield Primary(database)
    await database.close()


@pytest.fixture
def stored(primary: Primary) -> MongoDeliveries:
    return MongoDeliveries(primary, KEYRING)  # type: ignore[arg-type]


async def test_rule_11_a_deposed_primary_tells_nobody_which_queues_are_blocked(
    primary: Primary, stored: MongoDeliveries
) -> None:
    assert await stored.blocked(PARTITION) == {}

    primary.is_deposed = True

    with pytest.raises(StoreUnavailable):
        await stored.blocked(PARTITION)


async def test_rule_11_a_deposed_primary_frees_no_queue(
    primary: Primary, stored: MongoDeliveries
) -> None:
    assert await stored.waiting(QUEUE, 9) == []

    primary.is_deposed = True

    with pytest.raises(StoreUnavailable):
        await stored.waiting(QUEUE, 9)


async def test_rule_11_a_read_before_an_election_and_a_write_after_it_say_nothing(
    primary: Primary, stored: MongoDeliveries
) -> None:
    primary.may_write.clear()
    reading = asyncio.create_task(stored.blocked(PARTITION))
    while not primary.updates:
        await asyncio.sleep(0.001)
    primary.term = ("db", 2)
    primary.may_write.set()

    with pytest.raises(StoreUnavailable):
        await reading


async def test_what_a_deposed_primary_shows_in_a_queue_is_left_to_the_lease(
    primary: Primary, stored: MongoDeliveries
) -> None:
    await stored.store([Delivery(QUEUE, "a", 1)])
    primary.is_deposed = True

    assert [each.event_id for each in await stored.waiting(QUEUE, 9)] == ["a"]


async def test_many_empty_queues_cost_few_writes(primary: Primary, stored: MongoDeliveries) -> None:
    primary.may_write.clear()
    reading = [asyncio.create_task(stored.waiting(QUEUE, 9)) for _ in range(200)]
    while primary.reads < len(reading):
        await asyncio.sleep(0.001)
    primary.may_write.set()
    await asyncio.gather(*reading)

    assert primary.updates <= 2


async def test_a_store_without_elections_writes_nothing(
    primary: Primary, stored: MongoDeliveries
) -> None:
    primary.term = None

    await stored.blocked(PARTITION)
    await stored.waiting(QUEUE, 9)

    assert primary.updates == 0
