"""A copy between stores of both kinds: whole, equal to the byte, and safe to begin again."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.int64 import Int64

from shared.concurrency.clock import SystemClock
from shared.domain.errors import Conflict, StoreUnavailable
from shared.storage.database import Collection, Database, Document
from shared.storage.indexes import Index
from shared.storage.maintenance.copying import TOGETHER, Copying
from shared.storage.mongo import Mongo
from shared.storage.sqlite import open_database

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LARGE = 12 * 1024 * 1024

Documents = Mapping[str, Sequence[Document]]

EVERY_TYPE: Document = {
    "_id": "every type",
    "text": "Grüße, \x00 and \U0001f34e",
    "small": 7,
    "small in 64 bits": Int64(7),
    "large": 2**62,
    "negative": -(2**63),
    "fraction": 0.1,
    "whole fraction": 1.0,
    "yes": True,
    "nothing": None,
    "bytes": bytes(range(256)),
    "time": datetime(2026, 11, 1, 12, 30, 1, 234000, tzinfo=UTC),
    "before 1970": datetime(1905, 1, 2, tzinfo=UTC),
    "empty": {"document": {}, "array": [], "text": "", "bytes": b""},
    "deep": {"z": [{"b": 1, "a": [1, 2.0, Int64(3)]}], "a": {"y": 1, "x": 2}},
}


def installation() -> dict[str, list[Document]]:
    """Documents as adapters write them, as far as indexes look at them."""
    return {
        "enrollments": [
            {"_id": f"device-{n}", "device": f"device-{n}", "names": [f"device-{n}", f"S{n}"]}
            for n in range(3 * TOGETHER + 1)
        ],
        "events": [
            {"_id": f"event-{n}", "device": "device-1", "at": NOW, "created_at": Int64(n)}
            for n in range(TOGETHER)
        ],
        "tokens": [{"_id": "token", "name": "tool"}],
        "profiles": [EVERY_TYPE, {"_id": 5, "number": 1}, {"_id": "large", "body": b"x" * LARGE}],
    }


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Database]:
    async with sqlite(tmp_path / "source") as database:
        await fill(database, installation())
        yield database


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Database]:
    async with sqlite(tmp_path / "target") as database:
        yield database


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Database]:
    database = open_database(folder, SystemClock())
    yield database
    await database.close()


async def fill(database: Database, documents: Documents) -> None:
    for name, wanted in documents.items():
        assert await database.collection(name).insert_many(wanted) == set()


def silently(name: str, count: int, what: str) -> None:
    """Tell nobody."""


async def copy(source: Database, target: Database, now: datetime = NOW) -> dict[str, int]:
    copying = Copying(source, target, now, silently)
    await copying.check_target()
    await copying.fill()
    return await copying.verify()


async def contents(database: Database) -> dict[str, dict[Any, bytes]]:
    """All documents as bytes; collections that have none are left out."""
    found: dict[str, dict[Any, bytes]] = {}
    for name in await database.names():
        async for batch in database.collection(name).scan({}):
            for document in batch:
                found.setdefault(name, {})[document["_id"]] = bson.encode(document)
    return found


class Failing:
    """A store that fails after so many inserts, in the middle of one."""

    def __init__(self, database: Database, inserts: int) -> None:
        self._database = database
        self.left = inserts

    def collection(self, name: str) -> Collection:
        collection = self._database.collection(name)
        return FailingCollection(collection, self)  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class FailingCollection:
    def __init__(self, collection: Collection, store: Failing) -> None:
        self._collection = collection
        self._store = store

    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        if self._store.left == 0:
            await self._collection.insert_many(documents[: len(documents) // 2])
            raise StoreUnavailable("cut short")
        self._store.left -= 1
        return await self._collection.insert_many(documents)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


@pytest.mark.parametrize(
    "driver", [pytest.param(each, marks=pytest.mark.real) for each in ("motor", "pymongo")]
)
async def test_a_copy_to_mongodb_and_back_is_equal_to_the_byte(
    source: Database, target: Database, mongodb_url: str, driver: Any
) -> None:
    async with AsyncExitStack() as stack:
        mongo = Mongo(mongodb_url, driver=driver)
        stack.push_async_callback(mongo.close)

        there = await copy(source, mongo)
        back = await copy(mongo, target)

        assert there | {"profiles": 3} == {name: len(docs) for name, docs in installation().items()}
        assert {name: count for name, count in back.items() if count} == there
        assert await contents(mongo) == await contents(source)
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("inserts", range(8))
async def test_a_copy_cut_short_at_any_insert_goes_on(
    source: Database, target: Database, inserts: int
) -> None:
    with pytest.raises(StoreUnavailable, match="cut short"):
        await copy(source, Failing(target, inserts))  # type: ignore[arg-type]
    assert await contents(target) != await contents(source)

    await copy(source, target)

    assert await contents(target) == await contents(source)


async def test_large_documents_are_written_one_by_one(target: Database, tmp_path: Path) -> None:
    async with sqlite(tmp_path / "large") as large:
        documents = [{"_id": n, "body": b"x" * 5_000_000} for n in range(3)]
        await fill(large, {"profiles": documents})

        with pytest.raises(StoreUnavailable, match="cut short"):
            await copy(large, Failing(target, 2))  # type: ignore[arg-type]

    assert list((await contents(target))["profiles"]) == [0, 1]


async def test_a_finished_copy_can_be_made_again(source: Database, target: Database) -> None:
    await copy(source, target)

    assert sum((await copy(source, target)).values()) == 4 * TOGETHER + 5


@pytest.mark.parametrize(
    "other",
    [{"_id": "token", "name": "other"}, {"_id": "token", "name": "tool", "more": None}],
    ids=["a value", "a field"],
)
async def test_a_document_that_differs_is_named_and_nothing_is_written(
    source: Database, target: Database, other: Document
) -> None:
    await fill(target, {"tokens": [other]})

    with pytest.raises(Conflict, match="collection tokens: document 'token' differs"):
        await copy(source, target)

    assert await contents(target) == {"tokens": {"token": bson.encode(other)}}


async def test_a_number_of_another_type_differs(source: Database, target: Database) -> None:
    await fill(target, {"profiles": [{"_id": 5, "number": 1.0}]})

    with pytest.raises(Conflict, match="collection profiles: document 5 differs"):
        await copy(source, target)


async def test_a_target_with_anything_else_is_not_written_to(
    source: Database, target: Database
) -> None:
    await fill(target, {"enrollments": [{"_id": "another", "names": []}]})

    with pytest.raises(Conflict, match="document 'another' is in the target only"):
        await copy(source, target)

    assert list(await contents(target)) == ["enrollments"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_id": "token", "name": "changed"}, "document 'token' differs"),
        (None, "document 'token' is in the target only"),
    ],
    ids=["changed", "removed"],
)
async def test_a_change_of_the_source_meanwhile_is_found(
    source: Database, target: Database, change: Document | None, told: str
) -> None:
    copying = Copying(source, target, NOW, silently)
    await copying.check_target()
    await copying.fill()
    await source.collection("tokens").delete_one({"_id": "token"})
    if change:
        await fill(source, {"tokens": [change]})

    with pytest.raises(Conflict, match=f"collection tokens: {told}"):
        await copying.verify()


async def test_a_document_added_to_the_source_meanwhile_is_found(
    source: Database, target: Database
) -> None:
    copying = Copying(source, target, NOW, silently)
    await copying.check_target()
    await copying.fill()
    await fill(source, {"tokens": [{"_id": "new", "name": "new"}]})

    with pytest.raises(Conflict, match="document 'new' is missing in the target"):
        await copying.verify()


async def test_what_leaves_the_source_by_its_age_meanwhile_does_not_stop_a_copy(
    source: Database, target: Database
) -> None:
    copying = Copying(source, target, NOW + timedelta(days=1), silently)
    await copying.check_target()
    await copying.fill()
    await source.collection("events").delete_one({"_id": "event-3"})

    assert (await copying.verify())["events"] == TOGETHER - 1
    with pytest.raises(Conflict, match="document 'event-3' is in the target only"):
        await Copying(source, target, NOW - timedelta(days=1), silently).verify()


RETAINED = {
    "audit": "at",
    "events": "at",
    "jobs": "finished_at",
    "job_parts": "created_at",
    "queue": "finished_at",
}
"""Collections whose documents leave so long after this time as a setting of the source says."""


@pytest.mark.parametrize("name", RETAINED)
async def test_a_document_that_is_old_is_not_taken_for_one_that_left_the_source(
    source: Database, target: Database, name: str
) -> None:
    foreign = {"_id": "foreign", RETAINED[name]: NOW - timedelta(days=5000)}
    await fill(target, {name: [foreign]})

    with pytest.raises(Conflict, match="document 'foreign' is in the target only") as refused:
        await copy(source, target)

    assert "begin again with an empty target" in str(refused.value)
    assert list(await contents(target)) == [name]


@pytest.mark.parametrize(
    ("name", "field", "kept"),
    [("challenges", "expires_at", timedelta(days=1)), ("issued", "not_after", timedelta(days=365))],
)
async def test_what_must_have_left_the_source_by_its_age_does_not_stop_a_copy_begun_again(
    source: Database, target: Database, name: str, field: str, kept: timedelta
) -> None:
    def of(key: str, time: datetime) -> Documents:
        return {name: [{"_id": key, "fingerprint": key, "serial": key, field: time}]}

    await fill(target, of("over", NOW - kept - timedelta(seconds=1)))
    await copy(source, target)

    await fill(target, of("kept", NOW - kept + timedelta(seconds=1)))
    with pytest.raises(Conflict, match="document 'kept' is in the target only"):
        await copy(source, target)


async def test_no_document_leaves_the_target_by_its_age_before_a_service_starts(
    target: Database, tmp_path: Path
) -> None:
    async with sqlite(tmp_path / "old") as old:
        await fill(old, {"events": [{"_id": "old", "at": datetime(2010, 1, 1, tzinfo=UTC)}]})
        await copy(old, target)

    assert await target._expiry.purge() == 0  # type: ignore[attr-defined]


async def test_a_taken_unique_key_is_told(source: Database, target: Database) -> None:
    await target.ensure([Index("tokens", [("name", 1)], unique=True)])
    await fill(source, {"tokens": [{"_id": "twin", "name": "tool"}]})

    with pytest.raises(Conflict, match=r"collection tokens: document '\w+' has a unique key"):
        await copy(source, target)


@pytest.mark.real
async def test_a_collection_of_somebody_else_is_told(target: Database, mongodb_url: str) -> None:
    mongo = Mongo(mongodb_url)
    await mongo.collection("fs.files").insert_one({"_id": 1})

    with pytest.raises(Conflict, match=r"collection fs\.files"):
        await copy(mongo, target)
    await mongo.close()


async def test_progress_is_told(source: Database, target: Database) -> None:
    told: list[tuple[str, int, str]] = []
    copying = Copying(source, target, NOW, lambda *args: told.append(args))

    await copying.check_target()
    await copying.fill()
    await copying.verify()

    of_one = [each[1:] for each in told if each[0] == "enrollments"]
    counts = [TOGETHER, 2 * TOGETHER, 3 * TOGETHER, 3 * TOGETHER + 1]
    assert of_one == [(n, "copied") for n in counts] + [(n, "compared") for n in counts]
