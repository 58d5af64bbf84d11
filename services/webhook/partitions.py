"""Which partitions this replica serves: opened, kept loaded, and given up as the share changes.

Promises (docs/rules.md, rule 11): a partition's blocked lanes are read after its first event has
come, before that event is handled, and again every few seconds; a partition is given up by closing
its channel; when a channel is lost, all that was known under it is dropped. While the store is away
the share stays as it is; while the broker is away, opening is tried again and again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog

from services.webhook.lanes import PartitionLanes, Spawn
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.ports.deliveries import Deliveries
from shared.ports.events import OpenPartition, PartitionConsumer

log = structlog.get_logger()

REFRESH = timedelta(seconds=1)
GRACE = timedelta(seconds=5)
"""How long an attempt under way may take when its partition is given up."""
LAST_GRACE = timedelta(seconds=2)
"""The same, on the way out."""
_SWEEP_EVERY = 3.0
_SWEEP_SHARE = 20.0
"""Reading a large backlog may take this small a part of the time: one in so many."""
_DEADLINE = 15.0
_LOAD_PAUSE = timedelta(seconds=1)


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

    async def run(self, spawn: Spawn) -> None:
        """Look after the partitions until cancelled. Heartbeats never wait for the rest."""
        self._spawn = spawn
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._refresh))
            group.create_task(self._repeat(self._tend))
            group.create_task(self._repeat(self._sweep))

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while not self._is_draining:
            await step()
            await self._clock.sleep(REFRESH)

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
        try:
            async with asyncio.timeout(_DEADLINE):
                await self._share.refresh()
        except (Unavailable, TimeoutError) as exc:
            log.warning("share_not_refreshed", error=str(exc))
        else:
            self.has_share = True

    async def _tend(self) -> None:
        for partition, served in list(self._served.items()):
            if served.is_lost or (served.channel is not None and served.channel.is_lost):
                self._drop(partition)
        mine = self._share.partitions
        for partition in self._served.keys() - mine:
            self._in_background(self._give_up(partition, GRACE))
        async with asyncio.TaskGroup() as group:
            for partition in mine - self._served.keys():
                group.create_task(self._open(partition))
        if self.missing:
            log.warning("partitions_not_open", count=self.missing)

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
            self._drop(partition)
            return
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
        while served.lanes.is_live:
            if await self._read(served):
                served.lanes.loaded()
                return
            await self._clock.sleep(_LOAD_PAUSE)

    async def _sweep(self) -> None:
        """Read the blocked lanes of our partitions again, one after the other: somebody else may have
        stored there, and what waits from before waits for no first event."""
        for served in list(self._served.values()):
            began = self._clock.monotonic()
            if served.channel is None or not served.lanes.is_live or began < served.read_at:
                continue
            await self._read(served)
            now = self._clock.monotonic()
            pause = (now - began) * _SWEEP_SHARE * len(self._served)
            served.read_at = now + max(_SWEEP_EVERY, pause)

    async def _read(self, served: Served) -> bool:
        """Learn what is blocked in a partition; False: the store did not say."""
        try:
            async with asyncio.timeout(_DEADLINE):
                backlogs = await self._deliveries.blocked(served.partition)
        except (Unavailable, TimeoutError) as exc:
            log.warning("lanes_not_read", partition=served.partition, error=str(exc))
            return False
        served.lanes.learn(backlogs)
        served.oldest = min((backlog.oldest for backlog in backlogs.values()), default=None)
        return True
