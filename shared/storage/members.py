"""Collection `members`: heartbeats of the replicas that share partitions among them.

Owner: whoever shares work (checkin's relay, push's sweep, webhook's partitions), by role.
"""

from shared.storage.database import Database
from shared.storage.indexes import Index

NAME = "members"
INDEXES = (Index(NAME, [("role", 1)]),)


class MongoMembers:
    """Implements `shared.ports.members.Members`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

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
