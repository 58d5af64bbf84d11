"""Commands whose time is over, and the ends of commands that events tell of (owner: commands)."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from shared.domain.command import Place


class Expiries(Protocol):
    def overdue(self, at: datetime) -> AsyncIterator[list[Place]]:
        """Open places whose time is over, a page at a time."""

    async def expire(self, places: Sequence[Place], at: datetime) -> dict[str, Place]:
        """End places as EXPIRED, each on condition that it is open, of an order seen, and overdue by
        then; what is there then, by id. What ended so is `unannounced` from then on."""

    def unannounced(self, before: datetime) -> AsyncIterator[list[Place]]:
        """Places that expired, or were superseded, before a time and whose event is not safe yet, a page
        at a time."""

    async def is_unannounced(self, place: Place) -> bool:
        """Whether this place expired or was superseded, was not queued anew since, and its event is not
        safe yet."""

    async def announced(self, places: Sequence[Place]) -> None:
        """Their events are safe."""
