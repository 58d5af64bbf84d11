"""Retry a blocked delivery queue: the head when it is due, and the rest right behind it.

Promises (docs/rules.md, rule 11): every retry leases its delivery first; the rest of a delivery queue moves
only after its head is delivered or dead-lettered; a delivery queue is free when a read found it empty and no
store into it began since that read. What the schedule dead-letters is kept, with its body. A head that its
subscriber cannot take is set aside, and the delivery queue read again. A subscriber that is paused is not
asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.first_attempt import PartitionQueues
from services.webhook.delivery.queue_state import DeliveryQueue
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.request import single
from services.webhook.endpoints.sender import LONGEST_WAIT, AttemptOutcome
from services.webhook.endpoints.subscribers import PAUSED, Endpoint, Subscribers
from shared.domain.subscription import Delivery, DeliveryState
from shared.ports.clock import Clock
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

_SOON = timedelta(milliseconds=100)
_LEASED = timedelta(seconds=1)
_NO_SUBSCRIBER = timedelta(seconds=60)

JITTER_PERCENT = 20
"""Spreads each wait, so that what failed together does not come back together."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    waits: Sequence[timedelta]
    random: Callable[[], float]
    """In [0, 1)."""

    def next_attempt(
        self, attempts: int, now: datetime, asked: timedelta = timedelta()
    ) -> datetime | None:
        """The n-th attempt is followed by the n-th wait, or by the one that the subscriber `asked` for if
        that is longer; without any attempt made it is now. None: the schedule is used up."""
        if attempts > len(self.waits):
            return None
        jitter = JITTER_PERCENT / 100 * (2 * self.random() - 1)
        wait = self.waits[attempts - 1] * (1 + jitter) if attempts else timedelta()
        return now + max(wait, asked)

    def time_left(self, delivery: Delivery, now: datetime) -> timedelta:
        """The time until it is due; zero when it is, or when no right clock can have set its time."""
        left = (delivery.next_attempt_at or now) - now
        longest = max([LONGEST_WAIT, *self.waits]) * (1 + JITTER_PERCENT / 100)
        return left if timedelta() < left <= longest else timedelta()


