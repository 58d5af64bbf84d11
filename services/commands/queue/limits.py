"""The limit of the open commands of one device or user.

Promises: a refusal names its limit and the way out; a repetition of a command in a full queue is a safe
retry; a queue that was drained accepts commands again within a second. A count costs as much as reading all
open entries, so in between the number is an estimate: the last count and what this process has added since.
It may be short by 1 % of the limit (at least one command) for each process, and by what other processes add
within a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.commands.queue.submission import Submission
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
    looked_at: float | None = None

    @property
    def total(self) -> int:
        return self.counted + self.added


class OpenEstimates:
    """Estimates of the open commands of each queue. Times are those of a monotonic clock."""

    def __init__(self, limit: int, most_known: int = MOST_KNOWN) -> None:
        self._limit = limit
        self._known: BoundedCache[str, _Estimate] = BoundedCache(most_known)

    def add(self, enrollment: str) -> None:
        """One more command goes into this queue."""
        self._estimate(enrollment).added += 1

    def is_full(self, enrollment: str) -> bool:
        return self._estimate(enrollment).total >= self._limit

    def wants_look(self, enrollment: str, now: float) -> bool:
        """True if it is time to count: the queue seems full, or much was added, and a second is over."""
        estimate = self._estimate(enrollment)
        is_due = (
            estimate.looked_at is None or now - estimate.looked_at >= BETWEEN_LOOKS.total_seconds()
        )
        is_worth_it = estimate.added > max(1, self._limit // 100)
        return is_due and (is_worth_it or estimate.total >= self._limit)

    def begin_look(self, enrollment: str, now: float) -> int:
        """Begin to count, so that no other request does. Returns what `end_look` needs."""
        estimate = self._estimate(enrollment)
        estimate.looked_at = now
        return estimate.added

    def end_look(self, enrollment: str, counted: int, added: int) -> None:
        """End the count: what was added meanwhile may be in it or not, and is added again."""
        estimate = self._estimate(enrollment)
        estimate.counted, estimate.added = counted, max(0, estimate.added - added)

    def _estimate(self, enrollment: str) -> _Estimate:
        estimate = self._known.get(enrollment)
        if estimate is None:
            estimate = _Estimate()
            self._known.put(enrollment, estimate)
        return estimate


class OpenLimit:
    """Decides which entries may be queued."""

    def __init__(self, queue: CommandQueue, clock: Clock, limit: int) -> None:
        self._queue = queue
        self._clock = clock
        self._limit = limit
        self._estimates = OpenEstimates(limit)

    async def admitted(self, submissions: Sequence[Submission]) -> list[Submission]:
        """The submissions whose queue is not full; the others get their refusal."""
        refusals = await self.check([submission.entry for submission in submissions])
        for submission, refusal in zip(submissions, refusals, strict=True):
            submission.outcome = refusal
        return [submission for submission in submissions if submission.outcome is None]

    async def check(self, entries: Sequence[QueueEntry]) -> list[TooManyRequests | None]:
        """The refusal of each entry, or None; entries without one count as queued from now on."""
        for entry in {entry.enrollment: entry for entry in entries}.values():
            await self._look(entry)
        is_over = [self._is_over(entry) for entry in entries]
        if not any(is_over):
            return [None] * len(entries)
        over = {entry.id for entry, is_one in zip(entries, is_over, strict=True) if is_one}
        there = await self._queue.entries_of(over)
        return [
            self._refusal(entry) if is_one and not _is_retry(there.get(entry.id)) else None
            for entry, is_one in zip(entries, is_over, strict=True)
        ]

    async def _look(self, entry: QueueEntry) -> None:
        now = self._clock.monotonic()
        if self._estimates.wants_look(entry.enrollment, now):
            added = self._estimates.begin_look(entry.enrollment, now)
            counted = await self._queue.count_open(_key(entry))
            self._estimates.end_look(entry.enrollment, counted, added)

    def _is_over(self, entry: QueueEntry) -> bool:
        if self._estimates.is_full(entry.enrollment):
            return True
        self._estimates.add(entry.enrollment)
        return False

    def _refusal(self, entry: QueueEntry) -> TooManyRequests:
        return TooManyRequests(
            f"udid: {entry.enrollment} has {self._limit} open commands, which is the most "
            "(MDM_MAX_OPEN_COMMANDS); wait until it answers some, cancel some, or clear its queue: "
            "DELETE /v1/commands/{udid}",
            RETRY_AFTER,
        )


def _is_retry(there: QueueEntry | None) -> bool:
    return there is not None and (there.state.is_open or there.state.is_device_final)


def _key(entry: QueueEntry) -> EnrollmentKey:
    return EnrollmentKey(entry.enrollment, device=entry.device)
