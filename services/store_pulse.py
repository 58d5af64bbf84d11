"""Whether the store answers, as readiness wants to know it: at once, from what is known.

Promises: a store that is away, or accepts what it is asked and does not answer, shows within seconds;
one answer that is late does not.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from shared.domain.errors import StoreUnavailable
from shared.ports.clock import Clock

PAUSE = timedelta(seconds=1)
SILENCE = timedelta(seconds=4)
"""Without an answer for so long, nobody should send clients here."""


class StorePulse:
    """Asks the store again and again; `run` never ends by itself."""

    def __init__(self, ping: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self._answered_at = clock.monotonic()

    async def run(self) -> None:
        self._answered_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(PAUSE)
            try:
                await self._ping()
            except StoreUnavailable:
                continue  # whoever works with the store says what is wrong with it
            self._answered_at = self._clock.monotonic()

    async def reasons(self) -> list[str]:
        """Why the store cannot be worked with now, as far as is known; asks nobody."""
        silence = self._clock.monotonic() - self._answered_at
        return ["the store does not answer"] if silence > SILENCE.total_seconds() else []
