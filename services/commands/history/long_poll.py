"""Calls that wait until a device has answered a command: `?wait=SECONDS`.

Promises: a call ends as soon as its entry is final, and at the latest when its time is over, when its
client is gone, or when the process ends. The truth is the stored entry, which is looked at again and
again, so no answer is missed, whichever replica the device spoke to; one loop looks for all calls of a
process together, less often the more there are, and not at all while nobody waits.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import structlog
from fastapi import Request

from shared.chunks import chunked
from shared.concurrency.periodic import Loops, Pace
from shared.domain.command import QueueEntry
from shared.domain.errors import TooManyRequests, unfit
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue

log = structlog.get_logger()

QUICKEST = timedelta(milliseconds=200)
EACH = timedelta(milliseconds=2)
"""Between two looks: two milliseconds for each entry that is waited for, and never less than the
quickest. A look costs the store 0.1 ms each, so all of them a twentieth of its time."""

PACE = Pace(every=timedelta(), after_failure=QUICKEST)
CHUNK = 32
MOST_IN_ALL = 1000
"""In one process: the edge works on 2,000 requests at once, and devices are among them."""
RETRY_AFTER = timedelta(seconds=5)
NAME = "wait"

Outcome = TypeVar("Outcome")


def read_wait(request: Request, most: timedelta) -> timedelta | None:
    """The time that `?wait=` asks for, None when it is not there. Raises BadRequest."""
    text = request.query_params.get(NAME)
    if text is None:
        return None
    try:
        seconds = float(text) if text.isascii() and not set(text) & set("_ +") else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= most.total_seconds():  # false for NaN too
        expected = f"seconds: a number above 0, and at most {most.total_seconds():g}"
        raise unfit(NAME, expected)
    return timedelta(seconds=max(seconds, 0.001))


async def until_gone(request: Request) -> None:
    """Returns when the client has closed its connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def first(
    outcome: "asyncio.Future[Outcome | None]", *ends: Awaitable[None]
) -> Outcome | None:
    """The outcome; None once one of `ends` has come before it."""

    async def end(event: Awaitable[None]) -> None:
        await event
        if not outcome.done():
            outcome.set_result(None)

    async with asyncio.TaskGroup() as group:
        ending = [group.create_task(end(event)) for event in ends]
        found = await outcome
        for each in ending:
            each.cancel()
    return found


@dataclass(slots=True, eq=False)
class _Call:
    entry_id: str
    outcome: "asyncio.Future[QueueEntry | None]"

    def end(self, entry: QueueEntry | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(entry)


@dataclass(slots=True)
class Slots:
    """The most calls that wait: of one caller, and in all."""

    most_each: int
    most_in_all: int = MOST_IN_ALL
    taken: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def taking(self, caller: str) -> Iterator[None]:
        """Hold a slot; raises TooManyRequests when there is none."""
        if self.taken[caller] >= self.most_each:
            raise TooManyRequests(
                f"{NAME}: {self.most_each} calls of {caller} wait already, which is the most "
                "(MDM_MAX_WAITING)",
                RETRY_AFTER,
            )
        if self.taken.total() >= self.most_in_all:
            raise TooManyRequests(f"{NAME}: too many calls wait already", RETRY_AFTER)
        self.taken[caller] += 1
        try:
            yield
        finally:
            self.taken[caller] -= 1
            if not self.taken[caller]:
                del self.taken[caller]


class Waiting:
    """All waiting calls of one process; `run` never ends by itself."""

    def __init__(self, queue: CommandQueue, clock: Clock, slots: Slots) -> None:
        self._queue = queue
        self._clock = clock
        self._slots = slots
        self._calls: set[_Call] = set()
        self._some = asyncio.Event()
        self._is_stopped = False

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Hold a slot for a call that will wait: taken before the command is queued, so that whoever
        hears TooManyRequests has queued nothing."""
        with self._slots.taking(caller):
            yield

    async def final(
        self, entry_id: str, within: timedelta, gone: Callable[[], Awaitable[None]]
    ) -> QueueEntry | None:
        """The entry once it is final; None when it was not in time, the client is `gone`, the entry
        is, or the process ends."""
        if self._is_stopped:
            return None
        call = _Call(entry_id, asyncio.get_running_loop().create_future())
        self._calls.add(call)
        self._some.set()
        try:
            return await first(call.outcome, self._clock.sleep(within), gone())
        finally:
            self._calls.discard(call)

    def stop(self) -> None:
        """The process ends: all calls end now, and later ones do not wait."""
        self._is_stopped = True
        for call in self._calls:
            call.end(None)

    async def run(self, loops: Loops) -> None:
        """Look at the entries that are waited for, until cancelled."""
        await loops.keep_doing("waiting", self._look, PACE, waits="waiting_calls_not_looked_at")

    async def _look(self) -> None:
        if not self._calls:
            self._some.clear()
            await self._some.wait()
        await self._clock.sleep(max(QUICKEST, EACH * len(self._calls)))
        wanted: dict[str, list[_Call]] = {}
        for call in self._calls:
            wanted.setdefault(call.entry_id, []).append(call)
        for chunk in chunked(list(wanted), CHUNK):
            there = await self._queue.entries_of(chunk)
            for entry_id in chunk:
                entry = there.get(entry_id)
                if entry is None or entry.state.is_final:
                    for call in wanted[entry_id]:
                        call.end(entry)
