"""Clears away what nobody needs any more, slowly: stored commands, and places of past generations.

Promises: a stored command goes only when nobody touched it for a day and no place refers to it, and
not if somebody touches it meanwhile (docs/rules.md, rule 13); an open place ends only when it is of
a past generation of its device (rule 4); replicas share the work out, and where two do the same piece
for a moment, nothing is lost; a store that is away is waited for.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Protocol

import structlog

from services.commands.life import QueueLife
from shared.domain.enrollment import PARTITIONS
from shared.domain.errors import Unavailable
from shared.ports import Clock, CommandQueue, DeviceQuery, Enrollments

log = structlog.get_logger()

PACE = timedelta(seconds=5)
"""Between two pieces of work; each costs the store some milliseconds."""

UNTOUCHED = timedelta(days=1)
REST = timedelta(hours=1)
"""After all devices were looked at."""

PREFIX_DIGITS = 3
"""Stored commands are named by a hash, so its first digits cut them into 4,096 even pieces."""

CHUNK = 32
PAGE = 100


class Share(Protocol):
    """Which partitions are ours (`shared.sharing.PartitionShare`)."""

    @property
    def partitions(self) -> frozenset[int]: ...
    async def refresh(self) -> frozenset[int]: ...
    async def leave(self) -> None: ...


class Janitor:
    """Runs in every replica of commands; `run` never ends by itself."""

    def __init__(
        self,
        queue: CommandQueue,
        enrollments: Enrollments,
        life: QueueLife,
        share: Share,
        clock: Clock,
    ) -> None:
        self._queue = queue
        self._enrollments = enrollments
        self._life = life
        self._share = share
        self._clock = clock

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forever(self.forget_commands))
            group.create_task(self._forever(self.end_past_generations))

    async def leave(self) -> None:
        """Let the other replicas take over at once."""
        await self._share.leave()

    async def _forever(self, work: Callable[[], AsyncGenerator[None, None]]) -> None:
        """Do all pieces of a work again and again, at the janitor's pace."""
        is_failing = False
        while True:
            try:
                await self._share.refresh()
                async with aclosing(work()) as pieces:
                    async for _ in pieces:
                        await self._pause(PACE)
                        await self._share.refresh()
                        is_failing = False
            except Unavailable as exc:
                if not is_failing:
                    log.warning("janitor_waits", error=str(exc))
                is_failing = True
            await self._pause(PACE)

    async def _pause(self, duration: timedelta) -> None:
        # `asyncio.wait_for` of Python 3.11, which PyMongo's client uses, loses a cancellation that
        # comes in the moment of its result; the task still knows of it.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        await self._clock.sleep(duration)

    # --- stored commands

    async def forget_commands(self) -> AsyncGenerator[None, None]:
        """One pass over the stored commands; yields after each piece.

        The time says where it begins, so that a process that often starts anew gets to all."""
        pieces = 16**PREFIX_DIGITS
        first = int(self._clock.now().timestamp() / PACE.total_seconds())
        for piece in ((first + step) % pieces for step in range(pieces)):
            if piece % PARTITIONS in self._share.partitions:
                await self._forget(f"{piece:0{PREFIX_DIGITS}x}")
                yield

    async def _forget(self, prefix: str) -> None:
        """`touched` is read first, then the places: a command that gets a place was touched before
        it, so either we see the place, or the condition does not hold any more."""
        touched = await self._queue.untouched(prefix, self._clock.now() - UNTOUCHED)
        hashes = sorted(touched)
        for start in range(0, len(hashes), CHUNK):
            chunk = hashes[start : start + CHUNK]
            used = await self._queue.in_use(chunk)
            unused = {each: touched[each] for each in chunk if each not in used}
            if unused and (forgotten := await self._queue.forget(unused)):
                log.info("commands_forgotten", count=forgotten)

    # --- places of past generations

    async def end_past_generations(self) -> AsyncGenerator[None, None]:
        """One pass over all devices, by one replica; yields after each piece, and rests at the end.

        What a killed enqueue or a killed Authenticate left behind: no device is ever handed it, and
        without somebody to end it, it would wait for ever."""
        page = 0
        while 0 in self._share.partitions:
            query = DeviceQuery(page=page, per_page=PAGE)
            devices = [found.device for found in await self._enrollments.devices(query)]
            for start in range(0, len(devices), CHUNK):
                await self._end_stale(devices[start : start + CHUNK])
            if len(devices) < PAGE:
                break
            page += 1
            yield
        await self._pause(REST)

    async def _end_stale(self, devices: list[str]) -> None:
        places = await self._queue.open_of_devices(devices)
        if not places:
            return
        now = await self._enrollments.load(places.keys())  # after the places, never before
        for device, open_places in places.items():
            generation = now[device].generation if device in now else None
            left = await self._life.without_stale(open_places, generation)
            if ended := len(open_places) - len(left):
                log.info("stale_places_ended", device=device, count=ended)
