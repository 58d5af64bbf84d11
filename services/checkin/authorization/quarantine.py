"""Record quarantined devices in memory, and write them every few seconds.

A device is in quarantine while its certificate has expired, or while it shows another certificate of a
trusted CA than the bound one. Promises: no request waits for such a write; a device is written at most once a
minute, and few devices at a time; the holder of the bound certificate is served meanwhile. The next contact
brings what a crash loses.
"""

from datetime import timedelta

import structlog

from shared.concurrency.bounded_cache import BoundedCache
from shared.concurrency.periodic import Loops, Pace
from shared.domain.enrollment import Enrollment
from shared.domain.errors import Refused
from shared.domain.identity import DeviceCertificate, Quarantine, QuarantineReason
from shared.domain.outbox import quarantined
from shared.ports.clock import Clock, Ids
from shared.ports.identities import Identities
from shared.telemetry.metrics import Metrics
from shared.times import nanoseconds, to_milliseconds

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=5))
AT_MOST_EVERY = timedelta(minutes=1)
"""Between two records of one device."""
MOST_AT_ONCE = 100
"""Devices between two pauses; others are recorded when they come again."""
REMEMBERED = 4096


class QuarantineRecorder:
    def __init__(self, identities: Identities, clock: Clock, ids: Ids, metrics: Metrics) -> None:
        self._identities = identities
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._seen: dict[str, tuple[str | None, Quarantine]] = {}
        self._rests: BoundedCache[str, float] = BoundedCache(REMEMBERED)

    def add(self, device: Enrollment, shown: DeviceCertificate, reason: QuarantineReason) -> None:
        self._metrics.quarantine_refused.labels(reason).inc()
        moment = self._clock.monotonic()
        if moment < (self._rests.get(device.id) or 0.0) or len(self._seen) >= MOST_AT_ONCE:
            return
        self._rests.put(device.id, moment + AT_MOST_EVERY.total_seconds())
        now = self._clock.now()
        self._seen[device.id] = device.certificate, Quarantine(now, now, reason, shown)

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("quarantine", self.flush, PACE, waits="quarantine_waits")

    async def flush(self) -> None:
        """Write the records; those that cannot be written are kept."""
        while self._seen:
            device, (bound, seen) = next(iter(self._seen.items()))
            at = nanoseconds(to_milliseconds(seen.since))
            outbox_event = quarantined(self._ids.new(), at, bound, seen)
            try:
                if await self._identities.quarantine(device, bound, seen, outbox_event):
                    log.warning("device_quarantined", device=device, reason=seen.reason.value)
            except Refused as exc:  # of this device alone: its record cannot grow
                log.error("device_not_quarantined", device=device, error=str(exc))
            if self._seen.get(device) == (bound, seen):
                del self._seen[device]
