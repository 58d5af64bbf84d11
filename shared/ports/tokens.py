"""Named tokens of the API (owner: commands)."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from shared.domain.token import Token


class Tokens(Protocol):
    """Tokens are never removed: a name once given stays the name of that one in the audit log."""

    async def add(self, token: Token) -> bool:
        """False: another token has, or had, its name. Safe to repeat."""

    async def all(self) -> list[Token]:
        """Every token, revoked and expired ones too, in the order in which they were made."""

    async def revoke(self, id: str, at: datetime) -> Token | None:
        """The token as it is then; None: there is no such token. A second time changes nothing."""

    async def mark_used(self, ids: Collection[str], at: datetime) -> None:
        """Note that these were used at that time, or later."""
