"""AuthorityStore in memory."""

import asyncio

from shared.ports.certificates import StoredAuthority


class FakeAuthorityStore:
    def __init__(self) -> None:
        self._stored: StoredAuthority | None = None

    async def load(self) -> StoredAuthority | None:
        await asyncio.sleep(0)  # let others come between, as the network does
        return self._stored

    async def create(self, candidate: StoredAuthority) -> StoredAuthority:
        await asyncio.sleep(0)
        if self._stored is None:
            self._stored = candidate
        return self._stored
