"""Commands for one device go to the store before those for many.

Promises: a command for one device waits for one step of a piece at most. Before each of its steps a piece
waits for the commands that are under way then, and for none that come later, so neither kind starves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

PIECE_LIMIT = 32
"""Targets in one piece of a command for many devices. A step of a piece keeps the store busy for some
milliseconds, and a command for one device waits for it."""

PIECES_IN_FLIGHT = 2
"""While one piece waits for the store, another one is worked on."""

Step = Callable[[], Awaitable[None]]
"""Runs between two steps."""


async def no_wait() -> None:
    """Does not wait."""


class Priority:
    def __init__(self) -> None:
        self._interactive: set[asyncio.Future[None]] = set()

    @contextmanager
    def interactive(self) -> Iterator[None]:
        """Hold this around a command for one device."""
        ended = asyncio.get_running_loop().create_future()
        self._interactive.add(ended)
        try:
            yield
        finally:
            self._interactive.discard(ended)
            ended.set_result(None)

    async def yield_to_interactive(self) -> None:
        """Wait for the commands for one device that are under way now."""
        if self._interactive:
            await asyncio.wait(list(self._interactive))
