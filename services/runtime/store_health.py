"""Watch the store for operators: a metric, and a line in the log when it goes and when it is back.

Promises: a store that is away, or accepts what it is asked and does not answer, shows within seconds;
one answer that is late does not. Readiness is none of its business: once the store was reached, a
process that is asked says 503 with Retry-After itself, which no proxy would say in its stead.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from shared.concurrency.periodic import Loops, Pace
from shared.ports.clock import Clock

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=1), after_failure=timedelta(seconds=1))
SILENCE = timedelta(seconds=4)
"""Without an answer for so long, the store is away."""


class StorePulse:
    """Asks the store again and again; `run` never ends by itself."""

    def __init__(self, ping: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self._answered_at = clock.monotonic()

    @property
    def is_up(self) -> bool:
        """As far as is known; asks nothing."""
        return self._clock.monotonic() - self._answered_at <= SILENCE.total_seconds()

    @asynccontextmanager
    async def running(self, loops: Loops) -> AsyncIterator[None]:
        """Ask within this context."""
        task = asyncio.create_task(self.run(loops), name="store-pulse")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def run(self, loops: Loops) -> None:
        self._answered_at = self._clock.monotonic()
        await loops.keep_doing("store_pulse", self._ask, PACE, waits="store_away")

    async def _ask(self) -> None:
        async with asyncio.timeout(SILENCE.total_seconds()):
            await self._ping()
        if not self.is_up:
            log.info("store_back")
        self._answered_at = self._clock.monotonic()
