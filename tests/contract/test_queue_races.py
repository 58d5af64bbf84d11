"""What is deleted between two steps of a write, by the janitor or because it has expired."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from shared.domain.command import EntryState, QueueEntry
from shared.domain.errors import StoreUnavailable
from shared.storage.database import Collection, Database, Document, Query
from shared.storage.queue.documents import encode_entry
from shared.storage.queue.store import MongoCommandQueue
from tests.contract.stores import DRIVERS, KEYRING, open_store
from tests.contract.test_queue import NOW, command, entry, finished

Meanwhile = Callable[[Collection], Awaitable[object]]


class Disturbed:
    """A collection; `before`: what somebody else does to it before the next calls of an operation."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self.before: dict[str, list[Meanwhile]] = {}

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._collection, operation)

    async def _disturb(self, operation: str) -> None:
        if waiting := self.before.get(operation):
            await waiting.pop(0)(self._collection)

    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        await self._disturb("insert_many")
        return await self._collection.insert_many(documents)

    async def update_many(self, query: Query, update: Query) -> int:
        await self._disturb("update_many")
        return await self._collection.update_many(query, update)

    async def find(
        self, query: Query, fields: Mapping[str, Any] | None = None, **options: Any
    ) -> list[Document]:
        await self._disturb("find")
        return await self._collection.find(query, fields, **options)


class DisturbedStore:
    """A store whose collections are disturbed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.collections: dict[str, Disturbed] = {}

    def collection(self, name: str) -> Disturbed:
        return self.collections.setdefault(name, Disturbed(self._database.collection(name)))


@pytest.fixture(params=DRIVERS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[DisturbedStore]:
    async with open_store(request) as database:
        yield DisturbedStore(database)


@pytest.fixture
def queue(store: DisturbedStore) -> MongoCommandQueue:
    return MongoCommandQueue(store, KEYRING)  # type: ignore[arg-type]  # all that it uses of a store


async def remember(commands: Collection) -> None:
    await commands.insert_one({"_id": command().hash})


async def forget(commands: Collection) -> None:
    await commands.delete_one({"_id": command().hash})


async def expire(entries: Collection) -> None:
    await entries.delete_one({"_id": entry().id})


async def test_rule_13_a_command_that_is_deleted_before_its_touch_is_stored_anew(
    store: DisturbedStore, queue: MongoCommandQueue
) -> None:
    await queue.store([command("a"), command("b")], NOW)
    store.collections["commands"].before = {"update_many": [forget]}

    await queue.store([command("a"), command("b")], NOW)

    assert set(await queue.commands({command("a").hash})) == {command("a").hash}


async def test_a_command_that_is_deleted_again_and_again_is_not_accepted(
    store: DisturbedStore, queue: MongoCommandQueue
) -> None:
    await queue.store([command()], NOW)

    store.collections["commands"].before = {
        "insert_many": [remember] * 100,
        "update_many": [forget] * 100,
    }

    with pytest.raises(StoreUnavailable):
        await queue.store([command()], NOW)


async def test_an_entry_that_expires_before_it_is_read_is_inserted(
    store: DisturbedStore, queue: MongoCommandQueue
) -> None:
    await finished(queue, EntryState.CANCELLED)
    other: QueueEntry = entry("c2")
    store.collections["queue"].before = {"find": [expire]}

    assert await queue.insert([entry(order="order-9"), other]) == [None, None]

    assert await queue.insert([entry(), other]) == [entry(order="order-9"), other]


async def test_an_entry_that_expires_again_and_again_is_not_accepted(
    store: DisturbedStore, queue: MongoCommandQueue
) -> None:
    async def insert_first(entries: Collection) -> None:
        await entries.insert_one(encode_entry(entry()))

    await queue.insert([entry("c2")])
    store.collections["queue"].before = {
        "insert_many": [insert_first] * 100,
        "find": [expire] * 100,
    }

    with pytest.raises(StoreUnavailable):
        await queue.insert([entry()])
