"""Challenges in memory."""

import asyncio
from datetime import datetime

from shared.ports.certificates import Challenge


class FakeChallenges:
    def __init__(self) -> None:
        self.rows: dict[str, Challenge] = {}
        self.used_by: dict[str, str] = {}

    async def create(self, challenge: Challenge) -> None:
        await asyncio.sleep(0)  # let others come between, as the network does
        self.rows.setdefault(challenge.digest, challenge)

    async def use(self, digest: str, by: str, now: datetime) -> Challenge | None:
        await asyncio.sleep(0)
        found = self.rows.get(digest)
        if found is None or found.expires_at <= now:
            return None
        if self.used_by.setdefault(digest, by) != by:
            return None
        await asyncio.sleep(0)
        return found

    async def take(self, challenge: Challenge, by: str) -> bool:
        await asyncio.sleep(0)
        if challenge.digest not in self.rows:
            self.rows[challenge.digest] = challenge
            self.used_by[challenge.digest] = by
        return self.used_by.get(challenge.digest) == by

    async def user_of(self, digest: str) -> str | None:
        await asyncio.sleep(0)
        return self.used_by.get(digest)
