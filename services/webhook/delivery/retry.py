"""Retry a blocked delivery queue: the head when it is due, and the rest right behind it.

Promises (docs/rules.md, rule 11): every retry leases its delivery first; the rest of a delivery queue moves
only after its head is delivered or dead-lettered; a delivery queue is free when a read found it empty and no
store into it began since that read. What the schedule dead-letters is kept, with its body. A head that its
subscriber cannot take is set aside, and the delivery queue read again. A subscriber that is paused is not
asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from services.webhook.delivery.backoff import JITTER, next_attempt
from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.first_attempt import PartitionQueues
from services.webhook.delivery.queue_state import EVERYTHING, DeliveryQueue
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.answers import LONGEST_WAIT
from services.webhook.endpoints.attempts import PAUSED, Attempts, Counter, Endpoint
from services.webhook.endpoints.sender import Outcome
from shared.domain.subscription import Delivery, DeliveryState, Subscription
from shared.ports.clock import Clock

log = structlog.get_logger()

_SOON = timedelta(milliseconds=100)
_LEASED = timedelta(seconds=1)
_NO_SUBSCRIBER = timedelta(seconds=60)


class Counts(Protocol):
    """The metrics that retries move."""

    @property
    def deliveries_retried(self) -> Counter: ...
    @property
    def deliveries_dead_lettered(self) -> Counter: ...
    @property
    def deliveries_set_aside(self) -> Counter: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The waits and their spread, the senders, and the bodies."""

    waits: Sequence[timedelta]
    random: Callable[[], float]
    subscriber: Callable[[str], Subscription | None]
    bodies: Bodies

    def next_attempt(self, attempts: int, now: datetime, asked: timedelta) -> datetime | None:
        """By the schedule, or after what the subscriber `asked` for if that is later."""
        at = next_attempt(attempts, now, self.waits, self.random())
        return at and max(at, now + asked)

    def time_left(self, delivery: Delivery, now: datetime) -> timedelta:
        """The time until it is due; zero when it is, or when no right clock can have set its time."""
        left = (delivery.next_attempt_at or now) - now
        longest = max([LONGEST_WAIT, *self.waits]) * (1 + JITTER)
        return left if timedelta() < left <= longest else timedelta()


@dataclass(frozen=True, slots=True)
class _Leased:
    """The head of a delivery queue, ours for one attempt."""

    queues: PartitionQueues
    queue: DeliveryQueue
    delivery: Delivery
    holder: str
    body: bytes | None = None


