"""Attempts at delivery: whoever makes one goes through here, so that all of them are bounded and counted.

Promises: a subscriber that hangs holds only its own places and stalls nobody else; one is down only
after some failures and a while without any success, so that a few events which it cannot take do
not look like an outage; it is logged once when it begins to fail and once when it is back.
"""

import asyncio
from datetime import timedelta
from typing import Protocol

import structlog

from services.webhook.sender import Outcome, Sender
from shared.domain.subscription import Subscription
from shared.ports.clock import Clock

log = structlog.get_logger()

SLOTS = 64
PATIENCE = timedelta(seconds=10)
"""How long a first attempt waits for a place, before its event is stored instead."""
MOST_RETRIES = 32
FEWEST_RETRIES = 2
DOWN_AFTER = timedelta(seconds=10)
_DOWN_FAILURES = 3

BUSY = Outcome("the subscriber is too slow: not tried yet", was_made=False)


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class Endpoint:
    """One subscriber as it behaves towards this process: places for first attempts, how many retries
    may run at once, and whether it is down."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.places = asyncio.Semaphore(SLOTS)
        self.is_stuck = False
        """Somebody waited in vain for a place, and nobody has left one since."""
        self.recovered_at = float("-inf")
        self.retrying = 0
        self._name = name
        self._clock = clock
        self._failures = 0
        """In a row."""
        self._failing_since = 0.0
        self._is_known_down = False

    @property
    def is_down(self) -> bool:
        return self._failures >= _DOWN_FAILURES and self._failing_for >= DOWN_AFTER.total_seconds()

    @property
    def has_room(self) -> bool:
        """Another retry may begin: few try while it is down, so that it is found to be back."""
        return self.retrying < (FEWEST_RETRIES if self.is_down else MOST_RETRIES)

    def failed(self, reason: str) -> None:
        if not self._failures:
            self._failing_since = self._clock.monotonic()
        self._failures += 1
        if self.is_down and not self._is_known_down:
            self._is_known_down = True
            log.warning("subscriber_failing", subscription=self._name, reason=reason)

    def succeeded(self) -> None:
        if self.is_down:
            self.recovered_at = self._clock.monotonic()
            seconds = round(self._failing_for)
            log.info("subscriber_recovered", subscription=self._name, failed_for=seconds)
        self._failures = 0
        self._is_known_down = False

    @property
    def _failing_for(self) -> float:
        return self._clock.monotonic() - self._failing_since


class Attempts:
    """First attempts and retries, each in its own bounds, per subscriber."""

    def __init__(
        self, sender: Sender, clock: Clock, delivered: Counter, patience: timedelta = PATIENCE
    ) -> None:
        self._sender = sender
        self._clock = clock
        self._delivered = delivered
        self._patience = patience.total_seconds()
        self._endpoints: dict[str, Endpoint] = {}

    def endpoint(self, subscription: str) -> Endpoint:
        if subscription not in self._endpoints:
            self._endpoints[subscription] = Endpoint(subscription, self._clock)
        return self._endpoints[subscription]

    async def first(self, subscription: Subscription, body: bytes) -> Outcome:
        """The first attempt of an event; `was_made` is False where the subscriber is too busy."""
        endpoint = self.endpoint(subscription.id)
        if not await self._has_place(endpoint):
            return BUSY
        try:
            return await self.again(subscription, body)
        finally:
            endpoint.is_stuck = False
            endpoint.places.release()

    async def again(self, subscription: Subscription, body: bytes) -> Outcome:
        """A retry; the caller keeps to `has_room`."""
        outcome = await self._sender.send(subscription, body)
        endpoint = self.endpoint(subscription.id)
        if outcome.reason is None:
            self._delivered.inc()
            endpoint.succeeded()
        else:
            endpoint.failed(outcome.reason)
        return outcome

    async def _has_place(self, endpoint: Endpoint) -> bool:
        if endpoint.places.locked() and (endpoint.is_stuck or endpoint.is_down):
            return False
        try:
            async with asyncio.timeout(self._patience):
                await endpoint.places.acquire()
        except TimeoutError:
            endpoint.is_stuck = True
            return False
        return True
