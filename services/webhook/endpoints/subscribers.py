"""The subscriptions as they are now, and all attempts at delivery to them, bounded and counted.

Promises: a subscriber that hangs holds only its own slots and stalls no other one; one is down only
after some failures and a while without any success, so that a few events which it cannot take do
not look like an outage; it is logged once when it begins to fail and once when it is back. One that
answers 410 is paused: it is asked once an hour until it takes an event, at no event's cost.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import structlog

from services.webhook.endpoints.limited_log import LimitedLog
from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.sender import GONE, AttemptOutcome, EventSender
from shared.concurrency.periodic import Loops, Pace
from shared.domain.subscription import Delivery, Subscription
from shared.ports.clock import Clock
from shared.ports.deliveries import Subscriptions
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=1))
_DEADLINE = timedelta(seconds=15)

SLOTS = 64
PATIENCE = timedelta(seconds=10)
"""A first attempt waits so long for a slot; then its event is stored."""
MOST_RETRIES = 32
FEWEST_RETRIES = 2
DOWN_AFTER = timedelta(seconds=10)
_DOWN_FAILURES = 3

PROBE_EVERY = timedelta(hours=1)
PROBE_PATIENCE = timedelta(minutes=1)
"""Longer than an attempt may take: one that is cut short is made again soon."""

BUSY = AttemptOutcome("the subscriber is too slow: not tried yet", counts=False)
PAUSED = AttemptOutcome(f"answered {GONE}", counts=False)


class Endpoint:
    """One subscriber as it behaves towards this process: slots for first attempts, how many retries
    may run at once, whether it is down or paused, and the devices whose events it took last."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.slots = asyncio.Semaphore(SLOTS)
        self.is_stuck = False
        """An attempt waited for a slot without success, and none has become free since."""
        self.recovered_at = float("-inf")
        self.retrying = 0
        self._name = name
        self._clock = clock
        self._failures = 0
        """In a row."""
        self._failing_since = 0.0
        self._is_known_down = False
        self._was_heard = False
        self._probe_at: float | None = None
        """When a subscriber that is paused is asked again."""
        self._takes = [("", float("-inf"))] * 2
        """The devices whose events it took last, and when: two different ones."""

    @property
    def is_down(self) -> bool:
        return self._failures >= _DOWN_FAILURES and self._failing_for >= DOWN_AFTER.total_seconds()

    @property
    def has_room(self) -> bool:
        """Another retry may begin: few try while it is down, so that it is found to be back."""
        return self.retrying < (FEWEST_RETRIES if self.is_down else MOST_RETRIES)

    @property
    def is_paused(self) -> bool:
        return self._probe_at is not None

    @property
    def pause_left(self) -> timedelta:
        """The rest of the pause; zero: there is none."""
        left = 0.0 if self._probe_at is None else self._probe_at - self._clock.monotonic()
        return timedelta(seconds=max(left, 0.0))

    def may_ask(self) -> bool:
        """True if an attempt may be made. While it is paused, the next one waits for the end of this one."""
        if self.is_paused:
            if self.pause_left:
                return False
            self._pause(PROBE_PATIENCE)
        return True

    def was_paused(self) -> None:
        """An earlier process stored its 410: unless this one knows better, one attempt goes first."""
        if not (self._was_heard or self.is_paused):
            self._probe_at = self._clock.monotonic()

    def took_another(self, device: str, since: float) -> bool:
        """True if, as this process knows, it took another device's event after `since` (monotonic)."""
        return any(other != device and at > since for other, at in self._takes)

    def heard(self, outcome: AttemptOutcome, device: str) -> None:
        if outcome.reason is None:
            self._succeeded(device)
            return
        if outcome.status == GONE:
            if not self.is_paused or not self._was_heard:
                log.warning("subscription_paused", subscription=self._name, reason=outcome.reason)
            self._pause(PROBE_EVERY)
        elif not self._was_heard:
            self._probe_at = None
        elif self.is_paused:
            self._pause(PROBE_EVERY)
        self._was_heard = True
        if not self._failures:
            self._failing_since = self._clock.monotonic()
        self._failures += 1
        if self.is_down and not self._is_known_down:
            self._is_known_down = True
            log.warning("subscriber_failing", subscription=self._name, reason=outcome.reason)

    def _pause(self, wait: timedelta) -> None:
        self._probe_at = self._clock.monotonic() + wait.total_seconds()

    def _succeeded(self, device: str) -> None:
        now = self._clock.monotonic()
        if self.is_down or self.is_paused:
            self.recovered_at = now
            seconds = round(self._failing_for) if self._failures else 0
            log.info("subscriber_recovered", subscription=self._name, failed_for=seconds)
        if device != self._takes[0][0]:
            self._takes[1] = self._takes[0]
        self._takes[0] = (device, now)
        self._was_heard = True
        self._probe_at = None
        self._failures = 0
        self._is_known_down = False

    @property
    def _failing_for(self) -> float:
        return self._clock.monotonic() - self._failing_since


