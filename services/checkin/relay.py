"""The relay: publishes what waits in the journal, device by device, in order of time (rule 8).

Only the relay publishes a backlog. It reads a device's mark, then the events that the mark spans,
publishes each after the one before is safe, and clears the mark on condition that nobody raised it
meanwhile. Every replica relays for its share of the partitions.
"""

import asyncio
from datetime import timedelta

import structlog

from services.checkin.parts import Parts
from shared.domain.errors import BrokerUnavailable, Unavailable
from shared.domain.event import Event
from shared.sharing import PartitionShare

log = structlog.get_logger()

PAUSE = timedelta(milliseconds=500)
SIDE_BY_SIDE = 64
ROUNDS = 100
"""How often a pass looks again at a device that goes on sending."""
SAFE_WITHIN = timedelta(seconds=90)
"""How long an event may take until its promise has passed on: the in-process broker's consumer
makes its first attempt (30 s at most) before it stores and acks."""


class Relay:
    """Works through the devices whose record says that events wait."""

    def __init__(self, parts: Parts, share: PartitionShare) -> None:
        self._enrollments = parts.enrollments
        self._journal = parts.journal
        self._publisher = parts.publisher
        self._clock = parts.clock
        self._metrics = parts.metrics
        self._share = share

    async def run(self) -> None:
        """Relay until cancelled."""
        try:
            while True:
                await self._clock.sleep(PAUSE)
                try:
                    before = self._share.partitions
                    await self._share.refresh()
                    if before:  # the other replicas have shown themselves by their second heartbeat
                        await self.relay_waiting()
                except Unavailable as exc:
                    log.warning("relay_waits", reason=str(exc))
        finally:
            await self._leave()

    async def relay_waiting(self) -> None:
        """One pass over all devices of this replica's share whose events wait."""
        waiting = await self._enrollments.waiting(self._share.partitions)
        oldest = min((w.since for w in waiting.values() if w.since is not None), default=None)
        age = 0.0 if oldest is None else (self._clock.time_ns() - oldest) / 1e9
        self._metrics.oldest_unpublished.set(max(age, 0.0))
        gate = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(device: str) -> None:
            async with gate:
                try:
                    await self.relay_device(device)
                except Unavailable as exc:
                    log.info("relay_device_waits", device=device, reason=str(exc))

        async with asyncio.TaskGroup() as group:
            for device in waiting:
                group.create_task(one(device))

    async def relay_device(self, device: str) -> None:
        """Publish the backlog of one device; raises Unavailable when it must be tried again.

        A device that goes on sending raises its mark all the while, so the relay looks again at once
        and publishes what is new, until it finds the mark as it read it."""
        published: set[str] = set()
        for _ in range(ROUNDS):
            mark = await self._enrollments.read_waiting(device)
            if mark is None or mark.since is None or mark.upto is None:
                return
            for event in await self._journal.of_device(device, mark.since, mark.upto):
                if event.id not in published:
                    await self._publish_safely(event)
                    published.add(event.id)
                    self._metrics.events_relayed.inc()
            if await self._enrollments.clear_waiting(device, mark.count):
                return

    async def _publish_safely(self, event: Event) -> None:
        """Publish, and wait until the promise has passed on: confirmed, or acked in the process."""
        safe = asyncio.Event()
        [taken] = await self._publisher.publish([event], settled=lambda _: safe.set())
        if not taken:
            raise BrokerUnavailable("the broker did not take the event")
        try:
            async with asyncio.timeout(SAFE_WITHIN.total_seconds()):
                await safe.wait()
        except TimeoutError as exc:
            raise BrokerUnavailable("the consumer did not take the event") from exc

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(2):
                await self._share.leave()
        except (Unavailable, TimeoutError):
            log.info("relay_left_silently")
