"""Commands for one device go to the store before those for many.

Promises: a command for one device, its entry in the audit log included, waits for one step of each piece
under way at most, and for one of the events of ended commands. Before each of its steps a piece waits for
the requests that are under way then, and for none that come later, so neither kind starves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

PIECE_LIMIT = 16
"""Targets in one piece of a command for many devices. A step of a piece keeps the store busy for a
millisecond or two, and a command for one device waits for it."""

PIECES_IN_FLIGHT = 2
"""While one piece waits for the store, another one is worked on."""

Step = Callable[[], Awaitable[None]]
"""Runs between two steps."""


async def no_wait() -> None:
    """Does not wait."""


class Priority:
    def __init__(self) -> None:
        self._interactive: dict[object, asyncio.Future[None]] = {}
        """By the task of the request."""

    @contextmanager
    def interactive(self) -> Iterator[None]:
        """Hold this around each step of a request that a client waits for; of one that holds
        another one, only the inner one is waited for."""
        request = asyncio.current_task() or object()
        ended = self._interactive[request] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            ended.set_result(None)
            if self._interactive.get(request) is ended:
                del self._interactive[request]

    async def yield_to_interactive(self) -> None:
        """Wait for the requests that are under way now: for this step of each, and for the next one where
        that follows at once."""
        if not self._interactive:
            return
        requests = list(self._interactive)
        await asyncio.wait(list(self._interactive.values()))
        if again := [self._interactive[each] for each in requests if each in self._interactive]:
            await asyncio.wait(again)
