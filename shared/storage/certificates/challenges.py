"""Collection `challenges`: one document per one-time SCEP challenge, by the SHA-256 of its secret.

Challenges of profiles are stored only when they are used. Promise: of all transactions that want a
challenge, one gets it, by a conditional write or by the insert. They leave a day after they expired."""

from datetime import datetime, timedelta

from shared.ports.certificates import Challenge
from shared.storage.database import Database
from shared.storage.indexes import Index
from shared.storage.records import fields_of, record

NAME = "challenges"
KEPT_FOR = timedelta(days=1)
INDEXES = (Index(NAME, [("expires_at", 1)], expire_after=KEPT_FOR),)


class MongoChallenges:
    """Implements `shared.ports.certificates.Challenges`."""

    def __init__(self, database: Database) -> None:
        self._challenges = database.collection(NAME)

    async def create(self, challenge: Challenge) -> None:
        await self._challenges.insert_one(fields_of(challenge) | {"used_by": None})

    async def use(self, digest: str, by: str, now: datetime) -> Challenge | None:
        is_free = {"_id": digest, "used_by": {"$in": [None, by]}, "expires_at": {"$gt": now}}
        if not await self._challenges.update_one(is_free, {"$set": {"used_by": by}}):
            return None
        found = await self._challenges.find_one({"_id": digest})
        # None: removed between the two, long after it expired
        return None if found is None else record(Challenge, found)

    async def take(self, challenge: Challenge, by: str) -> bool:
        if await self._challenges.insert_one(fields_of(challenge) | {"used_by": by}):
            return True
        return await self.user_of(challenge.digest) == by

    async def user_of(self, digest: str) -> str | None:
        found = await self._challenges.find_one({"_id": digest})
        return None if found is None else found.get("used_by")
