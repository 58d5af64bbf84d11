"""Work that would block the event loop: in a thread, a few calls at a time.

Promise: however many calls come at once, this process serves devices meanwhile; a call is refused with 503
when too many wait. Each kind of work has a separate line.
"""

import asyncio
import traceback
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from shared.domain.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
"""Neither RSA nor the parsing of messages releases the interpreter: more threads only make the loop wait."""
MOST_WAITING = 512


class HeavyWork:
    """Does work of one kind; `of` is what it is done for, as a refusal names it."""

    def __init__(self, of: str, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._of = of
        self._free = asyncio.Semaphore(threads)
        self._most_waiting = most_waiting
        self._waiting = 0

    async def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function in a thread. Raises Unavailable when too many calls wait."""
        if self._waiting >= self._most_waiting:
            raise Unavailable(f"too many {self._of} at once")
        self._waiting += 1
        try:
            async with self._free:
                return await asyncio.to_thread(_cleanly, partial(function, *args, **kwargs))
        finally:
            self._waiting -= 1


def _cleanly(call: Callable[[], T]) -> T:
    """Call it, and free what it built even where it fails: the traceback of its error would keep a large
    message until the event loop, which gets the error, has to free it."""
    try:
        return call()
    except BaseException as exc:
        failed: BaseException | None = exc
        while failed is not None:
            traceback.clear_frames(failed.__traceback__)
            failed = failed.__context__
        raise