class Subscribers:
    def __init__(
        self,
        subscriptions: Subscriptions,
        sender: EventSender,
        clock: Clock,
        metrics: Metrics,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._subscriptions = subscriptions
        self._sender = sender
        self._clock = clock
        self._delivered = metrics.deliveries_delivered
        self._patience = patience.total_seconds()
        self._known: dict[str, Subscription] = {}
        self.was_read = asyncio.Event()
        self._endpoints: dict[str, Endpoint] = {}
        self._failures = LimitedLog("delivery_failed", clock)
        self._set_aside = LimitedLog("delivery_set_aside", clock)

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("subscribers", self.read, PACE, waits="subscriptions_not_read")

    async def read(self) -> None:
        async with asyncio.timeout(_DEADLINE.total_seconds()):
            found = await self._subscriptions.all()
        self._known = {subscription.id: subscription for subscription in found}
        self.was_read.set()

    def current(self) -> Sequence[Subscription]:
        return list(self._known.values())

    def get(self, subscription: str) -> Subscription | None:
        return self._known.get(subscription)

    @property
    def paused_count(self) -> int:
        return sum(endpoint.is_paused for endpoint in self._endpoints.values())

    def endpoint(self, subscription: str) -> Endpoint:
        if subscription not in self._endpoints:
            self._endpoints[subscription] = Endpoint(subscription, self._clock)
        return self._endpoints[subscription]

    async def first(
        self, subscription: Subscription, device: str, request: EventRequest
    ) -> AttemptOutcome:
        """An event's first attempt. It does not count where the subscriber is too busy, or paused."""
        endpoint = self.endpoint(subscription.id)
        if endpoint.is_paused and endpoint.pause_left:
            return PAUSED
        if not await self._has_slot(endpoint):
            return BUSY
        try:
            return await self.again(subscription, device, request)
        finally:
            endpoint.is_stuck = False
            endpoint.slots.release()

    async def again(
        self, subscription: Subscription, device: str, request: EventRequest
    ) -> AttemptOutcome:
        """A retry; the caller keeps to `has_room`. It does not count while the subscriber is paused."""
        endpoint = self.endpoint(subscription.id)
        if not endpoint.may_ask():
            return PAUSED
        outcome = await self._sender.send(subscription, request)
        endpoint.heard(outcome, device)
        if outcome.delivered:
            self._delivered.inc()
            return outcome
        return replace(outcome, counts=not endpoint.is_paused)

    def note_first_failure(self, delivery: Delivery) -> None:
        """Log that a delivery queue begins to wait for this delivery."""
        self._failures.warning(**_described(delivery))

    def note_set_aside(self, delivery: Delivery) -> None:
        """Log that a delivery queue goes on without this delivery."""
        self._set_aside.warning(**_described(delivery))

    async def _has_slot(self, endpoint: Endpoint) -> bool:
        if not endpoint.slots.locked():
            return await endpoint.slots.acquire()  # it does not wait, so it needs no timer
        if endpoint.is_stuck or endpoint.is_down:
            return False
        try:
            async with asyncio.timeout(self._patience):
                await endpoint.slots.acquire()
        except TimeoutError:
            endpoint.is_stuck = True
            return False
        return True


def _described(delivery: Delivery) -> dict[str, object]:
    due = delivery.next_attempt_at
    return {
        "subscription": delivery.queue.subscription,
        "device": delivery.queue.device,
        "topic": delivery.topic,
        "event_id": delivery.event_id,
        "attempt": delivery.attempts,
        "answer": delivery.last_error,
        "next_attempt": due.isoformat() if due else None,
    }
