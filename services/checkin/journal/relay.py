"""The relay: publishes what waits in the journal, device by device, in order of time (rule 8).

Only the relay publishes a backlog. It reads a device's mark, then the events that the mark spans,
publishes each after the one before is safe, and clears the mark on condition that it was not raised
meanwhile. Every replica relays for its share of the partitions.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial

import structlog

from shared.concurrency.partitions import PartitionShare
from shared.concurrency.periodic import Loops, Pace, in_turn
from shared.concurrency.publishing import publish_safely
from shared.domain.enrollment import Waiting, partition_of
from shared.domain.errors import CannotDecrypt, OfNewerVersion, Unavailable
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments
from shared.ports.events import EventPublisher, Journal, Journaled
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PAUSE = timedelta(milliseconds=500)
PACE = Pace(every=PAUSE, after_failure=PAUSE)
PAUSE_AFTER_FAILURE = timedelta(seconds=2)
SIDE_BY_SIDE = 64
BATCH = 200
READ_TOGETHER = 256 * 1024
"""Bytes of bodies in memory for each device at once. A larger event is read alone."""
LARGE_SIDE_BY_SIDE = 2
"""Larger events at a time, and events of unknown size."""
AHEAD = timedelta(minutes=1)
"""An event's time may be ahead of our clock by so much before the log says so."""
FIRST_PAUSE = timedelta(seconds=2)
LONGEST_PAUSE = timedelta(minutes=5)
ROUNDS = 100
"""Looks of one pass at a device that goes on sending."""


