"""Wishes for pushes in the memory of a single process."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from itertools import islice

import structlog

from shared.ports.clock import Clock

log = structlog.get_logger()

WISHES = 100_000
"""Wishes that may wait; the sweep finds those beyond (docs/rules.md, rule 12)."""
WISHES_AT_ONCE = 500
AGAIN = timedelta(seconds=1)


class LocalWishes:
    """The ports PushWishes and WishConsumer: wishes collapse, and wait until they are granted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._some = asyncio.Event()

    def wish(self, enrollments: Collection[str]) -> None:
        room = max(WISHES - len(self._waiting), 0)
        self._waiting.update(dict.fromkeys(islice(enrollments, room)))
        self._some.set()

    async def consume(self, on_wishes: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        while True:
            await self._some.wait()
            chosen = list(islice(self._waiting, WISHES_AT_ONCE))
            if not chosen:
                self._some.clear()
                continue
            for name in chosen:
                del self._waiting[name]
            if not await self._grant(chosen, on_wishes):
                await self._clock.sleep(AGAIN)

    async def _grant(
        self, chosen: Sequence[str], on_wishes: Callable[[Sequence[str]], Awaitable[None]]
    ) -> bool:
        granted = False
        try:
            await on_wishes(chosen)
            granted = True
        except Exception:
            log.exception("wishes_failed", wishes=len(chosen))
        finally:
            if not granted:
                self.wish(chosen)
        return granted
