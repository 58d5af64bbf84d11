"""The arithmetic of SCEP, off the event loop and bounded.

Promise: however many ask at once, devices of this process are served meanwhile; who comes when too
many wait hears 503.
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


class ScepWork:
    """Does work in a thread, a few at a time."""

    def __init__(self, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._free = asyncio.Semaphore(threads)
        self._most_waiting = most_waiting
        self._waiting = 0

    async def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises; Unavailable when too many wait."""
        if self._waiting >= self._most_waiting:
            raise Unavailable("too many SCEP requests at once")
        self._waiting += 1
        try:
            async with self._free:
                return await asyncio.to_thread(function, *args, **kwargs)
        finally:
            self._waiting -= 1
