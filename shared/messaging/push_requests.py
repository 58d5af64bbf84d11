"""Push requests that wait in memory, for a broker or, in one process, for their consumer."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from itertools import islice

from shared.ports.clock import Clock

LIMIT = 100_000
"""Push requests that may wait; the sweep finds those beyond (docs/rules.md, rule 12)."""
AT_ONCE = 500
AGAIN = timedelta(seconds=1)

Take = Callable[[Sequence[str]], Awaitable[bool]]
"""Gets enrollment ids; False where it did not take them."""


class WaitingRequests:
    """The port PushRequests. Requests for one enrollment collapse; those that were not taken wait again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._some = asyncio.Event()

    def add(self, enrollments: Collection[str]) -> None:
        room = max(LIMIT - len(self._waiting), 0)
        self._waiting.update(dict.fromkeys(islice(enrollments, room)))
        self._some.set()

    async def keep_flushing(self, take: Take) -> None:
        """Hand over what comes, until cancelled."""
        while True:
            await self._some.wait()
            if not await self.flush(take):
                await self._clock.sleep(AGAIN)

    async def flush(self, take: Take) -> bool:
        """Hand over what waits; False when not all of it was taken."""
        while self._waiting:
            chosen = list(islice(self._waiting, AT_ONCE))
            for name in chosen:
                del self._waiting[name]
            is_taken = False
            try:
                is_taken = await take(chosen)
            finally:
                if not is_taken:
                    self._waiting.update(dict.fromkeys(chosen))
            if not is_taken:
                return False
        self._some.clear()
        return True
