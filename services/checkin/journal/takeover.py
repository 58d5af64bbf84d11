"""Take dead writers over: leave their unanswered events to the relay (rule 7).

Answered events are confirmed or marked already. So a take-over only marks the devices of the events above the
dead writer's watermark, as rule 8 does, and then moves the watermark. The lease merely saves doing it twice.
"""

from datetime import timedelta

import structlog

from services.checkin.journal.writer import Marks
from shared.concurrency.periodic import Loops, Pace
from shared.ports.clock import Clock
from shared.ports.events import Journal, WriterRecord, Writers
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

STALE_AFTER = timedelta(seconds=10)
FORGOTTEN_AFTER = timedelta(hours=1)
PACE = Pace(every=timedelta(seconds=3), after_failure=timedelta(seconds=3))
BATCH = 500
"""Events whose devices are marked before the watermark moves: a take-over that is cut short goes on there."""


class TakeOver:
    def __init__(
        self,
        writers: Writers,
        journal: Journal,
        marks: Marks,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._writers = writers
        self._journal = journal
        self._marks = marks
        self._clock = clock
        self._metrics = metrics
        self._seen: dict[str, tuple[WriterRecord, float, float]] = {}
        """A writer's record, since when it is as it is, and since when its heartbeat is."""
        self._left: set[str] = set()
        """Writers of earlier processes that the next start must take over again."""

    async def run(self, own: str, loops: Loops) -> None:
        await loops.keep_doing("take_over", lambda: self.look(own), PACE, waits="take_over_waits")

    async def look(self, own: str) -> None:
        """One look at all writers: take over those that have not moved for STALE_AFTER."""
        now = self._clock.monotonic()
        others = self._left | {own}
        records = [record for record in await self._writers.all() if record.id not in others]
        stale = [record for record in records if self._is_stale(record, now)]
        self._seen = {record.id: self._seen[record.id] for record in records}
        for record in stale:
            if await self._writers.lease(record):
                await self.take(record)
                if now - self._seen[record.id][2] > FORGOTTEN_AFTER.total_seconds():
                    await self._writers.remove(record.id)

    async def take_all(self, own: str) -> None:
        """Take over every other writer at once: with an in-process broker no other process can write
        this journal, so all of them are dead (rule 10).

        Events that were answered may be among those above their watermarks. So where a device cannot be
        marked, its writer stays as it is, and the next start tries again."""
        for record in await self._writers.all():
            if record.id == own:
                continue
            if await self.take(record, passes_over=False):
                await self._writers.remove(record.id)
            else:
                self._left.add(record.id)

    async def take(self, record: WriterRecord, *, passes_over: bool = True) -> bool:
        """Mark the devices of all events above the watermark, and move it behind each batch. False: some
        could not be marked. Unless it `passes_over` them, the watermark stays below the first of these."""
        watermark, taken, is_whole = record.watermark, 0, True
        while found := await self._journal.of_writer(record.id, watermark, BATCH):
            # The first and the last mark of each device: a mark covers all that is between.
            marks = sorted((mark for _, mark in found), key=lambda mark: mark.created_at)
            first = {mark.device: mark for mark in reversed(marks)}
            last = {mark.device: mark for mark in marks}
            spans = list(dict.fromkeys([*first.values(), *last.values()]))
            is_whole = await self._marks.set(spans) and is_whole
            watermark = found[-1][0]
            taken += len(found)
            if is_whole or passes_over:
                await self._writers.advance(record.id, watermark)
        if taken:
            self._metrics.writers_taken_over.inc()
            log.info("writer_taken_over", writer=record.id, events=taken)
        return is_whole

    def _is_stale(self, record: WriterRecord, now: float) -> bool:
        """By our own monotonic clock; the lease of another process starts the wait again."""
        before, since, silent_since = self._seen.get(record.id, (None, now, now))
        if before == record:
            return now - since >= STALE_AFTER.total_seconds()
        if before is None or before.heartbeat != record.heartbeat:
            silent_since = now
        self._seen[record.id] = record, now, silent_since
        return False
