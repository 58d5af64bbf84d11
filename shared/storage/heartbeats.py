"""Collections `members` (replicas that share partitions, by role; each role writes its own) and `writers`
(one document per process start that journals events: rules 6 and 7; owner: checkin)."""

from shared.ports.events import WriterRecord
from shared.storage.database import Database
from shared.storage.indexes import Index
from shared.storage.records import record

MEMBERS = "members"
INDEXES = (Index(MEMBERS, [("role", 1)]),)


class MongoMembers:
    """Implements `shared.ports.members.Members`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(MEMBERS)

    async def raise_heartbeat(self, role: str, member: str) -> None:
        await self._documents.update_one(
            {"_id": f"{role}:{member}"},
            {"$set": {"role": role, "member": member}, "$inc": {"heartbeat": 1}},
            upsert=True,
        )

    async def heartbeats(self, role: str) -> dict[str, int]:
        found = await self._documents.find({"role": role})
        return {document["member"]: document["heartbeat"] for document in found}

    async def leave(self, role: str, member: str) -> None:
        await self._documents.delete_one({"_id": f"{role}:{member}"})


class MongoWriters:
    """Implements `shared.ports.events.Writers`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection("writers")

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
        records = [record(WriterRecord, document) for document in found]
        return sorted(records, key=lambda each: each.id)

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
