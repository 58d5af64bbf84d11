"""Collection `writers`: one document per process start that journals events (rules 6 and 7).

Owner: checkin.
"""

from shared.ports.events import WriterRecord
from shared.storage.database import Database

NAME = "writers"


class MongoWriters:
    """Implements `shared.ports.events.Writers`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

    async def register(self, writer: str) -> None:
        await self._documents.insert_one({"_id": writer, "watermark": 0, "heartbeat": 0})

    async def raise_heartbeat(self, writer: str, watermark: int) -> None:
        await self._documents.update_one(
            {"_id": writer},
            {"$inc": {"heartbeat": 1}, "$max": {"watermark": watermark}},
            upsert=True,
        )

    async def all(self) -> list[WriterRecord]:
        found = await self._documents.find({})
        return [
            WriterRecord(
                id=document["_id"],
                watermark=document["watermark"],
                heartbeat=document["heartbeat"],
                leases=document.get("leases", 0),
            )
            for document in sorted(found, key=lambda document: str(document["_id"]))
        ]

    async def lease(self, record: WriterRecord) -> bool:
        leases = record.leases or None  # a writer that was never taken over has no such field
        return 1 == await self._documents.update_one(
            {"_id": record.id, "heartbeat": record.heartbeat, "leases": leases},
            {"$inc": {"leases": 1}},
        )

    async def advance(self, writer: str, watermark: int) -> None:
        await self._documents.update_one({"_id": writer}, {"$max": {"watermark": watermark}})

    async def remove(self, writer: str) -> None:
        await self._documents.delete_one({"_id": writer})
