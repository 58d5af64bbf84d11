"""Who goes first to the store: commands for one device, before those for many.

Promises: a command for one device waits for one step of a piece at most; a piece waits, before each
of its steps, for the commands that are under way then and for none that come later, so that both go on
however many there are of the other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

PIECE_LIMIT = 32
"""Targets in one piece of a command for many devices: the store is busy with a step of it for some
milliseconds, in which a command for one device must wait."""

PIECES_IN_FLIGHT = 2
"""While one piece waits for the store, we work on another."""

Step = Callable[[], Awaitable[None]]
"""Waited for between two steps."""


async def at_once() -> None:
    """Waits for nobody."""


class Precedence:
    """Of one process."""

    def __init__(self) -> None:
        self._first: set[asyncio.Future[None]] = set()

    @contextmanager
    def first(self) -> Iterator[None]:
        """Around what goes first."""
        ended = asyncio.get_running_loop().create_future()
        self._first.add(ended)
        try:
            yield
        finally:
            self._first.discard(ended)
            ended.set_result(None)

    async def give_way(self) -> None:
        """Wait for those that go first and are there now."""
        if self._first:
            await asyncio.wait(list(self._first))
