"""Reads that many adapters do: by ids, of any number of documents, and of what must not be stale."""

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from typing import Any

from shared.concurrency.batching import BatchExecutor
from shared.domain.errors import StoreUnavailable
from shared.storage.database import Collection, Database, Document, Fields, Query

PAGE = 1000
CHECKED_TOGETHER = 1_000


async def find_by_id(
    collection: Collection, ids: Iterable[str], fields: Fields | None = None
) -> dict[str, Document]:
    """The documents with these ids, by their ids."""
    if not (wanted := list(ids)):
        return {}
    found = await collection.find({"_id": {"$in": wanted}}, fields)
    return {document["_id"]: document for document in found}


def up_to(end: datetime) -> Callable[[datetime], Query]:
    """The rest of a closed range above a time in it."""
    return lambda time: {"$gt": time, "$lte": end}


async def pages(
    collection: Collection,
    query: Query,
    above: Callable[[Any], Any],
    fields: Fields | None = None,
    size: int = PAGE,
) -> AsyncIterator[list[Document]]:
    """The match set in pages, along an index of the first field of `query` and `_id`. `query` has a range or
    a list of that field; `above` returns its rest above one value, None where nothing is left.

    Promise: each read has its own deadline and a bounded answer. A document that is present from the
    beginning to the end of all pages comes once, though others come and go meanwhile.
    """
    field, where = next(iter(query)), dict(query)
    while True:
        found = await collection.find(where, fields, sort=[(field, 1), ("_id", 1)], limit=size)
        yield found
        if len(found) == size:
            # More documents may have the value of the last one.
            where = {**query, field: found[-1][field], "_id": {"$gt": found[-1]["_id"]}}
        elif "_id" not in where or (left := above(where[field])) is None:
            return
        else:
            where = {**query, field: left}


async def pages_by_id(
    collection: Collection, query: Query, fields: Fields, size: int = PAGE
) -> AsyncIterator[list[Document]]:
    """The match set in pages, in the order of `_id`, on which `query` has no condition."""
    last = ""
    while True:
        above = {**query, "_id": {"$gt": last}}
        found = await collection.find(above, fields, sort=[("_id", 1)], limit=size)
        yield found
        if len(found) < size:
            return
        last = found[-1]["_id"]


class CurrentReads:
    """Checks of reads that decide something by what they did not find, without a conditional write.

    A server that was deposed returns old data for some seconds, and a write that changes nothing does not
    wait for a majority that has all before it; so a check changes the document with the id "". Many checks
    are one write."""

    def __init__(self, database: Database, documents: Collection) -> None:
        self._database = database
        self._documents = documents
        # One at a time: a check that comes meanwhile goes with the next write, which begins after its read.
        self._writes = BatchExecutor[None, None](self._write, limit=CHECKED_TOGETHER, in_flight=1)

    async def check(self, term: object) -> None:
        """Raises StoreUnavailable where the server that read may have been deposed. `term`: of the
        database, before the read; a store without terms has no server to depose."""
        if term is not None:
            await self._writes.submit(None)
        if self._database.term != term:
            raise StoreUnavailable("the primary of the database changed while it was read")

    async def _write(self, checks: list[None]) -> list[None]:
        await self._documents.update_one({"_id": ""}, {"$inc": {"checks": 1}}, upsert=True)
        return checks
