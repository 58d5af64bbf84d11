"""SQLite answers as MongoDB does: the same random operations are done to both, and both hold the same.

MDM_TEST_EXAMPLES says how many sequences of operations are drawn; without it 250, the same ones in each run.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.concurrency.clock import SystemClock
from shared.domain.errors import MdmError
from shared.storage.database import Collection, Database, UpdateOne
from shared.storage.mongo import Mongo
from shared.storage.sqlite import open_database
from shared.storage.sqlite.engine.wal import CommitBounds
from tests.contract import many_documents
from tests.contract.store_operations import DOCUMENTS, INDEXES, Step, indexes_of, steps

EXAMPLES = int(os.environ.get("MDM_TEST_EXAMPLES", "250"))
pytestmark = pytest.mark.timeout(60 + EXAMPLES)
PATIENCE = timedelta(minutes=4)
"""In place of the deadlines of both stores: where the machine stands still for some seconds, one of them
would be away, and the other one not."""
RECENT = datetime(2020, 1, 1, tzinfo=UTC)
CASES = st.sampled_from(sorted(INDEXES)).flatmap(lambda kind: st.tuples(st.just(kind), steps(kind)))
bounded = settings(
    deadline=None,
    derandomize="MDM_TEST_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Both:
    """Both stores, on one event loop for all examples; those with the same indexes share a collection."""

    def __init__(self, folder: Path, url: str) -> None:
        self._runner = asyncio.Runner()
        self.sqlite, self.mongo = self.run(self._opened(folder, url))

    async def _opened(self, folder: Path, url: str) -> tuple[Database, Database]:
        sqlite = open_database(folder, SystemClock(), CommitBounds(deadline=PATIENCE))
        # A heartbeat without an answer for five seconds would end the operation that is under way.
        seldom = f"heartbeatFrequencyMS={PATIENCE // timedelta(milliseconds=1)}"
        return sqlite, Mongo(f"{url}{'&' if '?' in url else '?'}{seldom}", driver="pymongo")

    def run(self, work: Any) -> Any:
        return self._runner.run(self._patiently(work))

    async def _patiently(self, work: Any) -> Any:
        with pymongo.timeout(PATIENCE.total_seconds()):
            return await work

    async def emptied(self, kind: str) -> list[Collection]:
        """A collection of each store without documents, with indexes of this kind."""
        name = f"things_{kind.replace(' ', '_')}"
        for database in (self.sqlite, self.mongo):
            await database.ensure(indexes_of(kind, name))
        found = [database.collection(name) for database in (self.sqlite, self.mongo)]
        for collection in found:
            await collection.delete_many({})
        return found

    def close(self) -> None:
        self.run(self.sqlite.close())
        self.run(self.mongo.close())
        self._runner.close()


@pytest.fixture
def both(tmp_path: Path, mongodb_url: str) -> Iterator[Both]:
    both = Both(tmp_path, mongodb_url)
    yield both
    both.close()


@settings(bounded, max_examples=EXAMPLES)
@given(case=CASES)
def test_random_operations_are_answered_alike_and_leave_the_same(
    both: Both, case: tuple[str, list[Step]]
) -> None:
    both.run(compared(both, *case))


@settings(bounded, max_examples=EXAMPLES // 10)
@given(kind=st.sampled_from(sorted(INDEXES)), done=many_documents.STEPS)
def test_the_same_holds_of_more_than_is_read_or_written_at_once(
    both: Both, kind: str, done: list[Step]
) -> None:
    both.run(compared(both, kind, done))


async def compared(both: Both, kind: str, done: list[Step]) -> None:
    collections = await both.emptied(kind)
    for number, step in enumerate(done):
        answers = [await answered(collection, step) for collection in collections]
        assert answers[0] == answers[1], f"step {number}: {step}"
    contents = [await content(collection) for collection in collections]
    assert contents[0] == contents[1]


async def answered(collection: Collection, step: Step) -> Any:
    """What a step answered, as it is compared; an error by its name."""
    try:
        answer = await taken(collection, deepcopy(step))
    except MdmError as error:
        return type(error).__name__
    if not isinstance(answer, list):
        return answer
    in_order = [tuple(canonical(_at(each, path)) for path in step.sorted_by) for each in answer]
    if step.is_cut:
        return in_order
    return in_order, sorted(map(repr, map(canonical, answer)))


async def taken(collection: Collection, step: Step) -> Any:
    """What a step answers."""
    call: Callable[..., Any] = getattr(collection, step.method)
    if step.method == "scan":
        return [document async for found in call(*step.arguments, batch=3) for document in found]
    return await call(*step.arguments, **step.options)


async def content(collection: Collection) -> list[Any]:
    found = [document async for batch in collection.scan({}) for document in batch]
    return sorted(repr(canonical(document)) for document in found)


def canonical(value: Any) -> Any:
    """Values that are the same in both stores are equal: fields in any order, times of today alike."""
    if isinstance(value, dict):
        return sorted((name, canonical(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return [canonical(each) for each in value]
    if isinstance(value, datetime):
        return "now" if value > RECENT else value
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)  # the driver's 64-bit integers are of a class of their own
    return bytes(value) if isinstance(value, bytes) else value


def _at(document: dict[str, Any], path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


# --- what SQLite refuses

REFUSED_QUERIES: list[dict[str, Any]] = [
    {"$or": [{"n": 1}]},
    {"n": {"$nin": [1]}},
    {"n": {"$gt": None}},
    {"mixed": {"$gte": [1]}},
    {"mixed": math.nan},
    {"s": {"$in": "text"}},
    {"s": {"$regex": "a"}},
    {"tags": {"$size": 1}},
    {"tags": {"$all": ["a"]}},
]
REFUSED_UPDATES: list[dict[str, Any]] = [
    {},
    {"n": 1},
    {"$set": {"_id": "other"}},
    {"$set": {"n": 1}, "$inc": {"n": 1}},
    {"$set": {"in": {}, "in.x": ""}},
    {"$set": {"n": 1}, "$push": {"tags": "a"}},
    {"$set": {"n": 1}, "$inc": {"count": "1"}},
    {"$set": {"n": 1}, "$max": {"mixed": math.nan}},
    {"$set": {"n": 1}, "$addToSet": {"tags": {"$each": "a"}}},
    {"$set": {"n": 1}, "$currentDate": {"at": {"$type": "timestamp"}}},
]
_UNNAMED_UPSERTS = ({"n": 1}, {"_id": {"$in": ["id1", "id9"]}}, {"_id": {"$gt": "id9"}})
REFUSED = st.one_of(
    st.sampled_from(REFUSED_QUERIES).flatmap(
        lambda query: st.sampled_from(
            [
                Step("find", (query,)),
                Step("scan", (query,)),
                Step("update_one", (query, {"$set": {"n": 1}})),
                Step("update_many", (query, {"$set": {"n": 1}})),
                Step("bulk_write", ([UpdateOne(query, {"$set": {"n": 1}})],)),
                Step("delete_one", (query,)),
                Step("delete_many", (query,)),
            ]
        )
    ),
    st.sampled_from(REFUSED_UPDATES).flatmap(
        lambda update: st.sampled_from(
            [
                Step("update_one", ({"_id": "id1"}, update)),
                Step("update_one", ({"_id": "id1"}, update), {"upsert": True}),
                Step("update_many", ({}, update)),
                Step(
                    "bulk_write",
                    ([UpdateOne({"_id": "id1"}, {"$set": {"n": 1}}), UpdateOne({}, update)],),
                ),
            ]
        )
    ),
    st.sampled_from(_UNNAMED_UPSERTS).map(
        lambda query: Step("update_one", (query, {"$set": {"n": 1}}), {"upsert": True})
    ),
    st.sampled_from(
        [
            Step("find", ({}, {"n": 1, "s": 0})),
            Step("find", ({}, {"in.x": 0})),
            Step("find", ({}, {"n": "$s"})),
            Step("find", ({}, None), {"sort": [("mixed", 1)]}),
            Step("insert_many", ([{"_id": "new", "name": "x"}, {"_id": None, "name": "y"}],)),
            Step("insert_many", ([{"_id": "new", "name": "x"}, {"_id": "without"}],)),
            Step("insert_many", ([{"_id": "new", "name": "x"}, {"_id": 1.5, "name": "y"}],)),
            Step("insert_many", ([{"_id": "new", "name": "x"}, {"_id": "y", "name": ["y"]}],)),
            Step("update_one", ({"_id": "id1"}, {"$unset": {"name": ""}})),
            Step("update_one", ({"_id": "id1"}, {"$set": {"s": {"not": "indexed"}}})),
        ]
    ),
)


@settings(bounded, max_examples=EXAMPLES)
@given(documents=st.lists(DOCUMENTS, max_size=6), step=REFUSED)
def test_what_sqlite_refuses_changes_nothing(
    both: Both, documents: list[dict[str, Any]], step: Step
) -> None:
    first = {"_id": "id1", "name": "first", "count": 1}
    both.run(refused(both, [first, *documents], step))


async def refused(both: Both, documents: list[dict[str, Any]], step: Step) -> None:
    collection, _ = await both.emptied("unique")
    await collection.insert_many(documents)
    before = await content(collection)

    with pytest.raises(NotImplementedError):
        await taken(collection, step)

    assert await content(collection) == before
