"""Push requests in the memory of a single process."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from itertools import islice

import structlog

from shared.ports.clock import Clock

log = structlog.get_logger()

LIMIT = 100_000
"""Push requests that may wait; the sweep finds those beyond (docs/rules.md, rule 12)."""
PER_CALL = 500
AGAIN = timedelta(seconds=1)


class LocalPushRequests:
    """The ports PushRequests and PushRequestConsumer: push requests collapse, and wait until they are
    granted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._some = asyncio.Event()

    def add(self, enrollments: Collection[str]) -> None:
        room = max(LIMIT - len(self._waiting), 0)
        self._waiting.update(dict.fromkeys(islice(enrollments, room)))
        self._some.set()

    async def consume(self, on_requests: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        while True:
            await self._some.wait()
            chosen = list(islice(self._waiting, PER_CALL))
            if not chosen:
                self._some.clear()
                continue
            for name in chosen:
                del self._waiting[name]
            if not await self._grant(chosen, on_requests):
                await self._clock.sleep(AGAIN)

    async def _grant(
        self, chosen: Sequence[str], on_requests: Callable[[Sequence[str]], Awaitable[None]]
    ) -> bool:
        granted = False
        try:
            await on_requests(chosen)
            granted = True
        except Exception:
            log.exception("wishes_failed", wishes=len(chosen))
        finally:
            if not granted:
                self.add(chosen)
        return granted
