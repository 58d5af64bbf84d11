"""Clears away unused commands and entries of past generations, slowly.

Promises: a stored command goes only when it was not touched for a day, nor meanwhile, and no entry and no job
that runs refers to it (docs/rules.md, rule 13); an open entry ends only when it is of a past generation of
its device (rule 4); replicas share the work out, and where two do the same piece for a moment, nothing is
lost.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from services.commands.queue.reconcile import Reconciler
from shared.chunks import chunked
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.domain.command import QueueEntry
from shared.domain.enrollment import PARTITIONS
from shared.domain.errors import Unavailable
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue, StoredCommands
from shared.times import EPOCH

log = structlog.get_logger()

REST = timedelta(seconds=5)
"""Between two pieces of work; each costs the store some milliseconds."""
PACE = Pace(every=REST, after_failure=REST)

UNTOUCHED = timedelta(days=1)
LEAVE_DEADLINE = timedelta(seconds=1)

PREFIX_DIGITS = 3
PIECES = 16**PREFIX_DIGITS
"""Pieces of one pass. Stored commands are named by a hash, so its first digits cut them into even pieces."""

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
HOURS = PIECES // 2
"""Open entries are cut by when they were accepted: into so many hours, and days before them."""

CHUNK = 32


@dataclass(frozen=True, slots=True)
class Janitor:
    """Runs in every replica of commands; `run` never ends by itself."""

    queue: CommandQueue
    commands: StoredCommands
    reconciler: Reconciler
    share: Share
    clock: Clock

    async def run(self, loops: Loops) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forever(loops, "janitor_commands", self.forget_commands))
                group.create_task(self._forever(loops, "janitor_places", self.end_past_generations))
        finally:
            # Other replicas take over at once. Not before: a heartbeat that is under way would make us a
            # member again.
            try:
                async with asyncio.timeout(LEAVE_DEADLINE.total_seconds()):
                    await self.share.leave()
            except (Unavailable, TimeoutError) as exc:
                log.info("janitor_left_silently", error=str(exc))

    async def _forever(
        self, loops: Loops, name: str, work: Callable[[], AsyncGenerator[None, None]]
    ) -> None:
        pieces = work()

        async def piece() -> None:
            nonlocal pieces
            await self.share.refresh()
            try:
                await anext(pieces)
            except StopAsyncIteration:  # also after a piece that failed
                pieces = work()

        await loops.keep_doing(name, piece, PACE, waits="janitor_waits")

    async def forget_commands(self) -> AsyncGenerator[None, None]:
        """One pass over the stored commands; yields after each piece.

        `touched` is read first, then jobs and entries: a command that gets one was touched before
        it, so either we see that, or the condition does not hold any more."""
        for piece in self._pieces():
            prefix = f"{piece:0{PREFIX_DIGITS}x}"
            touched = await self.commands.untouched(prefix, self.clock.now() - UNTOUCHED)
            for chunk in chunked(sorted(touched), CHUNK):
                used = await self.commands.in_use(chunk)
                unused = {each: touched[each] for each in chunk if each not in used}
                if unused and (forgotten := await self.commands.forget(unused)):
                    log.info("commands_forgotten", count=forgotten)
            yield

    async def end_past_generations(self) -> AsyncGenerator[None, None]:
        """One pass over the open entries; yields after each piece.

        A killed enqueue or Authenticate left them behind: no device is ever handed them, so they would
        wait for ever."""
        for piece in self._pieces():
            since, until = window(piece, self.clock.now())
            async for entries in self.queue.accepted_between(since, until):
                await self._end_stale(entries)
            yield

    async def _end_stale(self, entries: Sequence[QueueEntry]) -> None:
        of_devices: dict[str, list[QueueEntry]] = {}
        for entry in entries:
            of_devices.setdefault(entry.device, []).append(entry)
        for chunk in chunked(sorted(of_devices), CHUNK):
            those = [entry for device in chunk for entry in of_devices[device]]
            left = sum(entry.state.is_open for entry in await self.reconciler.current(those))
            if ended := len(those) - left:
                log.info("stale_places_ended", count=ended)

    def _pieces(self) -> Iterator[int]:
        """Our share of a pass. The time says where it begins, so that a process that often restarts
        gets to all."""
        first = int(self.clock.now().timestamp() / REST.total_seconds())
        for step in range(PIECES):
            piece = (first + step) % PIECES
            if piece % PARTITIONS in self.share.partitions:
                yield piece


def window(piece: int, now: datetime) -> tuple[datetime, datetime]:
    """The window of acceptance that is this piece of a pass: hours, further back days, and at last all
    that is older. A pass that goes on finds each entry, since time moves it from one window to the next far
    more slowly."""
    hours, days = min(piece, HOURS), max(piece - HOURS, 0)
    until = now - hours * HOUR - days * DAY
    if piece == PIECES - 1:
        return EPOCH, until
    return until - (HOUR if piece < HOURS else DAY), until
