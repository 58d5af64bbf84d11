"""Looks that each query of our adapters goes by the index that `query_table` names.

`Watched` stands between the contract suites and the store: a query that is not by `_id` must be in the table,
and must go by the index that stands there. So a new query that looks through a whole collection fails its own
contract test, until it has an index or is listed with its reason.
"""

import importlib
import pkgutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from shared import storage
from shared.concurrency.clock import SystemClock
from shared.storage.database import Document, Operation, Query
from shared.storage.indexes import Index
from shared.storage.sqlite import FILE, SqliteDatabase, open_database
from shared.storage.sqlite.engine.catalogue import Tables
from shared.storage.sqlite.engine.plans import (
    ReadPlan,
    Sort,
    Statement,
    Way,
    alternatives,
    read_plan_of,
    statement_of,
)
from shared.storage.sqlite.query.filters import Condition, conditions_of
from tests.contract.query_table import QUERIES, Whole


class Plans:
    """The plans of a store that has the indexes of all services."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.tables = Tables()
        self.tables.load(connection)

    def plan(
        self, collection: str, query: Query, sort: Sort = ()
    ) -> tuple[ReadPlan, Statement, list[str]]:
        """Our plan, its statement, and the steps that SQLite takes."""
        return self._plan(collection, conditions_of(query), sort)

    def _plan(
        self, collection: str, conditions: Sequence[Condition], sort: Sort
    ) -> tuple[ReadPlan, Statement, list[str]]:
        table = self.tables[collection]
        plan = read_plan_of(table, conditions, sort)
        statement = statement_of(table, plan, conditions)
        if not table.exists:  # it has no index, so there is nothing to explain
            return plan, statement, []
        rows = self.connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.values)
        return plan, statement, [str(row[-1]) for row in rows.fetchall()]

    def look(self, collection: str, query: Query, sort: Sort = ()) -> None:
        """AssertionError for a query that does not go as it is listed."""
        conditions = conditions_of(query)
        shape = shape_of(conditions, sort)
        for choice in alternatives(self.tables[collection], conditions, sort):
            self._look(collection, choice, sort, shape)

    def _look(
        self, collection: str, conditions: Sequence[Condition], sort: Sort, shape: str
    ) -> None:
        plan, _, steps = self._plan(collection, conditions, sort)
        assert not any("TEMP B-TREE" in step for step in steps), (collection, shape, steps)
        if plan.way is Way.IDS or plan.known:
            assert all(step.startswith("SEARCH") for step in steps), (collection, shape, steps)
        if plan.way is not Way.IDS:
            listed = [way for way, shapes in QUERIES.get(collection, {}).items() if shape in shapes]
            assert listed, f"{collection}: {shape}: not listed in tests/contract/query_table.py"
            index = plan.known.index.name if plan.known else None
            assert index == (None if isinstance(listed[0], Whole) else listed[0]), (shape, steps)


_plans: list[Plans] = []


async def plans() -> Plans:
    """Made once for all tests."""
    if not _plans:
        with tempfile.TemporaryDirectory() as folder:
            database = open_database(Path(folder), SystemClock())
            await database.ensure(all_indexes())
            await database.close()
            with closing(sqlite3.connect(Path(folder, FILE))) as source:
                copy = sqlite3.connect(":memory:", check_same_thread=False)
                source.backup(copy)
        _plans.append(Plans(copy))
    return _plans[0]


def all_indexes() -> list[Index]:
    """Of every adapter."""
    found: list[Index] = []
    for each in pkgutil.walk_packages(storage.__path__, "shared.storage."):
        module = importlib.import_module(each.name)
        found += getattr(module, "INDEXES", ())
        make = getattr(module, "indexes", None)
        found += make(timedelta(days=30)) if callable(make) else ()
    return found


_WORDS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<=", "$in": "in"}


def shape_of(conditions: Sequence[Condition], sort: Sort = ()) -> str:
    """A query as it stands in the table."""
    parts = {_part(each) for each in conditions}
    for path in {each.path for each in conditions}:
        low, high = ({f"{path} {sign}", f"{path} {sign}="} & parts for sign in "><")
        if low and high:
            parts = parts - low - high | {f"{path} between"}
    order = ", ".join(f"{path}{' backwards' if way < 0 else ''}" for path, way in sort)
    return (", ".join(sorted(parts)) or "everything") + (f" by {order}" if order else "")


def _part(condition: Condition) -> str:
    path, operator, operand, _ = condition
    if operator == "$exists":
        return f"{path} {'exists' if operand else 'is missing'}"
    if operand is None:
        return f"{path} {'is' if operator == '$eq' else 'is not'} null"
    has_null = operator == "$in" and None in operand
    return f"{path} {_WORDS[operator]}{' or null' if has_null else ''}"


class Watched:
    """SQLite as a `Database`; each query must go as QUERIES says. A scan goes through everything."""

    def __init__(self, database: SqliteDatabase, of_all: Plans) -> None:
        self._database = database
        self._plans = of_all

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def collection(self, name: str) -> Any:
        collection = self._database.collection(name)
        is_ours = not name.startswith("things")  # what tests make up
        return _Watched(collection, name, self._plans) if is_ours else collection


class _Watched:
    def __init__(self, collection: Any, name: str, of_all: Plans) -> None:
        self._collection = collection
        self._name = name
        self._plans = of_all

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    async def find(self, query: Query, *args: Any, **options: Any) -> list[Document]:
        self._look(query, options.get("sort", ()))
        return await self._collection.find(query, *args, **options)

    async def find_one(self, query: Query, *args: Any) -> Document | None:
        self._look(query)
        return await self._collection.find_one(query, *args)

    async def update_one(self, query: Query, update: Query, **options: Any) -> int:
        self._look(query)
        return await self._collection.update_one(query, update, **options)

    async def update_many(self, query: Query, update: Query) -> int:
        self._look(query)
        return await self._collection.update_many(query, update)

    async def bulk_write(self, operations: Sequence[Operation]) -> tuple[int, set[int]]:
        for operation in operations:
            self._look(operation.filter)
        return await self._collection.bulk_write(operations)

    async def delete_one(self, query: Query) -> int:
        self._look(query)
        return await self._collection.delete_one(query)

    async def delete_many(self, query: Query) -> int:
        self._look(query)
        return await self._collection.delete_many(query)

    def _look(self, query: Query, sort: Sort = ()) -> None:
        self._plans.look(self._name, query, sort)
