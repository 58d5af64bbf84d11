"""The partitions that this replica serves: opened, kept loaded, and given up as the share changes.

Promises (docs/rules.md, rule 11): a partition's blocked delivery queues are read after its first event has
come, before that event is handled, and again every few seconds; a partition is given up by closing
its channel; when a channel is lost, all that was known under it is dropped. While the store is away
the share stays as it is, but a process that is cut off gives its partitions up; while the broker is away,
opening is tried again and again. A partition that cannot be opened does not hold up the others.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from services.webhook.delivery.first_attempt import PartitionQueues, Spawn
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace, Step
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.ports.deliveries import Deliveries
from shared.ports.events import OpenPartition, PartitionConsumer

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=1))
GRACE = timedelta(seconds=5)
"""An attempt under way may take so long when its partition is given up."""
LAST_GRACE = timedelta(seconds=2)
"""The same, on the way out."""
_SWEEP_EVERY = timedelta(seconds=3)
_MOST_READ = 10_000
"""So many stored deliveries a second may be read again and again: a large backlog is read more rarely."""
_DEADLINE = timedelta(seconds=15)


@dataclass(slots=True, eq=False)
class Served:
    """A partition while it is ours."""

    partition: int
    queues: PartitionQueues
    channel: OpenPartition | None = None
    is_lost: bool = False
    is_leaving: bool = False
    oldest: str | None = None
    size: int = 0
    """How many deliveries the latest read found."""
    read_at: float = float("-inf")
    """The next time to read its blocked delivery queues."""


class Partitions:
    def __init__(
        self,
        consumer: PartitionConsumer,
        share: Share,
        deliveries: Deliveries,
        clock: Clock,
        loops: Loops,
        new_queues: Callable[[Spawn, Callable[[], object]], PartitionQueues],
        is_cut_off: Callable[[], bool] = lambda: False,
    ) -> None:
        self._consumer = consumer
        self._share = share
        self._deliveries = deliveries
        self._clock = clock
        self._loops = loops
        self._new_queues = new_queues
        self._is_cut_off = is_cut_off
        self._served: dict[int, Served] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._away: set[int] = set()
        """Partitions whose latest opening failed."""
        self._is_draining = False
        self._group: asyncio.TaskGroup | None = None
        self.has_share = False

    @property
    def served(self) -> list[PartitionQueues]:
        return [served.queues for served in self._served.values()]

    @property
    def oldest(self) -> str | None:
        """Id of the oldest event that waits here, as of the latest reads."""
        return min((x.oldest for x in self._served.values() if x.oldest), default=None)

    @property
    def open(self) -> frozenset[int]:
        return frozenset(n for n, served in self._served.items() if served.channel is not None)

    @property
    def untried(self) -> int:
        """The number of partitions of our share that neither are open nor failed to open: one that is away
        leaves the service ready."""
        return len(self._share.partitions - self.open - self._away)

    async def run(self) -> None:
        """Look after the partitions until cancelled. Heartbeats never wait for the rest."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name, step, waits in (
                    ("partitions_share", self._refresh, "share_not_refreshed"),
                    ("partitions", self._tend, "partitions_wait"),
                    ("partitions_sweep", self._sweep, "lanes_not_read"),
                ):
                    group.create_task(
                        self._loops.keep_doing(name, step, PACE, waits, lambda: self._is_draining)
                    )
        finally:
            for opening in self._opening:
                opening.cancel()

    async def drain(self, grace: timedelta = LAST_GRACE) -> None:
        """Take nothing new, finish what is under way, give every partition up."""
        self._is_draining = True
        async with asyncio.TaskGroup() as group:
            for partition in list(self._served):
                group.create_task(self._give_up(partition, grace))
        try:
            async with asyncio.timeout(_DEADLINE.total_seconds()):
                await self._share.leave()
        except (Unavailable, TimeoutError) as exc:
            log.warning("share_not_left", error=str(exc))

    async def _refresh(self) -> None:
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            await self._share.refresh()
        self.has_share = True

    async def _tend(self) -> None:
        for served in list(self._served.values()):
            if served.is_lost or (served.channel is not None and served.channel.is_lost):
                self._drop(served)
        mine = frozenset[int]() if self._is_cut_off() else self._share.partitions
        self._away &= mine
        spent = {n for n, served in self._served.items() if served.queues.inbox.is_spent}
        for partition in (self._served.keys() - mine) | spent:
            self._spawn(partial(self._give_up, partition, GRACE))
        for partition in mine - self._served.keys():
            # Not awaited here: one that does not answer must not hold up the others.
            self._opening.add(asyncio.create_task(self._open(self._serve(partition))))
        if self._away:
            log.warning("partitions_not_open", count=len(self._away))
        over = {each for each in self._opening if each.done()}
        self._opening -= over
        # Not in a group: the failure of one must not cut the others short.
        failed = [each for each in await asyncio.gather(*over, return_exceptions=True) if each]
        if failed:
            raise BaseExceptionGroup("partitions that could not be opened", failed)

    def _serve(self, partition: int) -> Served:
        queues = self._new_queues(self._spawn, lambda: self._spawn(partial(self._load, served)))
        served = self._served[partition] = Served(partition, queues)
        return served

    async def _open(self, served: Served) -> None:
        try:
            async with asyncio.timeout(_DEADLINE.total_seconds()):
                served.channel = await self._consumer.open(
                    served.partition,
                    on_event=served.queues.take,
                    on_lost=partial(self._lost, served),
                )
            self._away.discard(served.partition)
        except (Unavailable, TimeoutError) as exc:
            log.debug("partition_not_opened", partition=served.partition, error=str(exc))
        finally:
            if served.channel is None:
                self._away.add(served.partition)
                self._drop(served)
        if served.is_leaving and served.channel is not None:  # given up while it was being opened
            await self._close(served)

    async def _give_up(self, partition: int, grace: timedelta) -> None:
        served = self._served.get(partition)
        if served is None or served.is_leaving:
            return
        served.is_leaving = True
        await served.queues.finish(grace)
        await self._close(served)
        self._drop(served)

    async def _close(self, served: Served) -> None:
        if served.channel is None:
            return
        try:
            async with asyncio.timeout(_DEADLINE.total_seconds()):
                await served.channel.close()
        except (Unavailable, TimeoutError) as exc:
            log.warning("partition_not_closed", partition=served.partition, error=str(exc))

    def _drop(self, served: Served) -> None:
        if self._served.get(served.partition) is served:
            del self._served[served.partition]
        served.queues.abandon()

    def _lost(self, served: Served) -> None:
        log.warning("partition_lost", partition=served.partition)
        served.is_lost = True
        served.queues.abandon()

    def _spawn(self, work: Step) -> "asyncio.Task[None]":
        if self._group is None:
            raise RuntimeError("partitions are not running")
        attempt = self._loops.attempt("webhook_task", work, "webhook_task_failed")
        try:
            return self._group.create_task(attempt)
        except RuntimeError:  # the service ends: what comes now is not acked, and comes again
            attempt.close()
            raise

    async def _load(self, served: Served) -> None:
        """Read what is blocked, now that we surely are the consumer; then let the events through."""

        async def load() -> None:
            if served.queues.is_live:
                await self._read(served)
                served.queues.loaded()

        await self._loops.until_done("partition_load", load, PACE, waits="lanes_not_read")

    async def _sweep(self) -> None:
        """Read the blocked delivery queues of our partitions again, one after the other: another process may
        have stored there, and what waits from before waits for no first event."""
        failed: list[BaseException] = []
        for served in list(self._served.values()):
            began = self._clock.monotonic()
            if served.channel is None or not served.queues.is_live:
                continue
            if began < served.read_at and not served.queues.is_behind:
                continue
            [outcome] = await asyncio.gather(self._read(served), return_exceptions=True)
            failed += [outcome] if outcome else []
            pause = served.size * len(self._served) / _MOST_READ
            served.read_at = self._clock.monotonic() + max(_SWEEP_EVERY.total_seconds(), pause)
        if failed:
            raise BaseExceptionGroup("partitions whose lanes could not be read", failed)

    async def _read(self, served: Served) -> None:
        # No deadline over all of it: each page that the store reads has its own.
        began = self._clock.monotonic()
        backlogs = await self._deliveries.blocked(served.partition)
        served.queues.learn(backlogs)
        served.queues.read_at = began
        served.oldest = min((backlog.oldest for backlog in backlogs.values()), default=None)
        served.size = sum(backlog.count for backlog in backlogs.values())
