"""Collection `profiles`: profiles that the operator stored, by their identifier (owner: commands).

Promise: a profile is stored as a whole or not at all; of two stored at the same time one remains.
"""

from collections.abc import Collection

from shared.ports.access import StoredProfile
from shared.storage.database import Database
from shared.storage.records import record


class MongoProfiles:
    """Implements `shared.ports.access.Profiles`."""

    def __init__(self, database: Database) -> None:
        self._profiles = database.collection("profiles")

    async def put(self, profile: StoredProfile) -> None:
        query = {"_id": profile.identifier}
        fields = {"mobileconfig": profile.mobileconfig}
        if await self._profiles.update_one(query, {"$set": fields}):
            return
        # An upsert may lose a race against another one; then the document is there.
        if not await self._profiles.insert_one(query | fields):
            await self._profiles.update_one(query, {"$set": fields})

    async def get(self, identifier: str) -> StoredProfile | None:
        found = await self._profiles.find_one({"_id": identifier})
        return None if found is None else record(StoredProfile, found)

    async def page(self, after: str | None, limit: int) -> list[StoredProfile]:
        query = {"_id": {"$gt": after or ""}}
        found = await self._profiles.find(query, sort=[("_id", 1)], limit=limit)
        return [record(StoredProfile, document) for document in found]

    async def delete(self, identifiers: Collection[str]) -> None:
        if identifiers:
            await self._profiles.delete_many({"_id": {"$in": list(identifiers)}})
