"""Attempts at delivery: whoever makes one goes through here, so that all of them are paced and counted.

Promises: a subscriber that hangs stalls nobody else; when one that was down takes an event again,
`on_recovery` is called, so that nothing waits longer than it must.
"""

from collections.abc import Callable
from typing import Protocol

import structlog

from services.webhook.pace import Gate, Pace
from services.webhook.sender import Outcome, Sender
from shared.domain.subscription import Subscription
from shared.ports import Clock

log = structlog.get_logger()

BUSY = Outcome("the subscriber is too slow: not tried yet", was_made=False)


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class Attempts:
    """First attempts and retries, each in its own bounds, per subscriber."""

    def __init__(
        self,
        sender: Sender,
        clock: Clock,
        delivered: Counter,
        *,
        new_gate: Callable[[], Gate] = Gate,
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._delivered = delivered
        self._new_gate = new_gate
        self._gates: dict[str, Gate] = {}
        self._paces: dict[str, Pace] = {}
        self.on_recovery: Callable[[str], None] = lambda subscription: None

    def pace(self, subscription: str) -> Pace:
        """The pace of retries to a subscriber."""
        if subscription not in self._paces:
            self._paces[subscription] = Pace(self._clock)
        return self._paces[subscription]

    async def first(self, subscription: Subscription, body: bytes) -> Outcome:
        """The first attempt of an event; `was_made` is False where the subscriber is too busy."""
        if subscription.id not in self._gates:
            self._gates[subscription.id] = self._new_gate()
        gate = self._gates[subscription.id]
        if not await gate.enter():
            return BUSY
        try:
            return await self.again(subscription, body)
        finally:
            gate.leave()

    async def again(self, subscription: Subscription, body: bytes) -> Outcome:
        """A retry; the caller keeps to `pace`."""
        outcome = await self._sender.send(subscription, body)
        pace = self.pace(subscription.id)
        if not outcome.delivered:
            pace.failed()
            return outcome
        self._delivered.inc()
        if pace.succeeded():
            log.info("subscriber_recovered", subscription=subscription.id)
            self.on_recovery(subscription.id)
        return outcome
