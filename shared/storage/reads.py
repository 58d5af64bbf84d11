"""Reads that many adapters do: by ids, of any number of documents, and of what must not be stale."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Pages:
    """Reads of one collection, a page at a time, along an index of a field and `_id`.

    Promise: each read has its own deadline and a bounded answer. A document that is present from the
    beginning to the end of all pages comes once, though others come and go meanwhile.
    """

    collection: Collection
    field: str
    size: int = PAGE

    async def read(
        self, query: Query, above: Callable[[Any], Any], fields: Fields | None = None
    ) -> AsyncIterator[list[Document]]:
        """The match set in the order of the field, for which `query` has a range or a list; `above` returns
        the rest of that above one value, None where nothing is left."""
        order = [(self.field, 1), ("_id", 1)]
        where = dict(query)
        while True:
            found = await self.collection.find(where, fields, sort=order, limit=self.size)
            yield found
            if len(found) == self.size:
                # More documents may have the value of the last one.
                last = found[-1]
                where = {**query, self.field: last[self.field], "_id": {"$gt": last["_id"]}}
            elif "_id" not in where or (left := above(where[self.field])) is None:
                return
            else:
                where = {**query, self.field: left}


class CurrentReads:
    """Checks of reads that decide something by what they did not find, without a conditional write.

    Promise: `check` raises StoreUnavailable where the server that read may have been deposed before, since a
    deposed server returns old data for some seconds. Each check changes a document (one more in the
    collection, with the id ""): a write that changes nothing does not wait for a majority that has all
    before it. Many checks at a time are one write.
    """

    def __init__(self, database: Database, documents: Collection) -> None:
        self._database = database
        self._documents = documents
        # One at a time: a check that comes meanwhile goes with the next write, which begins after its read.
        self._writes = BatchExecutor[None, None](self._write, limit=CHECKED_TOGETHER, in_flight=1)

    async def check(self, term: object) -> None:
        """`term`: of the database, before the read. A store without terms has no server to depose."""
        if term is not None:
            await self._writes.submit(None)
        if self._database.term != term:
            raise StoreUnavailable("the primary of the database changed while it was read")

    async def _write(self, checks: list[None]) -> list[None]:
        await self._documents.update_one({"_id": ""}, {"$inc": {"checks": 1}}, upsert=True)
        return checks