class Backoff:
    """The devices whose backlog cannot be published (the broker refuses an event, say), and their pauses.

    Promise: such a device is tried less and less often, and after all others; however many of them there are,
    no other waits. A new message of the device changes nothing of that: it is behind what cannot be
    published."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[str, tuple[float, timedelta]] = {}
        """The end and the length of the latest pause."""

    def due(self, waiting: Mapping[str, Waiting]) -> list[str]:
        """The devices to try now: those that did not fail, the longest waiting one first, then the others by
        the end of their pause. A device that waits no longer is forgotten."""
        self._pauses = {device: self._pauses[device] for device in self._pauses.keys() & waiting}
        now = self._clock.monotonic()
        fresh = [device for device in waiting if device not in self._pauses]
        failed = sorted((end, device) for device, (end, _) in self._pauses.items() if end <= now)
        fresh.sort(key=lambda device: waiting[device].since or 0)
        return [*fresh, *(device for _, device in failed)]

    def failed(self, device: str) -> None:
        _, last = self._pauses.get(device, (0.0, FIRST_PAUSE / 2))
        length = min(last * 2, LONGEST_PAUSE)
        self._pauses[device] = (self._clock.monotonic() + length.total_seconds(), length)

    def succeeded(self, device: str) -> None:
        self._pauses.pop(device, None)


class Relay:
    def __init__(
        self,
        enrollments: Enrollments,
        journal: Journal,
        publisher: EventPublisher,
        share: PartitionShare,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._enrollments = enrollments
        self._journal = journal
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._share = share
        self._partitions: frozenset[int] = frozenset()
        self._under_way: set[str] = set()
        self._gate = asyncio.Semaphore(SIDE_BY_SIDE)
        self._large = asyncio.Semaphore(LARGE_SIDE_BY_SIDE)
        self._backoff = Backoff(clock)
        self._is_store_away = False
        self._is_clock_wrong = False

    async def run(self, loops: Loops) -> None:
        try:
            async with asyncio.TaskGroup() as group:

                async def relay(device: str) -> None:
                    """An unforeseen error holds up one device only, which is tried less and less often."""
                    step = partial(self._relay_in_turn, device)
                    try:
                        await loops.until_done("relay_device", step, PACE, "relay_device_waits")
                    finally:
                        self._under_way.discard(device)

                async def look() -> None:
                    if not self._is_flowing:
                        await self._clock.sleep(PAUSE_AFTER_FAILURE - PAUSE)
                    await self._start(lambda device: group.create_task(relay(device)))

                share = "relay_share_unknown"
                group.create_task(loops.keep_doing("relay_share", self._keep_share, PACE, share))
                await loops.keep_doing("relay", look, PACE, waits="relay_waits")
        finally:
            try:
                async with asyncio.timeout(2):
                    await self._share.leave()
            except (Unavailable, TimeoutError):
                log.info("relay_left_silently")

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
        self._measure(waiting)
        self._is_store_away = False
        for device in self._backoff.due(waiting):
            if device not in self._under_way:
                self._under_way.add(device)
                begin(device)

    def _measure(self, waiting: Mapping[str, Waiting]) -> None:
        now = self._clock.time_ns()
        oldest = min((w.since for w in waiting.values() if w.since is not None), default=now)
        newest = max((w.upto for w in waiting.values() if w.upto is not None), default=now)
        self._metrics.oldest_unpublished.set(max(now - oldest, 0) / 1e9)
        self._metrics.event_time_ahead.set(ahead := max(newest - now, 0) / 1e9)
        if ahead > AHEAD.total_seconds() and not self._is_clock_wrong:
            log.error(
                "event_time_is_ahead", seconds=round(ahead), action="set the clocks of all replicas"
            )
        self._is_clock_wrong = ahead > AHEAD.total_seconds()

    async def _relay_in_turn(self, device: str) -> None:
        try:
            async with in_turn(self._gate):
                if self._may_flow(device):
                    await self.relay_device(device)
                    self._backoff.succeeded(device)
        except Unavailable as exc:
            if self._may_flow(device):  # else it is not for this device that it failed
                self._backoff.failed(device)
            log.info("relay_device_waits", device=device, reason=str(exc))

    def _may_flow(self, device: str) -> bool:
        """False: its partition is another's or away. A broker, or a store, that answers nothing is not asked
        for each of ten thousand devices."""
        is_ours = partition_of(device) in self._partitions - self._publisher.away
        return is_ours and self._is_flowing

    @property
    def _is_flowing(self) -> bool:
        return self._publisher.is_live and not self._is_store_away

    async def relay_device(self, device: str) -> None:
        """Publish the backlog of one device; raises Unavailable when it must be tried again.

        A device that goes on sending raises its mark all the while, so the relay looks again at once
        and publishes what is new, until it finds the mark as it read it. It begins at `since` each
        time: a request that was slow to journal its event may have stamped it long before."""
        published: set[str] = set()
        for _ in range(ROUNDS):
            try:
                mark = await self._enrollments.read_waiting(device)
            except Unavailable:
                self._is_store_away = True
                raise
            if mark is None or mark.since is None or mark.upto is None:
                return
            await self._publish_span(device, mark, published)
            if await self._enrollments.clear_waiting(device, mark.count):
                return

    async def _publish_span(self, device: str, mark: Waiting, published: set[str]) -> None:
        since, upto = mark.since or 0, mark.upto or 0
        limit = BATCH
        while True:
            found = await self._journal.of_device(device, since, upto, limit)
            await self._publish_found(device, mark, found, published)
            if len(found) < limit:
                return
            if found[-1].created_at == since:  # more events of one time than are read together
                limit *= 2
            since = found[-1].created_at

    async def _publish_found(
        self, device: str, mark: Waiting, found: Sequence[Journaled], published: set[str]
    ) -> None:
        try:
            for page in _pages([each for each in found if each.id not in published]):
                await self._publish(page, published)
        except Unavailable:
            first = next(each.created_at for each in found if each.id not in published)
            if first > (mark.since or 0):  # what is safe does not come again
                await self._enrollments.clear_waiting(device, mark.count, upto=first)
            raise

    async def _publish(self, page: Sequence[Journaled], published: set[str]) -> None:
        """One after the other, each safe before the next; adds the ids of those that are."""
        size = page[0].size
        is_large = size is None or size > READ_TOGETHER
        async with in_turn(self._large) if is_large else nullcontext():
            try:
                events = await self._journal.read([each.id for each in page])
            except (CannotDecrypt, OfNewerVersion):
                if len(page) == 1:
                    raise
                for each in page:  # those before it go
                    await self._publish([each], published)
                return
            for each in page:
                if each.id in events:  # else its time in the journal is over
                    await publish_safely(self._publisher, [events.pop(each.id)])
                    self._metrics.events_relayed.inc()
                published.add(each.id)


def _pages(events: Sequence[Journaled]) -> Iterator[list[Journaled]]:
    """In their order; each page is at most READ_TOGETHER, or one large event."""
    page: list[Journaled] = []
    left = READ_TOGETHER
    for event in events:
        size = READ_TOGETHER + 1 if event.size is None else event.size
        if page and size > left:
            yield page
            page, left = [], READ_TOGETHER
        page.append(event)
        left -= size
    if page:
        yield page
