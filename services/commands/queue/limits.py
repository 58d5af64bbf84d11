"""The limit of the open commands of one device or user.

Promises: a refusal names its limit and the way out; a repetition of a command in a full queue is a safe
retry; a queue that was drained accepts commands again within a second. A count costs as much as reading all
open entries, so in between the number is an estimate: the last count and what this process has added since.
It may be short by 1 % of the limit (at least one command) for each process, and by what other processes add
within a second."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.command import QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import TooManyRequests
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue

BETWEEN_LOOKS = timedelta(seconds=1)
"""Between two counts of one queue."""
RETRY_AFTER = timedelta(seconds=30)
MOST_KNOWN = 20_000
"""Queues whose estimates one process keeps. A dropped one starts again from zero."""


@dataclass(slots=True)
class _Estimate:
    counted: int = 0
    added: int = 0
    looked_at: float = -math.inf

    @property
    def total(self) -> int:
        return self.counted + self.added


class OpenLimit:
    def __init__(
        self, queue: CommandQueue, clock: Clock, limit: int, most_known: int = MOST_KNOWN
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._limit = limit
        self._known: BoundedCache[str, _Estimate] = BoundedCache(most_known)

    async def check(self, entries: Sequence[QueueEntry]) -> list[TooManyRequests | None]:
        """The refusal of each entry, or None; entries without one count as queued from now on."""
        for entry in {entry.enrollment: entry for entry in entries}.values():
            await self._count(entry)
        is_over = [self._is_over(entry.enrollment) for entry in entries]
        if not any(is_over):
            return [None] * len(entries)
        over = {entry.id for entry, is_one in zip(entries, is_over, strict=True) if is_one}
        there = await self._queue.entries_of(over)
        retries = {
            id_ for id_, each in there.items() if each.state.is_open or each.state.is_device_final
        }
        return [
            self._refusal(entry) if is_one and entry.id not in retries else None
            for entry, is_one in zip(entries, is_over, strict=True)
        ]

    async def _count(self, entry: QueueEntry) -> None:
        """Count where it is time: the queue seems full, or much was added, and a second is over."""
        estimate, now = self._estimate(entry.enrollment), self._clock.monotonic()
        is_worth_it = estimate.added > max(1, self._limit // 100) or estimate.total >= self._limit
        if not is_worth_it or now - estimate.looked_at < BETWEEN_LOOKS.total_seconds():
            return
        estimate.looked_at = now  # now, so that no other request counts too
        added = estimate.added
        key = EnrollmentKey(entry.enrollment, device=entry.device)
        estimate.counted = await self._queue.count_open(key)
        # Commands that were added meanwhile may be in the count or not, and are added again.
        estimate.added = max(0, estimate.added - added)

    def _is_over(self, enrollment: str) -> bool:
        estimate = self._estimate(enrollment)
        if estimate.total >= self._limit:
            return True
        estimate.added += 1
        return False

    def _estimate(self, enrollment: str) -> _Estimate:
        estimate = self._known.get(enrollment)
        if estimate is None:
            estimate = _Estimate()
            self._known.put(enrollment, estimate)
        return estimate

    def _refusal(self, entry: QueueEntry) -> TooManyRequests:
        return TooManyRequests(
            f"udid: {entry.enrollment} has {self._limit} open commands, which is the most "
            "(MDM_MAX_OPEN_COMMANDS); wait until it answers some, cancel some, or clear its queue: "
            "DELETE /v1/commands/{udid}",
            RETRY_AFTER,
        )
