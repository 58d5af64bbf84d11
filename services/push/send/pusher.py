"""Push requests: collapsed per enrollment, bounded, each to an end that is known and stored.

Promises: a push request returns once a push that began after it was taken by APNs or is recorded for the
sweep, or once another push request, not yet returned, carries that promise for it; no device without an
open command is woken for a push request; one enrollment is pushed at most once a second, however many push
requests come; a failed push of one never holds up another."""

import asyncio
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from services.push.send.attempt import PushAttempts
from services.push.send.outcomes import Accepted, Outcome, record_of
from shared.chunks import chunked
from shared.concurrency.batching import BatchExecutor
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, PushTarget
from shared.domain.errors import MdmError
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments
from shared.ports.pushes import Pushes, PushRecord
from shared.ports.queue import CommandQueue
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

AT_ONCE = 200
"""Pushes under way; APNs itself is limited to 100 streams for each topic."""

QUIET = timedelta(seconds=1)
"""After a push, further push requests of that enrollment gather for so long."""

LOOK_AGAIN = timedelta(minutes=1)
"""The time after which the sweep looks at a push that was still under way when its push request was acked."""

UNDER_WAY = "under way"

TOGETHER = 1000
"""Pushes of one look of the sweep that wait side by side."""

BATCH = 32
"""Reads and writes that go to the store together."""

OVER = frozenset({EnrollmentStatus.CHECKED_OUT, EnrollmentStatus.REMOVED})
KEPT_LINES = 1000


@dataclass(slots=True)
class _Line:
    """The pushes of one enrollment, one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_promised: bool = False
    """A push request waits for a push that has not begun yet."""
    earlier: PushRecord | None = None
    """The record whose backoff that push goes on from; None: a push request asked for it, or asked too."""
    quiet_until: float = 0.0


class Pusher:
    def __init__(
        self,
        attempts: PushAttempts,
        enrollments: Enrollments,
        queue: CommandQueue,
        pushes: Pushes,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._attempts = attempts
        self._enrollments = enrollments
        self._queue = queue
        self._pushes = pushes
        self._clock = clock
        self._metrics = metrics
        self._loads = BatchExecutor[str, tuple[Enrollment | None, bool]](self._load, BATCH, 1)
        self._records = BatchExecutor[PushRecord, None](self._store, BATCH, in_flight=1)
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self.lines: dict[str, _Line] = {}
        """By enrollment, those with a push under way or just done."""
        self._prune_at = KEPT_LINES

    async def push_requests(self, enrollments: Collection[str]) -> None:
        """Push these enrollments, now. Raises Unavailable when a push could not be recorded."""
        await self._all([(enrollment, None) for enrollment in set(enrollments)])

    async def missed(self, enrollments: Collection[str]) -> None:
        """As `push_requests`, for any number, TOGETHER at a time."""
        await self._all([(enrollment, None) for enrollment in enrollments], TOGETHER)

    async def again(self, records: Sequence[PushRecord]) -> None:
        """Push devices that stayed silent; the backoff of each goes on from its record."""
        silent = [(r.enrollment, r) for r in records if not self._is_under_way(r.enrollment)]
        await self._all(silent, TOGETHER)

    async def leave_to_sweep(self, enrollments: Collection[str]) -> None:
        """Let the sweep look soon at those whose push has not ended yet, in case it never does."""
        now = self._clock.now()
        async with asyncio.TaskGroup() as group:
            for enrollment in filter(self._is_under_way, enrollments):
                record = PushRecord(enrollment, now, now + LOOK_AGAIN, error=UNDER_WAY)
                group.create_task(self._records.submit(record))

    async def push_now(
        self, enrollment: Enrollment, target: PushTarget, expires_at: datetime | None
    ) -> Outcome:
        """A push that an API client asked for, beside all push requests."""
        tried_at = self._clock.now()
        outcome = await self._attempts.push(enrollment, target, expires_at=expires_at, urgent=True)
        self._metrics.pushes.labels(outcome.counted_as).inc()
        if isinstance(outcome, Accepted):
            record = record_of(outcome, enrollment.id, None, tried_at, self._attempts.random())
            await self._records.submit(record)
        return outcome

    async def drain(self) -> None:
        await self._loads.drain()
        await self._records.drain()

    async def _all(
        self, wanted: Sequence[tuple[str, PushRecord | None]], together: int = sys.maxsize
    ) -> None:
        errors: list[MdmError] = []

        async def one(enrollment: str, earlier: PushRecord | None) -> None:
            try:
                await self._in_turn(enrollment, earlier)
            except MdmError as exc:
                errors.append(exc)

        for some in chunked(wanted, together):
            async with asyncio.TaskGroup() as group:
                for enrollment, earlier in some:
                    group.create_task(one(enrollment, earlier))
        if errors:
            raise errors[0]

    async def _in_turn(self, enrollment: str, earlier: PushRecord | None) -> None:
        line = self._line(enrollment)
        if line.is_promised:
            line.earlier = line.earlier if earlier is not None else None
            return
        line.is_promised = True
        line.earlier = earlier
        try:
            async with line.lock:
                quiet = line.quiet_until - self._clock.monotonic()
                if quiet > 0:
                    await self._clock.sleep(timedelta(seconds=quiet))
                async with self._at_once:
                    line.is_promised = False
                    was_pushed = await self._push(enrollment, line.earlier)
                if was_pushed:
                    line.quiet_until = self._clock.monotonic() + QUIET.total_seconds()
        except BaseException:
            line.is_promised = False
            raise

    async def _push(self, enrollment: str, earlier: PushRecord | None) -> bool:
        """False: there was nothing to push for."""
        tried_at = self._clock.now()
        found, is_waited_for = await self._loads.submit(enrollment)
        if not is_waited_for and earlier is None:
            return False
        if found is not None and found.status in OVER:
            if earlier is not None:
                await self._pushes.forget([earlier])
            return False
        outcome = None
        if found is not None and found.push is not None:
            outcome = await self._attempts.push(found, found.push)
            self._metrics.pushes.labels(outcome.counted_as).inc()
        record = record_of(outcome, enrollment, earlier, tried_at, self._attempts.random())
        await self._records.submit(record)
        return True

    def _is_under_way(self, enrollment: str) -> bool:
        line = self.lines.get(enrollment)
        return line is not None and (line.is_promised or line.lock.locked())

    def _line(self, enrollment: str) -> _Line:
        if len(self.lines) >= self._prune_at:
            now = self._clock.monotonic()
            for name, line in list(self.lines.items()):
                if not self._is_under_way(name) and line.quiet_until <= now:
                    del self.lines[name]
            self._prune_at = max(KEPT_LINES, 2 * len(self.lines))
        return self.lines.setdefault(enrollment, _Line())

    async def _load(self, ids: list[str]) -> Sequence[tuple[Enrollment | None, bool]]:
        """The enrollments, None for one that is not known; and whether a command waits for it."""
        found = await self._enrollments.load(ids)
        is_open = await self._queue.has_due([key_of(name) for name in ids], self._clock.now())
        return [(found.get(name), name in is_open) for name in ids]

    async def _store(self, records: list[PushRecord]) -> Sequence[None]:
        await self._pushes.record(list({r.enrollment: r for r in records}.values()))
        return [None] * len(records)


def key_of(enrollment: str) -> EnrollmentKey:
    """The key as far as the id names it: `DEVICE`, or `DEVICE:USER`."""
    device, colon, user = enrollment.partition(":")
    return EnrollmentKey(enrollment, device, user=user if colon else None)
