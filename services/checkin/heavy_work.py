"""Work that would keep the event loop from everybody else: in a thread, a few at a time.

Promise: however many ask at once, devices of this process are served meanwhile; who comes when too
many wait hears 503. Each kind of work waits in a line of its own.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from shared.domain.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
"""RSA gives other threads way; the reading of messages does not."""
MOST_WAITING = 512


class HeavyWork:
    """Does work of one kind; `of` is what it is done for, as a refusal names it."""

    def __init__(self, of: str, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._of = of
        self._free = asyncio.Semaphore(threads)
        self._most_waiting = most_waiting
        self._waiting = 0

    async def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises; Unavailable when too many wait."""
        if self._waiting >= self._most_waiting:
            raise Unavailable(f"too many {self._of} at once")
        self._waiting += 1
        try:
            async with self._free:
                return await asyncio.to_thread(function, *args, **kwargs)
        finally:
            self._waiting -= 1
