"""The sweep: finds devices that should have been pushed and were not, and those that stay silent.

Promises: a command whose process died between its 201 and the push request is pushed within 10 s; a device
with open commands is pushed again, less and less often, until its queue is empty; a restart goes on
where the last process stopped; among replicas each partition is swept by one, and where two do for a
moment, a device is pushed once too often and nothing else happens.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

import structlog

from services.push.send.pusher import Pusher, key_of
from shared.chunks import chunked
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.domain.command import QueueEntry
from shared.domain.enrollment import PARTITIONS, partition_of
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.ports.pushes import Pushes, PushRecord
from shared.ports.queue import CommandQueue

log = structlog.get_logger()

INTERVAL = timedelta(seconds=5)
PACE = Pace(every=INTERVAL, after_failure=INTERVAL)
HEARTBEAT = timedelta(seconds=1)
HEARTBEATS = Pace(every=HEARTBEAT, after_failure=HEARTBEAT)

LOOKS = (timedelta(milliseconds=2500), timedelta(minutes=1), timedelta(minutes=5))
"""The times after its acceptance at which the sweep looks at an entry: once soon, once when even the
slowest insert has ended, and once for a commands process whose clock is some minutes behind ours."""

FIRST_LOOK_BACK = timedelta(days=1)
"""The position of the very first process: its commands may have been accepted before it started."""

WINDOW = timedelta(hours=1)
"""The longest stretch of time that one look covers, when there is much to catch up. After a look that
the store could not answer the next one covers half as much."""

WINDOWS_UNDER_WAY = 8
DUE_AT_ONCE = 5000
CHUNK = 32


class Sweep:
    """Runs in every replica of push; `run` never ends by itself."""

    def __init__(
        self,
        queue: CommandQueue,
        pushes: Pushes,
        pusher: Pusher,
        share: Share,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._pushes = pushes
        self._pusher = pusher
        self._share = share
        self._clock = clock
        self._position: datetime | None = None
        self._window = WINDOW
        self._partitions: frozenset[int] = frozenset()
        self._under_way: list[datetime] = []
        """The begins of the stretches of time whose pushes have not all ended."""
        self._is_leaving = False
        self.oldest_unpushed = 0.0
        """Age in seconds of the oldest entry that the latest look found without a push."""

    async def run(self, loops: Loops) -> None:
        # The first look needs to know what is ours, and does not wait an interval for it.
        await loops.attempt("sweep_share", self._share.refresh, waits="sweep_failed")
        async with asyncio.TaskGroup() as group:
            for name, step, pace in (
                ("sweep_share", self._share.refresh, HEARTBEATS),
                ("sweep_silent", self.silent, PACE),
                ("sweep_unpushed", partial(self.unpushed, group, loops), PACE),
            ):
                group.create_task(
                    loops.keep_doing(name, step, pace, "sweep_failed", lambda: self._is_leaving)
                )

    async def leave(self) -> None:
        """Begin nothing new, and let the other replicas take this one's partitions at once."""
        self._is_leaving = True
        try:
            await self._share.leave()
        except Unavailable as exc:
            log.info("push_left_without_saying", error=str(exc))

    async def remember_start(self) -> None:
        """Without a certificate nothing is swept; the day there is one, it begins here."""
        await self._resume(frozenset(range(PARTITIONS)))

    async def silent(self) -> None:
        """Push those again whose time has come and who still have an open command."""
        if not self._share.partitions:
            return
        due = await self._pushes.due(self._share.partitions, self._clock.now(), DUE_AT_ONCE)
        waiting: list[PushRecord] = []
        for chunk in chunked(due, CHUNK):
            is_open = await self._queue.has_due(
                [key_of(r.enrollment) for r in chunk], self._clock.now()
            )
            waiting += [record for record in chunk if record.enrollment in is_open]
            await self._pushes.forget([r for r in chunk if r.enrollment not in is_open])
        await self._pusher.again(waiting)

    async def unpushed(self, group: asyncio.TaskGroup, loops: Loops) -> None:
        """Look at the entries accepted since the last look; `group` carries the pushes to their end."""
        partitions = self._share.partitions
        if not partitions:
            return
        if self._position is None or partitions != self._partitions:
            self._position = await self._resume(partitions)
            self._partitions = partitions
        while len(self._under_way) < WINDOWS_UNDER_WAY:
            since, now = self._position, self._clock.now()
            if since > now:
                # A clock was ahead, and what was accepted meanwhile was not looked at.
                log.warning("sweep_position_in_the_future", position=str(since))
                since = self._position = now - FIRST_LOOK_BACK
                await self._pushes.reset(partitions, since)
            if since == now:
                return
            until = min(now, since + self._window)
            length, self._window = self._window, max(self._window / 2, INTERVAL)
            wanted = await self._never_pushed(partitions, since, until)
            self._window = min(length * 2, WINDOW)
            self._position = until
            # A stretch without anything to push on the way to now has nothing that could be under way.
            if wanted or until == now:
                self._under_way.append(since)
                group.create_task(self._push(since, wanted, loops))
            if until == now:  # the clock has moved on meanwhile, and always will have
                return
            # A store that answers at once has let no other task run.
            await asyncio.sleep(0)

    async def _resume(self, partitions: frozenset[int]) -> datetime:
        stored = await self._pushes.positions()
        missing = [partition for partition in partitions if partition not in stored]
        start = self._clock.now() - FIRST_LOOK_BACK
        await self._pushes.advance(missing, start)
        return min([stored[p] for p in partitions if p in stored] + [start] * bool(missing))

    async def _never_pushed(
        self, partitions: Collection[int], since: datetime, until: datetime
    ) -> set[str]:
        latest: dict[str, datetime] = {}
        for look in LOOKS:
            async for entries in self._queue.beginning_between(since - look, until - look):
                for entry in entries:
                    _note(latest, entry, entry.not_before, partitions)
            async for entries in self._queue.accepted_between(since - look, until - look):
                for entry in filter(lambda each: each.is_due(until), entries):
                    _note(latest, entry, entry.accepted_at, partitions)
        tried = await self._pushes.load(latest)
        now = self._clock.now()
        missed = {
            enrollment
            for enrollment, accepted_at in latest.items()
            if enrollment not in tried
            # One in the future was tried by a clock that was ahead, at an unknown time.
            or not accepted_at < tried[enrollment].tried_at <= now
        }
        oldest = min((latest[enrollment] for enrollment in missed), default=None)
        self.oldest_unpushed = 0.0 if oldest is None else (now - oldest).total_seconds()
        if missed:
            log.info("unpushed_places_found", enrollments=len(missed))
        return missed

    async def _push(self, since: datetime, enrollments: Collection[str], loops: Loops) -> None:
        push = partial(self._pusher.missed, list(enrollments))
        await loops.until_done("sweep_push", push, PACE, waits="sweep_push_not_recorded")
        self._under_way.remove(since)
        done = min([*self._under_way, self._position or since])
        # One that is not stored is overtaken by the next.
        advance = partial(self._pushes.advance, self._partitions, done)
        await loops.attempt("sweep_position", advance, waits="sweep_position_not_stored")


def _note(
    latest: dict[str, datetime], entry: QueueEntry, at: datetime | None, partitions: Collection[int]
) -> None:
    """`at`: since when the entry may be sent."""
    if at is not None and partition_of(entry.device) in partitions:
        latest[entry.enrollment] = max(at, latest.get(entry.enrollment, at))