class QueueRetry:
    def __init__(
        self,
        store: DeliveryStore,
        subscribers: Subscribers,
        bodies: Bodies,
        policy: RetryPolicy,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._subscribers = subscribers
        self._bodies = bodies
        self._policy = policy
        self._clock = clock
        self._metrics = metrics

    async def advance(self, queues: PartitionQueues, queue: DeliveryQueue) -> timedelta | None:
        """Work on it from its head on; how long to wait then, None: the delivery queue is free."""
        is_hurried, queue.is_hurried = queue.is_hurried, False
        while queues.is_live:
            if queue.is_attempting:
                return _SOON
            if pause := self._endpoint(queue).pause_left:
                return pause
            queue.is_stale = False
            changes, was_storing = queue.changes, queue.is_storing
            waiting = await self._store.waiting(queue.key)
            if not waiting:
                if was_storing or changes != queue.changes:
                    return _SOON
                queue.blocked = False
                return None
            queue.move_head(waiting[0].number)
            wait = await self._deliver(queues, queue, waiting, is_hurried)
            if wait is not None:
                return wait
        return None

    async def _deliver(
        self,
        queues: PartitionQueues,
        queue: DeliveryQueue,
        waiting: Sequence[Delivery],
        is_hurried: bool,
    ) -> timedelta | None:
        """One after the other; how long to wait before the next, None: read the delivery queue again."""
        for delivery in waiting:
            if queue.is_stale or not queues.is_live:
                return None
            wait = None
            if delivery.event_id == queue.refused:
                # Its first attempt has shown already that it leaves the delivery queue.
                queue.refused = None
                holder = await self._store.lease(delivery)
                if holder is None:
                    return _LEASED
                await self._set_aside(queues, queue, delivery, holder)
            else:
                wait = await self._try(queues, queue, delivery, is_hurried)
            if wait is not None:
                return wait
            queue.move_head(delivery.number + 1)
        return None

    async def _try(
        self, queues: PartitionQueues, queue: DeliveryQueue, delivery: Delivery, is_hurried: bool
    ) -> timedelta | None:
        """None: it is out of the way, delivered, dead-lettered or set aside."""
        if delivery.last_error == PAUSED.reason:
            self._endpoint(queue).was_paused()
        early = self._policy.time_left(delivery, self._clock.now())
        if early and not is_hurried:
            return early
        wait = await self._attempt(queues, queue, delivery, is_early=bool(early))
        if wait is not None and early:
            queue.hurry_failed(self._clock.monotonic())
        return wait

    def _endpoint(self, queue: DeliveryQueue) -> Endpoint:
        return self._subscribers.endpoint(queue.key.subscription)

    async def _attempt(
        self, queues: PartitionQueues, queue: DeliveryQueue, delivery: Delivery, is_early: bool
    ) -> timedelta | None:
        subscription = self._subscribers.get(delivery.queue.subscription)
        if subscription is None:
            return _NO_SUBSCRIBER
        async with self._bodies.in_use(delivery.size):
            body = await self._bodies.read(delivery.event_id)
            body = body or await self._store.body(delivery)
            holder = await self._store.lease(delivery)
            if holder is None:
                return _LEASED
            if body is None:
                reason = "the journal no longer holds this event"
                await self._give_up(queue, replace(delivery, last_error=reason), holder, None)
                return None
            request = single(delivery.event_id, delivery.topic, body, delivery.attempts + 1)
            outcome = await self._subscribers.again(subscription, delivery.queue.device, request)
            if outcome.delivered:
                await self._store.delivered(delivery)
                return None
            queue.rest(self._clock.monotonic(), outcome.asked)
            counts = outcome.counts and not is_early
            failed = self._failed(queue, delivery, outcome, counts)
            if counts and failed.next_attempt_at is None:
                await self._give_up(queue, failed, holder, body)
            elif counts and queues.aside.takes(queue, outcome, failed.attempts):
                await self._set_aside(queues, queue, failed, holder)
            else:
                wait = self._policy.time_left(failed, self._clock.now())
                await self._store.failed(failed, holder)
                self._metrics.deliveries_retried.inc()
                return max(wait, _SOON)
            return None

    def _failed(
        self, queue: DeliveryQueue, delivery: Delivery, outcome: AttemptOutcome, counts: bool
    ) -> Delivery:
        now, due = self._clock.now(), delivery.next_attempt_at
        if not counts:  # ahead of the schedule, or of a subscriber that is paused
            if outcome.asked:
                due = max(due or now, now + outcome.asked)
            return replace(delivery, next_attempt_at=due, last_error=outcome.reason)
        attempts = delivery.attempts + 1
        due = self._policy.next_attempt(attempts, now, outcome.asked)
        failed = replace(
            delivery, attempts=attempts, next_attempt_at=due, last_error=outcome.reason
        )
        if attempts == 1:
            queue.failing_since = self._clock.monotonic()
            self._subscribers.note_first_failure(failed)
        return failed

    async def _set_aside(
        self, queues: PartitionQueues, queue: DeliveryQueue, failed: Delivery, holder: str
    ) -> None:
        beside = replace(failed, queue=replace(failed.queue, aside=failed.event_id))
        queue.is_stale = True
        await self._store.failed(beside, holder)
        self._metrics.deliveries_set_aside.inc()
        self._subscribers.note_set_aside(beside)
        queues.set_aside(queue, beside)

    async def _give_up(
        self, queue: DeliveryQueue, failed: Delivery, holder: str, body: bytes | None
    ) -> None:
        dead_lettered = replace(failed, state=DeliveryState.DEAD_LETTERED, next_attempt_at=None)
        queue.is_stale = True
        await self._store.dead_lettered(dead_lettered, holder, body)
        self._metrics.deliveries_dead_lettered.inc()
        log.error(
            "delivery_given_up",
            subscription=failed.queue.subscription,
            event_id=failed.event_id,
            attempts=failed.attempts,
            reason=failed.last_error,
        )
