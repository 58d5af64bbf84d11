"""Reads that decide something by what they did not find, though no conditional write stands behind it.

Promise: `check` raises StoreUnavailable where the server that read may have been deposed before it did,
since that goes on showing the time before for some seconds. Each check changes a document: a write that
changes nothing waits for nobody where a majority has all before it. Many checks at a time are one write.
"""

from shared.concurrency.batching import BatchExecutor
from shared.domain.errors import StoreUnavailable
from shared.storage.database import Collection, Database

TOGETHER = 1_000


class CurrentReads:
    """Checks for one collection, in which each installation gets one document more, with the id ""."""

    def __init__(self, database: Database, documents: Collection) -> None:
        self._database = database
        self._documents = documents
        # One at a time: a check that comes meanwhile goes with the next one, which begins after its read.
        self._writes = BatchExecutor[None, None](self._write, limit=TOGETHER, in_flight=1)

    async def check(self, term: object) -> None:
        """`term`: of the database, before the read. A store that knows no terms is deposed by nobody."""
        if term is not None:
            await self._writes.submit(None)
        if self._database.term != term:
            raise StoreUnavailable("the primary of the database changed while it was read")

    async def _write(self, checks: list[None]) -> list[None]:
        await self._documents.update_one({"_id": ""}, {"$inc": {"checks": 1}}, upsert=True)
        return checks
