"""Calls that wait until a device has answered a command: `?wait=SECONDS`.

Promises: a call ends as soon as its entry is final, and at the latest when its time is over, when its
client is gone, or when the process ends. The truth is the stored entry, which is looked at again and
again, so no answer is missed, whichever replica the device spoke to; one loop looks for all calls of a
process together, less often the more there are, and not at all without any.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import TypeVar

from shared.chunks import chunked
from shared.concurrency.periodic import Loops, Pace
from shared.domain.command import QueueEntry
from shared.domain.errors import TooManyRequests, unfit
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue

QUICKEST = timedelta(milliseconds=200)
EACH = timedelta(milliseconds=2)
"""Between two looks: two milliseconds for each entry that is waited for, and never less than the
quickest. A look costs the store 0.1 ms each, so all of them a twentieth of its time."""

SILENCE = timedelta(minutes=1)
"""Without calls the loop goes on so often, to show that it does not hang."""
PACE = Pace(every=timedelta(), after_failure=QUICKEST)
CHUNK = 32
MOST_IN_ALL = 1000
"""In one process: the edge works on 2,000 requests at once, and devices are among them."""
RETRY_AFTER = timedelta(seconds=5)
NAME = "wait"

Outcome = TypeVar("Outcome")


def read_wait(text: str | None, most: timedelta) -> timedelta | None:
    """The time that `?wait=` asks for, None without it. Raises BadRequest."""
    if text is None:
        return None
    try:
        seconds = float(text) if text.isascii() and not set(text) & set("_ +") else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= most.total_seconds():  # false for NaN too
        raise unfit(NAME, f"seconds: a number above 0, and at most {most.total_seconds():g}")
    return timedelta(seconds=max(seconds, 0.001))


def settle(outcome: "asyncio.Future[Outcome]", result: Outcome) -> None:
    if not outcome.done():
        outcome.set_result(result)


async def first(
    outcome: "asyncio.Future[Outcome | None]", *ends: Awaitable[object]
) -> Outcome | None:
    """The outcome; None once one of `ends` has come before it."""

    async def end(event: Awaitable[object]) -> None:
        await event
        settle(outcome, None)

    async with asyncio.TaskGroup() as group:
        ending = [group.create_task(end(event)) for event in ends]
        found = await outcome
        for each in ending:
            each.cancel()
    return found


class LongPoll:
    """All waiting calls of one process: at most `most_each` of one caller, each at most for `longest`."""

    def __init__(
        self,
        queue: CommandQueue,
        clock: Clock,
        longest: timedelta,
        most_each: int,
        most_in_all: int = MOST_IN_ALL,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self.longest = longest
        self._most_each = most_each
        self._most_in_all = most_in_all
        self._taken: Counter[str] = Counter()
        self._calls: dict[str, set[asyncio.Future[QueueEntry | None]]] = {}
        """By the id of the entry that they wait for."""
        self._some = asyncio.Event()
        self._is_stopped = False

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Hold a slot for a call that will wait. Take it before the command is queued, so that a client that
        gets TooManyRequests has queued nothing."""
        if self._taken[caller] >= self._most_each:
            raise TooManyRequests(
                f"{NAME}: {self._most_each} calls of {caller} wait already, which is the most "
                "(MDM_MAX_WAITING)",
                RETRY_AFTER,
            )
        if self._taken.total() >= self._most_in_all:
            raise TooManyRequests(f"{NAME}: too many calls wait already", RETRY_AFTER)
        self._taken[caller] += 1
        try:
            yield
        finally:
            self._taken -= Counter((caller,))  # forgets who holds none

    async def final(
        self, entry_id: str, within: timedelta, gone: Callable[[], Awaitable[None]]
    ) -> QueueEntry | None:
        """The entry once it is final; None when it was not in time, the client is `gone`, the entry
        is, or the process ends."""
        if self._is_stopped:
            return None
        outcome: asyncio.Future[QueueEntry | None] = asyncio.get_running_loop().create_future()
        calls = self._calls.setdefault(entry_id, set())
        calls.add(outcome)
        self._some.set()
        try:
            return await first(outcome, self._clock.sleep(within), gone())
        finally:
            calls.discard(outcome)
            if not calls:
                del self._calls[entry_id]

    def stop(self) -> None:
        """The process ends: all calls end now, and later ones do not wait."""
        self._is_stopped = True
        for call in chain.from_iterable(self._calls.values()):
            settle(call, None)

    async def run(self, loops: Loops) -> None:
        """Look at the entries that are waited for, until cancelled."""
        await loops.keep_doing("waiting", self._look, PACE, waits="waiting_calls_not_looked_at")

    async def _look(self) -> None:
        if not self._calls:
            self._some.clear()
            nothing = asyncio.get_running_loop().create_future()
            await first(nothing, self._some.wait(), self._clock.sleep(SILENCE))
        await self._clock.sleep(max(QUICKEST, EACH * len(self._calls)))
        # A call that comes later must not get what was read before it.
        wanted = {entry_id: list(calls) for entry_id, calls in self._calls.items()}
        for chunk in chunked(list(wanted), CHUNK):
            there = await self._queue.entries_of(chunk)
            for entry_id in chunk:
                entry = there.get(entry_id)
                if entry is None or entry.state.is_final:
                    for call in wanted[entry_id]:
                        settle(call, entry)
