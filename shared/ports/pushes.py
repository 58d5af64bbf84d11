"""Push requests, and how pushes ended (owner: push)."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


class PushRequests(Protocol):
    def add(self, enrollments: Collection[str]) -> None:
        """Ask for a push, soon, in the background. May be lost when the process dies; the sweep
        finds what was never pushed (rule 12)."""


class PushRequestConsumer(Protocol):
    async def consume(self, on_requests: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        """Call `on_requests` with enrollment ids until cancelled; acked once it returns, given back when
        it raises. Reconnects by itself."""


@dataclass(frozen=True, slots=True)
class PushRecord:
    """The latest push of one enrollment, begun at `tried_at`; kept while the sweep may have to push again,
    at `next_at`. `error` is None where APNs took it; `attempts` counts the earlier pushes with the same
    result. Times are kept to the millisecond."""

    enrollment: str
    tried_at: datetime
    next_at: datetime
    attempts: int = 0
    pushed_at: datetime | None = None
    error: str | None = None


class Pushes(Protocol):
    async def record(self, records: Sequence[PushRecord]) -> None:
        """Store at most one record per enrollment; without `pushed_at` the earlier one stays."""

    async def load(self, enrollments: Collection[str]) -> dict[str, PushRecord]: ...

    async def due(
        self, partitions: Collection[int], until: datetime, limit: int
    ) -> list[PushRecord]:
        """Records of these partitions with next_at <= until, the longest due first."""

    async def forget(self, records: Sequence[PushRecord]) -> None:
        """Delete records, each on condition that no push was recorded since it was read."""

    async def positions(self) -> dict[int, datetime]:
        """partition -> time up to which the sweep has looked for entries that were never pushed."""

    async def advance(self, partitions: Collection[int], to: datetime) -> None:
        """Raise these positions (never lower them)."""

    async def reset(self, partitions: Collection[int], to: datetime) -> None:
        """Set these positions, also back: a wrong clock wrote them."""
