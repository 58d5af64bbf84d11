"""Which partitions this replica serves: opened, kept loaded, and given up as the share changes.

Promises (docs/rules.md, rule 11): a partition's blocked lanes are read after its first event has
come, before that event is handled, and again every few seconds; a partition is given up by closing
its channel; when a channel is lost, all that was known under it is dropped. While the store is away
the share stays as it is; while the broker is away, opening is tried again and again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog

from services.webhook.lanes import PartitionLanes, Spawn
from shared.domain.errors import Unavailable
from shared.pacing import Loops, Pace
from shared.ports.clock import Clock
from shared.ports.deliveries import Deliveries
from shared.ports.events import OpenPartition, PartitionConsumer

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=1))
GRACE = timedelta(seconds=5)
"""How long an attempt under way may take when its partition is given up."""
LAST_GRACE = timedelta(seconds=2)
"""The same, on the way out."""
_SWEEP_EVERY = 3.0
_SWEEP_SHARE = 20.0
"""Reading a large backlog may take this small a part of the time: one in so many."""
_DEADLINE = 15.0


class Share(Protocol):
    """`shared.sharing.PartitionShare`."""

    @property
    def partitions(self) -> frozenset[int]: ...
    async def refresh(self) -> frozenset[int]: ...
    async def leave(self) -> None: ...


@dataclass(slots=True, eq=False)
class Served:
    """A partition while it is ours."""

    partition: int
    lanes: PartitionLanes
    channel: OpenPartition | None = None
    is_lost: bool = False
    is_leaving: bool = False
    oldest: str | None = None
    read_at: float = float("-inf")
    """When its blocked lanes are to be read again."""


class Partitions:
    """Keeps the partitions of this replica's share open."""

    def __init__(
        self,
        consumer: PartitionConsumer,
        share: Share,
        deliveries: Deliveries,
        clock: Clock,
        new_lanes: Callable[[Callable[[], None]], PartitionLanes],
    ) -> None:
        self._consumer = consumer
        self._share = share
        self._deliveries = deliveries
        self._clock = clock
        self._new_lanes = new_lanes
        self._served: dict[int, Served] = {}
        self._is_draining = False
        self._spawn: Spawn | None = None
        self._loops: Loops | None = None
        self.has_share = False

    @property
    def served(self) -> list[PartitionLanes]:
        return [served.lanes for served in self._served.values()]

    @property
    def oldest(self) -> str | None:
        """Id of the oldest event that waits in one of our partitions, as of their latest reads."""
        return min((x.oldest for x in self._served.values() if x.oldest), default=None)

    @property
    def missing(self) -> int:
        """How many partitions of our share are not open."""
        return len(self._share.partitions - self._served.keys())

    async def run(self, spawn: Spawn, loops: Loops) -> None:
        """Look after the partitions until cancelled. Heartbeats never wait for the rest."""
        self._spawn, self._loops = spawn, loops
        async with asyncio.TaskGroup() as group:
            for name, step, waits in (
                ("partitions_share", self._refresh, "share_not_refreshed"),
                ("partitions", self._tend, "partitions_wait"),
                ("partitions_sweep", self._sweep, "lanes_not_read"),
            ):
                group.create_task(
                    loops.keep_doing(name, step, PACE, waits, lambda: self._is_draining)
                )

    async def drain(self, grace: timedelta = LAST_GRACE) -> None:
        """Take nothing new, finish what is under way, give every partition up."""
        self._is_draining = True
        async with asyncio.TaskGroup() as group:
            for partition in list(self._served):
                group.create_task(self._give_up(partition, grace))
        try:
            async with asyncio.timeout(_DEADLINE):
                await self._share.leave()
        except (Unavailable, TimeoutError) as exc:
            log.warning("share_not_left", error=str(exc))

    async def _refresh(self) -> None:
        async with asyncio.timeout(_DEADLINE):
            await self._share.refresh()
        self.has_share = True

    async def _tend(self) -> None:
        for partition, served in list(self._served.items()):
            if served.is_lost or (served.channel is not None and served.channel.is_lost):
                self._drop(partition)
        mine = self._share.partitions
        for partition in self._served.keys() - mine:
            self._in_background(self._give_up(partition, GRACE))
        opening = [self._open(partition) for partition in mine - self._served.keys()]
        # Not in a group: what one met must not cut the others short.
        failed = [each for each in await asyncio.gather(*opening, return_exceptions=True) if each]
        if self.missing:
            log.warning("partitions_not_open", count=self.missing)
        if failed:
            raise BaseExceptionGroup("partitions that could not be opened", failed)

    async def _open(self, partition: int) -> None:
        lanes = self._new_lanes(lambda: self._in_background(self._load(served)))
        served = Served(partition, lanes)
        self._served[partition] = served
        try:
            async with asyncio.timeout(_DEADLINE):
                served.channel = await self._consumer.open(
                    partition, on_event=lanes.take, on_lost=lambda: self._lost(served)
                )
        except (Unavailable, TimeoutError) as exc:
            log.debug("partition_not_opened", partition=partition, error=str(exc))
        finally:
            if served.channel is None:
                self._drop(partition)
        if served.is_leaving:  # given up while it was being opened
            await self._close(served)

    async def _give_up(self, partition: int, grace: timedelta) -> None:
        served = self._served.get(partition)
        if served is None or served.is_leaving:
            return
        served.is_leaving = True
        await served.lanes.finish(grace)
        await self._close(served)
        if self._served.get(partition) is served:
            self._drop(partition)

    async def _close(self, served: Served) -> None:
        if served.channel is None:
            return
        try:
            async with asyncio.timeout(_DEADLINE):
                await served.channel.close()
        except (Unavailable, TimeoutError) as exc:
            log.warning("partition_not_closed", partition=served.partition, error=str(exc))

    def _drop(self, partition: int) -> None:
        served = self._served.pop(partition, None)
        if served is not None:
            served.lanes.abandon()

    def _lost(self, served: Served) -> None:
        log.warning("partition_lost", partition=served.partition)
        served.is_lost = True
        served.lanes.abandon()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        if self._spawn is None:
            raise RuntimeError("partitions are not running")
        self._spawn(work)

    async def _load(self, served: Served) -> None:
        """Read what is blocked, now that we surely are the consumer; then let the events through."""

        async def load() -> None:
            if served.lanes.is_live:
                await self._read(served)
                served.lanes.loaded()

        if self._loops is None:
            raise RuntimeError("partitions are not running")
        await self._loops.until_done("partition_load", load, PACE, waits="lanes_not_read")

    async def _sweep(self) -> None:
        """Read the blocked lanes of our partitions again, one after the other: somebody else may have
        stored there, and what waits from before waits for no first event."""
        failed: list[BaseException] = []
        for served in list(self._served.values()):
            began = self._clock.monotonic()
            if served.channel is None or not served.lanes.is_live or began < served.read_at:
                continue
            [outcome] = await asyncio.gather(self._read(served), return_exceptions=True)
            failed += [outcome] if outcome else []
            now = self._clock.monotonic()
            pause = (now - began) * _SWEEP_SHARE * len(self._served)
            served.read_at = now + max(_SWEEP_EVERY, pause)
        if failed:
            raise BaseExceptionGroup("partitions whose lanes could not be read", failed)

    async def _read(self, served: Served) -> None:
        """Learn what is blocked in a partition."""
        async with asyncio.timeout(_DEADLINE):
            backlogs = await self._deliveries.blocked(served.partition)
        served.lanes.learn(backlogs)
        served.oldest = min((backlog.oldest for backlog in backlogs.values()), default=None)
