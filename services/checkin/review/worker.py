"""Review the devices, one page after the other, for what no message brings: silence, and certificates near
their end.

Promises: without a subscription that asks for it, no device is read; one event for each silence, and for each
of DAYS_BEFORE_END of a certificate, however many replicas review a device at once; a replica reads so many
devices a second at most, and needs some minutes for a hundred thousand.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog

from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.domain.command import OPEN_STATES
from shared.domain.enrollment import PARTITIONS, Enrollment, EnrollmentStatus
from shared.domain.errors import Refused
from shared.domain.event import Topic
from shared.domain.identity import ReportedExpiry, days_before, to_report
from shared.domain.outbox import identity_expiring, silent
from shared.ports.clock import Clock, Ids
from shared.ports.events import EventPublisher
from shared.ports.identities import Identities
from shared.ports.queue import CommandQueue, EntryWindow
from shared.times import EPOCH

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=15))
PAGE = 32
"""Devices of one read: each takes the event loop some 50 us."""
ENOUGH = 1000
"""Devices of one look."""
MOST_REPORTED = 100
"""Events of one look, so that a day on which many certificates end leaves time for devices."""
LATEST = 100
"""Entries of one device that are read at first: those that were accepted last, of all that are old enough."""
_MORE = 8
"""So many times as many are read where none of these could be sent all the time."""


class DeviceReview:
    """Runs in every replica for its share of the partitions, which the relay keeps. `silent_after`:
    MDM_SILENT_AFTER."""

    def __init__(
        self,
        identities: Identities,
        queue: CommandQueue,
        publisher: EventPublisher,
        wanted: WantedTopics,
        share: Share,
        clock: Clock,
        ids: Ids,
        silent_after: timedelta,
    ) -> None:
        self._identities = identities
        self._queue = queue
        self._publisher = publisher
        self._wanted = wanted
        self._share = share
        self._clock = clock
        self._ids = ids
        self._silent_after = silent_after
        # So that processes which often restart get to all.
        self._partition = int(clock.now().timestamp()) % PARTITIONS
        self._after = ""
        self._left = MOST_REPORTED

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("device_review", self.look, PACE, waits="device_review_waits")

    async def look(self) -> None:
        """Review the next devices. Raises Unavailable."""
        self._left = MOST_REPORTED
        is_wanted = self._wanted.now & {Topic.DEVICE_SILENT, Topic.IDENTITY_EXPIRING}
        # While the broker is away, the outbox is long enough.
        if not is_wanted or not self._publisher.is_live:
            return
        ours, reviewed, ended = sorted(self._share.partitions), 0, 0
        while reviewed < ENOUGH and ended < len(ours):
            partition = next((each for each in ours if each >= self._partition), ours[0])
            if partition != self._partition:
                self._partition, self._after = partition, ""
            page = await self._identities.bound(partition, self._after, PAGE)
            await self._review(page)
            if not self._left:  # the next look reads this page again
                return
            if len(page) == PAGE:
                self._after = page[-1].id
            else:
                self._partition, self._after = partition + 1, ""
                ended += 1
            reviewed += len(page)
            # A store that answers at once has let no other task run.
            await asyncio.sleep(0)

    async def _review(self, page: Sequence[Enrollment]) -> None:
        now = self._clock.now()
        served = [device for device in page if _is_served(device)]
        if Topic.IDENTITY_EXPIRING in self._wanted.now:
            for device in served:
                if (expiry := _expiry_of(device, now)) is not None:
                    await self._report(device, partial(self._expires, device, expiry))
        if Topic.DEVICE_SILENT in self._wanted.now:
            since = now - self._silent_after
            unseen = [device for device in served if _is_unseen(device, since)]
            due = await self._queue.has_due([device.key for device in unseen], now)
            for device in unseen:
                if device.id in due and await self._has_waited(device, since, now):
                    await self._report(device, partial(self._is_silent, device))

    async def _report(self, device: Enrollment, report: Callable[[], Awaitable[bool]]) -> None:
        if not self._left:
            return
        try:
            self._left -= await report()
        except Refused as exc:  # of this device alone, such as a record that cannot grow
            log.error("device_not_reported", device=device.id, error=str(exc))

    async def _expires(self, device: Enrollment, expiry: ReportedExpiry) -> bool:
        event = identity_expiring(self._ids.new(), self._clock.time_ns(), device, expiry.days)
        seen = device.reported_expiry
        return await self._identities.report_expiry(device.id, expiry, seen, event)

    async def _is_silent(self, device: Enrollment) -> bool:
        assert device.last_seen is not None
        waiting = await self._queue.count_open(device.key)
        event = silent(self._ids.new(), self._clock.time_ns(), device, waiting)
        return await self._identities.report_silence(device.id, device.last_seen, event)

    async def _has_waited(self, device: Enrollment, since: datetime, now: datetime) -> bool:
        """A command could be sent to the device all the time."""
        window = EntryWindow(EPOCH, since, device.id, states=OPEN_STATES)
        limit = LATEST
        while True:
            entries = await self._queue.accepted_in(window, limit)
            if any(
                entry.is_due(since) and entry.is_due(now)
                for entry in entries
                if entry.generation in (None, device.generation)
            ):
                return True
            if len(entries) < limit:
                return False
            limit *= _MORE


def _is_served(device: Enrollment) -> bool:
    is_enrolled = device.status is EnrollmentStatus.ENROLLED
    return is_enrolled and not device.blocked and device.quarantine is None


def _is_unseen(device: Enrollment, since: datetime) -> bool:
    """It has made no contact since then, and no event reported that."""
    seen = device.last_seen
    return seen is not None and seen <= since and seen != device.silent_since


def _expiry_of(device: Enrollment, now: datetime) -> ReportedExpiry | None:
    """What is to be reported about its bound certificate."""
    identity = device.identity
    if identity is None or identity.certificate.not_after is None:
        return None
    certificate = identity.certificate
    if certificate.fingerprint != device.certificate:
        return None
    begin = certificate.not_before or identity.bound_at
    days = days_before(begin, identity.certificate.not_after, now)
    return to_report(device.certificate, days, device.reported_expiry)
