"""Expired entries of `queue`: the janitor ends them and publishes an event of each. Owner: commands."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from shared.domain.command import ANNOUNCED_STATES, EntryState, QueueEntry
from shared.storage.database import Database, Query
from shared.storage.queue.documents import NAME, OPEN, UNTIL_ENDED, entries_of
from shared.storage.reads import find_by_id, pages, up_to
from shared.storage.records import record
from shared.times import EARLIEST

PAGE = 100
"""Entries of one read: each takes the event loop some 15 µs."""
ANNOUNCED = sorted(state.value for state in ANNOUNCED_STATES)


class MongoExpiries:
    """Implements `shared.ports.queue.Expiries`."""

    def __init__(self, database: Database) -> None:
        self._entries = database.collection(NAME)

    def overdue(self, at: datetime) -> AsyncIterator[list[QueueEntry]]:
        # A timer is never later than the expiry.
        return self._paged({"expires_at": {"$lte": at}, "state": {"$in": OPEN}}, at)

    async def _paged(self, condition: Query, until: datetime) -> AsyncIterator[list[QueueEntry]]:
        query = {"timer": {"$gte": EARLIEST, "$lte": until}, **condition}
        async for page in pages(self._entries, query, up_to(until), size=PAGE):
            yield entries_of(page)

    async def expire(self, entries: Sequence[QueueEntry], at: datetime) -> dict[str, QueueEntry]:
        ids = [entry.id for entry in entries]
        await self._entries.update_many(
            {
                "_id": {"$in": ids},
                # an entry that was queued again meanwhile has another order, which is unique
                "order": {"$in": [entry.order for entry in entries]},
                "expires_at": {"$lte": at},
                "state": {"$in": OPEN},
            },
            {
                # its timer stays until its event is safe
                "$set": {"state": EntryState.EXPIRED.value, "finished_at": at},
                "$unset": UNTIL_ENDED,
            },
        )
        found = await find_by_id(self._entries, ids)
        return {id_: record(QueueEntry, document) for id_, document in found.items()}

    def unpublished(self, before: datetime) -> AsyncIterator[list[QueueEntry]]:
        # Its end is not before its timer.
        ended = {"state": {"$in": ANNOUNCED}, "finished_at": {"$lt": before}}
        return self._paged(ended, before)

    async def is_unpublished(self, entry: QueueEntry) -> bool:
        ended = {"_id": entry.id, "order": entry.order, "state": {"$in": ANNOUNCED}}
        return await self._entries.find_one({**ended, "timer": {"$ne": None}}) is not None

    async def published(self, entries: Sequence[QueueEntry]) -> None:
        await self._entries.update_many(
            {
                "_id": {"$in": [entry.id for entry in entries]},
                # an entry that was queued again meanwhile has another order
                "order": {"$in": [entry.order for entry in entries]},
                "state": {"$in": ANNOUNCED},
            },
            {"$unset": {"timer": ""}},
        )
