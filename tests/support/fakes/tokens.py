"""Tokens in memory."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from shared.domain.access import Token
from shared.domain.errors import StoreUnavailable


class FakeTokens:
    """`is_away` makes every call fail; `reads` counts the calls of `all`."""

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.is_away = False
        self.reads = 0

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # let others come between, as the network does
        if self.is_away:
            raise StoreUnavailable("away")

    async def add(self, token: Token) -> bool:
        await self._answer()
        if any(each.name == token.name for each in self.tokens.values() if each.id != token.id):
            return False
        self.tokens.setdefault(token.id, token)
        return True

    async def all(self) -> list[Token]:
        self.reads += 1
        await self._answer()
        return sorted(self.tokens.values(), key=lambda token: token.id)

    async def revoke(self, id: str, at: datetime) -> Token | None:
        await self._answer()
        token = self.tokens.get(id)
        if token is not None and token.revoked_at is None:
            self.tokens[id] = token = replace(token, revoked_at=at)
        return token

    async def mark_used(self, ids: Collection[str], at: datetime) -> None:
        await self._answer()
        for id in ids:
            if id in self.tokens:
                used = self.tokens[id].last_used_at
                self.tokens[id] = replace(self.tokens[id], last_used_at=max(used or at, at))
