"""Parsing of bodies, off the event loop where it takes long.

Promise: however large a body is, others are served while it is read; of one kind of request, one large body
is read at a time, so that threads do not keep each other and the loop from working.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from shared.domain.errors import MdmError

T = TypeVar("T")

SMALL = 32 * 1024
"""Bytes up to which reading takes less than the way to a thread and back is worth."""


class Parsing:
    """For the routes of one kind."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def of(self, parse: Callable[[bytes], T], body: bytes) -> T:
        """Return what `parse` makes of the body; raises what it raises."""
        if len(body) <= SMALL:
            return parse(body)
        async with self._turn:
            found = await asyncio.to_thread(_parsed, parse, body)
        if isinstance(found, MdmError):
            raise found
        return found


def _parsed(parse: Callable[[bytes], T], body: bytes) -> T | MdmError:
    try:
        return parse(body)
    except MdmError as exc:
        # Its frames hold what was read; to let go of that takes long too, and is done here.
        exc.__context__ = None
        return exc.with_traceback(None)
