"""The relay: publishes what waits in the journal, device by device, in order of time (rule 8).

Only the relay publishes a backlog. It reads a device's mark, then the events that the mark spans,
publishes each after the one before is safe, and clears the mark on condition that nobody raised it
meanwhile. Every replica relays for its share of the partitions.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import structlog

from services.checkin.parts import Parts
from shared.domain.enrollment import partition_of
from shared.domain.errors import Unavailable
from shared.pacing import Loops, Pace
from shared.safe_publishing import publish_safely
from shared.sharing import PartitionShare

log = structlog.get_logger()

PAUSE = timedelta(milliseconds=500)
PACE = Pace(every=PAUSE, after_failure=PAUSE)
PAUSE_AFTER_FAILURE = timedelta(seconds=2)
SIDE_BY_SIDE = 64
BATCH = 200
GIVE_UP_AFTER = 8
"""Failures without a success between them, after which a pass asks for no further device."""
ROUNDS = 100
"""How often a pass looks again at a device that goes on sending."""


class Relay:
    """Works through the devices whose record says that events wait."""

    def __init__(self, parts: Parts, share: PartitionShare) -> None:
        self._enrollments = parts.enrollments
        self._journal = parts.journal
        self._publisher = parts.publisher
        self._clock = parts.clock
        self._metrics = parts.metrics
        self._share = share
        self._partitions: frozenset[int] = frozenset()
        self._under_way: set[str] = set()
        self._gate = asyncio.Semaphore(SIDE_BY_SIDE)
        self._failures = 0

    async def run(self, loops: Loops) -> None:
        """Relay until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:

                def begin(device: str) -> None:
                    group.create_task(self._until_relayed(device, loops))

                async def look() -> None:
                    if not self._is_flowing:
                        await self._clock.sleep(PAUSE_AFTER_FAILURE - PAUSE)
                    await self._start(begin)

                share = "relay_share_unknown"
                group.create_task(loops.keep_doing("relay_share", self._keep_share, PACE, share))
                await loops.keep_doing("relay", look, PACE, waits="relay_waits")
        finally:
            await self._leave()

    async def relay_waiting(self) -> None:
        """One pass over all devices of this replica's share whose events wait."""
        self._partitions = self._share.partitions
        async with asyncio.TaskGroup() as group:
            await self._start(lambda device: group.create_task(self._relay_in_turn(device)))
        self._under_way.clear()

    async def _keep_share(self) -> None:
        before = self._share.partitions
        await self._share.refresh()
        # by their second heartbeat the other replicas have shown themselves
        self._partitions = self._share.partitions if before else frozenset()

    async def _start(self, begin: Callable[[str], object]) -> None:
        """Begin with every device that waits and is not under way already."""
        waiting = await self._enrollments.waiting(self._partitions)
        oldest = min((w.since for w in waiting.values() if w.since is not None), default=None)
        age = 0.0 if oldest is None else (self._clock.time_ns() - oldest) / 1e9
        self._metrics.oldest_unpublished.set(max(age, 0.0))
        self._failures = 0
        for device in waiting.keys() - self._under_way:
            self._under_way.add(device)
            begin(device)

    async def _until_relayed(self, device: str, loops: Loops) -> None:
        """What nobody foresaw holds up one device, which is tried again ever less often."""
        in_turn = partial(self._relay_in_turn, device)
        try:
            await loops.until_done("relay_device", in_turn, PACE, waits="relay_device_waits")
        finally:
            self._under_way.discard(device)

    async def _relay_in_turn(self, device: str) -> None:
        try:
            async with self._gate:
                # A broker that takes nothing is not asked for each of ten thousand devices.
                if self._is_flowing and partition_of(device) in self._partitions:
                    await self.relay_device(device)
                    self._failures = 0
        except Unavailable as exc:
            self._failures += 1
            log.info("relay_device_waits", device=device, reason=str(exc))

    @property
    def _is_flowing(self) -> bool:
        return self._failures < GIVE_UP_AFTER

    async def relay_device(self, device: str) -> None:
        """Publish the backlog of one device; raises Unavailable when it must be tried again.

        A device that goes on sending raises its mark all the while, so the relay looks again at once
        and publishes what is new, until it finds the mark as it read it. It begins at `since` each
        time: a request that was slow to journal its event may have stamped it long before."""
        published: set[str] = set()
        for _ in range(ROUNDS):
            mark = await self._enrollments.read_waiting(device)
            if mark is None or mark.since is None or mark.upto is None:
                return
            await self._publish_span(device, (mark.since, mark.upto), published)
            if await self._enrollments.clear_waiting(device, mark.count):
                return

    async def _publish_span(self, device: str, span: tuple[int, int], published: set[str]) -> None:
        since, upto = span
        while True:
            events = await self._journal.of_device(device, since, upto, BATCH)
            for event in events:
                if event.id not in published:
                    await publish_safely(self._publisher, [event])
                    published.add(event.id)
                    self._metrics.events_relayed.inc()
            if len(events) < BATCH:
                return
            # Times of one device repeat at most once in a replica, so this always gets on.
            since = events[-1].created_at

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(2):
                await self._share.leave()
        except (Unavailable, TimeoutError):
            log.info("relay_left_silently")