class QueueRetry:
    """One run over a blocked delivery queue."""

    def __init__(
        self,
        store: DeliveryStore,
        attempts: Attempts,
        policy: RetryPolicy,
        clock: Clock,
        counts: Counts,
    ) -> None:
        self._store = store
        self._attempts = attempts
        self._policy = policy
        self._clock = clock
        self._counts = counts

    async def advance(self, queues: PartitionQueues, queue: DeliveryQueue) -> timedelta | None:
        """Work on a delivery queue from its head on; how long to wait then, None: the delivery queue is
        free."""
        is_hurried, queue.is_hurried = queue.is_hurried, False
        while queues.is_live:
            if queue.is_attempting:
                return _SOON
            if pause := self._endpoint(queue).pause_left:
                return pause
            queue.is_stale = False
            changes, was_storing = queue.changes, queue.is_storing
            waiting = await self._read(queue)
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

    async def _read(self, queue: DeliveryQueue) -> Sequence[Delivery]:
        """The next ones of a delivery queue; none only if the whole delivery queue was read and is empty."""
        reach = queue.reach
        waiting = await self._store.waiting(queue.key, *reach)
        if not waiting and reach != EVERYTHING:
            waiting = await self._store.waiting(queue.key, *EVERYTHING)
        return waiting

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
            if delivery.event_id == queue.refused:
                wait = await self._set_refused_aside(queues, queue, delivery)
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
            queue.hurried_in_vain(self._clock.monotonic())
        return wait

    def _endpoint(self, queue: DeliveryQueue) -> Endpoint:
        return self._attempts.endpoint(queue.key.subscription)

    async def _attempt(
        self, queues: PartitionQueues, queue: DeliveryQueue, delivery: Delivery, is_early: bool
    ) -> timedelta | None:
        subscription = self._policy.subscriber(delivery.queue.subscription)
        if subscription is None:
            return _NO_SUBSCRIBER
        async with self._policy.bodies.in_use(delivery.size):
            body = await self._policy.bodies.read(delivery.event_id)
            body = body or await self._store.body(delivery)
            holder = await self._store.lease(delivery)
            if holder is None:
                return _LEASED
            leased = _Leased(queues, queue, delivery, holder, body)
            if body is None:
                reason = "the journal no longer holds this event"
                await self._give_up(leased, replace(delivery, last_error=reason))
                return None
            outcome = await self._attempts.again(subscription, delivery.queue.device, body)
            if outcome.delivered:
                await self._store.delivered(delivery)
                return None
            queue.rest(self._clock.monotonic(), outcome.asked)
            if is_early or not outcome.counts:
                return await self._keep(leased, outcome)
            return await self._failed(leased, outcome)

    async def _keep(self, leased: _Leased, outcome: Outcome) -> timedelta:
        """An attempt ahead of the schedule, or of a subscriber that is paused, costs none of it."""
        now, due = self._clock.now(), leased.delivery.next_attempt_at
        if outcome.asked:
            due = max(due or now, now + outcome.asked)
        kept = replace(leased.delivery, next_attempt_at=due, last_error=outcome.reason)
        await self._store.failed(kept, leased.holder)
        self._counts.deliveries_retried.inc()
        return max(self._policy.time_left(kept, now), _SOON)

    async def _failed(self, leased: _Leased, outcome: Outcome) -> timedelta | None:
        now, queue = self._clock.now(), leased.queue
        attempts = leased.delivery.attempts + 1
        at = self._policy.next_attempt(attempts, now, outcome.asked)
        failed = replace(
            leased.delivery, attempts=attempts, next_attempt_at=at, last_error=outcome.reason
        )
        if attempts == 1:
            queue.failing_since = self._clock.monotonic()
            self._attempts.note_first_failure(failed)
        if at is None:
            await self._give_up(leased, failed)
            return None
        if leased.queues.aside.takes(queue, outcome, attempts):
            await self._set_aside(leased, failed)
            return None
        await self._store.failed(failed, leased.holder)
        self._counts.deliveries_retried.inc()
        return max(at - now, _SOON)

    async def _set_refused_aside(
        self, queues: PartitionQueues, queue: DeliveryQueue, delivery: Delivery
    ) -> timedelta | None:
        """Its first attempt has shown already that it leaves the delivery queue."""
        queue.refused = None
        holder = await self._store.lease(delivery)
        if holder is None:
            return _LEASED
        await self._set_aside(_Leased(queues, queue, delivery, holder), delivery)
        return None

    async def _set_aside(self, leased: _Leased, failed: Delivery) -> None:
        beside = replace(failed, queue=replace(failed.queue, aside=failed.event_id))
        leased.queue.is_stale = True
        await self._store.failed(beside, leased.holder)
        self._counts.deliveries_set_aside.inc()
        self._attempts.note_set_aside(beside)
        leased.queues.set_aside(leased.queue, beside)

    async def _give_up(self, leased: _Leased, failed: Delivery) -> None:
        dead_lettered = replace(failed, state=DeliveryState.DEAD_LETTERED, next_attempt_at=None)
        leased.queue.is_stale = True
        await self._store.dead_lettered(dead_lettered, leased.holder, leased.body)
        self._counts.deliveries_dead_lettered.inc()
        log.error(
            "delivery_given_up",
            subscription=failed.queue.subscription,
            event_id=failed.event_id,
            attempts=failed.attempts,
            reason=failed.last_error,
        )
