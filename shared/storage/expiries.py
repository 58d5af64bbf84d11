"""Places whose time is over, in collection `queue`: what its janitor ends and tells of.

Owner: commands.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from shared.domain.command import ANNOUNCED_STATES, Place, PlaceState
from shared.storage.database import Database, Query
from shared.storage.paging import Pages, up_to
from shared.storage.place_documents import NAME, OPEN, UNTIL_ENDED, from_document

ANNOUNCED = sorted(state.value for state in ANNOUNCED_STATES)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Where a closed range of times begins that has no beginning of its own."""


class MongoExpiries:
    """Implements `shared.ports.expiries.Expiries`."""

    def __init__(self, database: Database) -> None:
        self._places = database.collection(NAME)

    def overdue(self, at: datetime) -> AsyncIterator[list[Place]]:
        # A timer is never later than the expiry.
        return self._paged(
            {
                "timer": {"$gte": BEGINNING, "$lte": at},
                "expires_at": {"$lte": at},
                "state": {"$in": OPEN},
            }
        )

    async def _paged(self, query: Query) -> AsyncIterator[list[Place]]:
        async for page in Pages(self._places, "timer").read(query, up_to(query["timer"]["$lte"])):
            yield [from_document(document) for document in page]

    async def expire(self, places: Sequence[Place], at: datetime) -> dict[str, Place]:
        ids = [place.id for place in places]
        await self._places.update_many(
            {
                "_id": {"$in": ids},
                # one that was queued anew meanwhile has another order, which is nobody else's
                "order": {"$in": [place.order for place in places]},
                "expires_at": {"$lte": at},
                "state": {"$in": OPEN},
            },
            {
                # its timer stays until its event is safe
                "$set": {"state": PlaceState.EXPIRED.value, "finished_at": at},
                "$unset": UNTIL_ENDED,
            },
        )
        found = await self._places.find({"_id": {"$in": ids}})
        return {document["_id"]: from_document(document) for document in found}

    def unannounced(self, before: datetime) -> AsyncIterator[list[Place]]:
        # Its end is not before its timer.
        return self._paged(
            {
                "timer": {"$gte": BEGINNING, "$lte": before},
                "state": {"$in": ANNOUNCED},
                "finished_at": {"$lt": before},
            }
        )

    async def is_unannounced(self, place: Place) -> bool:
        ended = {"_id": place.id, "order": place.order, "state": {"$in": ANNOUNCED}}
        return await self._places.find_one({**ended, "timer": {"$ne": None}}) is not None

    async def announced(self, places: Sequence[Place]) -> None:
        await self._places.update_many(
            {
                "_id": {"$in": [place.id for place in places]},
                # one that was queued anew meanwhile has another order
                "order": {"$in": [place.order for place in places]},
                "state": {"$in": ANNOUNCED},
            },
            {"$unset": {"timer": ""}},
        )
