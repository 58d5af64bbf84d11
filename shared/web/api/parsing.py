"""Parsing of bodies, off the event loop where it takes long.

Promise: however large a body is, others are served while it is read; of one kind of request, one large body
is read at a time, so that threads do not keep each other and the loop from working.
"""

from collections.abc import Callable
from typing import TypeVar

from shared.concurrency.heavy_work import HeavyWork

T = TypeVar("T")

SMALL = 32 * 1024
"""Bytes up to which reading takes less than the way to a thread and back is worth."""


class Parsing:
    """For the routes of one kind."""

    def __init__(self) -> None:
        self._work = HeavyWork("large bodies", threads=1)

    async def of(self, parse: Callable[[bytes], T], body: bytes) -> T:
        """The result of `parse`, or the error that it raises. Unavailable when too many wait."""
        return parse(body) if len(body) <= SMALL else await self._work.do(parse, body)
