"""The last contact of each enrollment and the last refusals of each device, written in batches (rule 15)."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from shared.chunks import chunked
from shared.concurrency.batching import refused
from shared.concurrency.periodic import Loops, Pace
from shared.domain.enrollment import Refusal, counted_refusals
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments
from shared.ports.events import Refusals

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=5))
BATCH = 200
MOST_REFUSED = 4096
"""Devices whose refusals wait to be written; those of more are lost."""


class LastSeen:
    """What a crash loses of the times, the next contact brings."""

    def __init__(self, enrollments: Enrollments, refusals: Refusals, clock: Clock) -> None:
        self._enrollments = enrollments
        self._stored_refusals = refusals
        self._clock = clock
        self._times: dict[str, datetime] = {}
        self._refusals: dict[str, tuple[Refusal, ...]] = {}

    def note(self, enrollment: str, at: datetime) -> None:
        self._times[enrollment] = at

    def refused(self, device: str, refusal: Refusal) -> None:
        known = self._refusals.get(device)
        if known is not None or len(self._refusals) < MOST_REFUSED:
            self._refusals[device] = counted_refusals(known or (), [refusal])

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("last_seen", self.flush, PACE, waits="last_seen_waits")

    async def flush(self) -> None:
        """Write what was noted up to now; what cannot be written is kept, unless newer was noted. A record
        that cannot hold its time costs no other record its own."""
        for times in chunked(list(self._times.items()), BATCH):
            for _, why in await refused(lambda some: self._enrollments.seen(dict(some)), times):
                log.error("last_seen_not_kept", error=str(why))
            for enrollment, at in times:
                if self._times.get(enrollment) == at:
                    del self._times[enrollment]
        for devices in chunked(list(self._refusals), BATCH):
            await self._write_refusals(devices)

    async def _write_refusals(self, devices: Sequence[str]) -> None:
        noted = [(each, self._refusals.pop(each)) for each in devices if each in self._refusals]
        try:
            lost = await refused(lambda some: self._stored_refusals.add(dict(some)), noted)
        except Unavailable:
            for device, refusals in noted:
                newer = self._refusals.get(device, ())
                self._refusals[device] = counted_refusals(refusals, reversed(newer))
            raise
        for (device, _), why in lost:  # of this device alone: its record cannot grow
            log.error("refusals_not_kept", device=device, error=str(why))
