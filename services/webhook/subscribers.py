"""The subscriptions as they are now, read again every few seconds.

Promises: no event is taken for nobody's before the subscriptions were read once.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from shared.concurrency.periodic import Loops, Pace
from shared.domain.subscription import Subscription
from shared.ports.clock import Clock
from shared.ports.deliveries import Subscriptions

_PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=1))
_DEADLINE = 15.0


class Subscribers:
    """The present subscriptions."""

    def __init__(self, subscriptions: Subscriptions, clock: Clock) -> None:
        self._subscriptions = subscriptions
        self._clock = clock
        self._known: dict[str, Subscription] = {}
        self._was_read = asyncio.Event()

    def current(self) -> Sequence[Subscription]:
        return list(self._known.values())

    def get(self, subscription: str) -> Subscription | None:
        return self._known.get(subscription)

    async def first_read(self) -> None:
        """Wait until they were read once."""
        await self._was_read.wait()

    async def run(self, loops: Loops) -> None:
        """Keep reading, until cancelled."""
        await loops.keep_doing("subscribers", self._read, _PACE, waits="subscriptions_not_read")

    async def _read(self) -> None:
        async with asyncio.timeout(_DEADLINE):
            found = await self._subscriptions.all()
        self._known = {subscription.id: subscription for subscription in found}
        self._was_read.set()
