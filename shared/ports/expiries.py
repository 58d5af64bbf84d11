"""Commands whose time is over, and the ends of commands that events tell of (owner: commands)."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from shared.domain.command import QueueEntry


class Expiries(Protocol):
    def overdue(self, at: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Open entries whose time is over, a page at a time."""

    async def expire(self, entries: Sequence[QueueEntry], at: datetime) -> dict[str, QueueEntry]:
        """End entries as EXPIRED, each on condition that it is open, of an order seen, and overdue by
        then; what is there then, by id. What ended so is `unpublished` from then on."""

    def unpublished(self, before: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Entries that expired, or were superseded, before a time and whose event is not safe yet, a page
        at a time."""

    async def is_unpublished(self, entry: QueueEntry) -> bool:
        """Whether this entry expired or was superseded, was not queued anew since, and its event is not
        safe yet."""

    async def published(self, entries: Sequence[QueueEntry]) -> None:
        """Their events are safe."""
