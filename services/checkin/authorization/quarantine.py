"""Devices that ask in vain: remembered, and written down now and then.

A device is seen, and not served, while its certificate has expired, or while it shows another one of a
trusted CA than the one that is bound to it. Promises: nothing of it is written within a request, nor more
often than once a minute for a device, nor for more than a few devices at a time; whoever does have the
bound certificate is served all the while. What a crash loses, the next contact brings.
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

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=5))
AT_MOST_EVERY = 60.0
"""Seconds between two notes of one device."""
MOST_AT_ONCE = 100
"""Devices between two pauses; the others are noted when they come again."""
REMEMBERED = 4096


class QuarantineNotes:
    """Collects what was seen of such devices."""

    def __init__(self, identities: Identities, clock: Clock, ids: Ids, metrics: Metrics) -> None:
        self._identities = identities
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._noted: dict[str, tuple[str | None, Quarantine]] = {}
        self._rests: BoundedCache[str, float] = BoundedCache(REMEMBERED)

    def note(self, device: Enrollment, shown: DeviceCertificate, reason: QuarantineReason) -> None:
        """This device asked in vain just now."""
        self._metrics.quarantine_refused.labels(reason).inc()
        moment = self._clock.monotonic()
        rests_until = self._rests.get(device.id)
        if rests_until is not None and moment < rests_until:
            return
        if len(self._noted) >= MOST_AT_ONCE:
            return
        self._rests.put(device.id, moment + AT_MOST_EVERY)
        now = self._clock.now()
        self._noted[device.id] = device.certificate, Quarantine(now, now, reason, shown)

    async def run(self, loops: Loops) -> None:
        """Write what was noted, every few seconds, until cancelled."""
        await loops.keep_doing("quarantine", self.flush, PACE, waits="quarantine_waits")

    async def flush(self) -> None:
        """Write what was noted up to now; what cannot be written is kept."""
        while self._noted:
            device, (bound, seen) = next(iter(self._noted.items()))
            at = int(seen.since.timestamp() * 1000) * 1_000_000
            outbox_event = quarantined(self._ids.new(), at, bound, seen)
            try:
                if await self._identities.quarantine(device, bound, seen, outbox_event):
                    log.warning("device_quarantined", device=device, reason=seen.reason.value)
            except Refused as exc:  # of this device alone: its record cannot grow
                log.error("device_not_quarantined", device=device, error=str(exc))
            if self._noted.get(device) == (bound, seen):
                del self._noted[device]
