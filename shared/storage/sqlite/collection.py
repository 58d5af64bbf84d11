"""The operations of one collection."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from heapq import merge
from typing import Any

from shared.chunks import chunked
from shared.domain.errors import StoreUnavailable
from shared.ports.clock import Clock
from shared.storage.database import (
    Bulk,
    BulkResult,
    Collection,
    DeleteOne,
    Document,
    Fields,
    Operation,
    Query,
    Sort,
    UpdateOne,
    document_size,
    sized_pieces,
)
from shared.storage.sqlite.engine.building import Building
from shared.storage.sqlite.engine.changes import (
    Done,
    RowChange,
    change,
    change_part,
    counted,
    insert,
    insert_part,
)
from shared.storage.sqlite.engine.commits import Commits
from shared.storage.sqlite.engine.documents import decoded, encoded
from shared.storage.sqlite.engine.plans import alternatives
from shared.storage.sqlite.engine.reads import Found, Reads
from shared.storage.sqlite.engine.submission import Write
from shared.storage.sqlite.engine.tables import Table
from shared.storage.sqlite.query.filters import (
    Condition,
    Projection,
    conditions_of,
    matches,
    projection_of,
)
from shared.storage.sqlite.query.updates import check
from shared.storage.sqlite.query.values import MISSING, column_value, rank, value_at

TOGETHER = 64
"""Documents of one write: more come in several, so that others go between."""
CHANGE_SIZE = 1_000
"""About what the change of a document writes to the log, in bytes."""


class SqliteCollection(Collection):
    """Implements `shared.storage.database.Collection`."""

    def __init__(
        self, table: Table, commits: Commits, reads: Reads, building: Building, clock: Clock
    ) -> None:
        self._table = table
        self._commits = commits
        self._reads = reads
        self._building = building
        self._clock = clock

    # --- reads

    async def find(
        self,
        query: Query,
        fields: Fields | None = None,
        *,
        sort: Sort = (),
        limit: int = 0,
        skip: int = 0,
    ) -> list[Document]:
        most = skip + limit if limit else 0
        shown = None if fields is None else projection_of(fields)
        choices = alternatives(self._table, conditions_of(query), sort)
        if len(choices) == 1:
            documents = await self._find(choices[0], sort, most, shown)
        else:
            found = [await self._find(choice, sort, most) for choice in choices]
            # An index gives one direction, or the opposite one, for all fields together.
            documents = list(merge(*found, key=_sort_key_of(sort), reverse=sort[0][1] < 0))
            documents = documents if shown is None else list(map(shown, documents))
        return documents[skip : most or None] if most or skip else documents

    async def _find(
        self,
        conditions: Sequence[Condition],
        sort: Sort,
        most: int,
        shown: Projection | None = None,
    ) -> list[Document]:
        """The matching documents in their order: as many as are wanted, or more."""
        documents: list[Document] = []
        is_sorted = True
        first = self._reads.first(self._table, conditions, sort, most)
        # What cannot suffice is not decoded.
        if first is not None and (first.is_all or (most and first.is_sorted)):
            documents, is_sorted = self._matching(first, shown), first.is_sorted
        if first is None or not (first.is_all or _is_enough(documents, most, is_sorted)):
            documents = []
            async for found in self._reads.rows(self._table, conditions, sort):
                documents += self._matching(found, shown)
                is_sorted = found.is_sorted
                if _is_enough(documents, most, is_sorted):
                    break
        if not is_sorted:
            documents.sort(key=lambda each: rank(each["_id"]), reverse=sort[0][1] < 0)
        return documents

    async def scan(
        self, query: Query, fields: Fields | None = None, *, batch: int = 100
    ) -> AsyncIterator[list[Document]]:
        gathered: list[Document] = []
        shown = None if fields is None else projection_of(fields)
        async for found in self._reads.rows(self._table, conditions_of(query)):
            gathered += self._matching(found, shown)
            while len(gathered) >= batch:
                yield gathered[:batch]
                gathered = gathered[batch:]
        if gathered:
            yield gathered

    def _matching(self, found: Found, shown: Projection | None = None) -> list[Document]:
        try:
            documents = [decoded(blob) for _, blob in found.rows]
        except sqlite3.DatabaseError as exc:
            raise self._commits.failed(exc) from exc
        if found.rest:
            documents = [document for document in documents if matches(document, found.rest)]
        return documents if shown is None else list(map(shown, documents))

    # --- writes

    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        if documents and not self._table.exists:
            await self._building.make_table(self._table.name)
        numbered = ((number, each, encoded(each)) for number, each in enumerate(documents))
        met: set[int] = set()
        for piece in sized_pieces(((each, len(each[2])) for each in numbered), TOGETHER):
            size = sum(len(blob) for _, _, blob in piece)
            met |= await self._commits.submit(partial(insert, self._table, piece), size)
        return met

    async def update_one(self, query: Query, update: Query, *, upsert: bool = False) -> int:
        return self._matched(await self._submit([_change(UpdateOne(query, update, upsert))]))

    def _matched(self, done: Sequence[Done | None]) -> int:
        if done[0] is None:
            raise StoreUnavailable(f"the store: a key of {self._table.name} is taken")
        return done[0].matched

    async def update_many(self, query: Query, update: Query) -> int:
        check(update)
        return await self._change_many(query, update)

    async def delete_many(self, query: Query) -> int:
        return await self._change_many(query)

    async def _change_many(self, query: Query, update: Query | None = None) -> int:
        conditions = conditions_of(query)
        ids = _named(conditions)
        if ids is None:  # those that match now; the write looks at them again
            ids = [
                document["_id"]
                async for found in self._reads.rows(self._table, conditions)
                for document in self._matching(found)
            ]
        hits = 0
        for chunk in chunked(ids, TOGETHER):
            hits += self._matched(await self._submit([RowChange(chunk, conditions, update)]))
        return hits

    async def bulk_write(self, operations: Sequence[Operation]) -> BulkResult:
        changes = [_change(each) for each in operations]  # before the first one is done
        done: list[Done | None] = []
        for piece in chunked(changes, TOGETHER):
            done += await self._submit(piece)
        return counted(changes, done)

    async def delete_one(self, query: Query) -> int:
        return self._matched(await self._submit([_change(DeleteOne(query))]))

    async def _submit(self, changes: Sequence[RowChange]) -> list[Done | None]:
        if not self._table.exists:
            if not any(each.upserts for each in changes):
                return [Done(0)] * len(changes)
            await self._building.make_table(self._table.name)
        write = partial(change, self._table, changes, self._clock)
        return await self._commits.submit(write, _size(changes))

    async def part(self, bulk: Bulk) -> tuple[Write[BulkResult], int]:
        """A bulk as a part of a larger write, and about how many bytes it has."""
        if not self._table.exists:
            await self._building.make_table(self._table.name)
        if bulk.inserts:
            rows = [(number, each, encoded(each)) for number, each in enumerate(bulk.inserts)]
            return partial(insert_part, self._table, rows), sum(len(row[2]) for row in rows)
        changes = [_change(each) for each in bulk.operations]
        return partial(change_part, self._table, changes, self._clock), _size(changes)


def _size(changes: Sequence[RowChange]) -> int:
    size = sum(CHANGE_SIZE * len(each.ids) for each in changes)
    updates = [fields for each in changes for fields in (each.update or {}).values()]
    return size + sum(document_size(dict(fields)) for fields in updates)


def _change(operation: Operation) -> RowChange:
    """NotImplementedError for one that does not name its document."""
    conditions = conditions_of(operation.filter)
    named = _named(conditions)
    if named is None:
        raise NotImplementedError("a change of one document without its _id")
    if isinstance(operation, DeleteOne):
        return RowChange(named, conditions, None, is_single=True)
    check(operation.update)
    if operation.upsert and not any(each[:2] == ("_id", "$eq") for each in conditions):
        raise NotImplementedError("an upsert of one of several documents")
    return RowChange(named, conditions, operation.update, is_single=True, upserts=operation.upsert)


def _named(conditions: Sequence[Condition]) -> Sequence[Any] | None:
    """The ids that a condition lists, where one does."""
    for path, operator, operand, _ in conditions:
        if path == "_id" and operator == "$eq":
            return [operand]
        if path == "_id" and operator == "$in":
            return list({column_value(each): each for each in operand}.values())  # each once
    return None


def _is_enough(documents: Sequence[Document], most: int, is_sorted: bool) -> bool:
    return bool(most) and is_sorted and len(documents) >= most


def _sort_key_of(sort: Sort) -> Callable[[Document], tuple[tuple[int, Any], ...]]:
    """The sort key of a document; a missing field counts as null."""

    def sort_key(document: Document) -> tuple[tuple[int, Any], ...]:
        found = (value_at(document, path) for path, _ in sort)
        return tuple(rank(None if value is MISSING else value) for value in found)

    return sort_key
