"""Retry a blocked delivery queue: the head when it is due, and the rest right behind it.

Promises (docs/rules.md, rule 11): every retry leases its deliveries first; the rest of a delivery queue moves
only after its head is delivered or dead-lettered; a delivery queue is free when a read found it empty and no
store into it began since that read. A failure uses up an attempt only while the subscriber takes other
events; what the schedule dead-letters then is kept, with its body. A head that its subscriber cannot take is
set aside, and the delivery queue read again. Deliveries that have not failed twice share a request as far as
their subscription's batches allow."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

import structlog

from services.webhook.delivery.bodies import USUAL_SIZE, Bodies
from services.webhook.delivery.first_attempt import PartitionQueues
from services.webhook.delivery.queue_state import DeliveryQueue
from services.webhook.delivery.schedule import SHARED_ATTEMPTS, RetryPolicy
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.endpoint import PAUSED
from services.webhook.endpoints.request import EventBody, EventRequest
from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.endpoints.subscribers import Subscribers
from services.webhook.forms.form import most_of, most_of_size
from shared.domain.subscription import BodyForm, Delivery, DeliveryState, Subscription
from shared.ports.clock import Clock
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

_SOON = timedelta(milliseconds=100)
_LEASED = timedelta(seconds=1)
NO_SUBSCRIBER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class _Job:
    """A delivery queue that is worked on. `is_hurried`: ahead of its schedule."""

    queues: PartitionQueues
    queue: DeliveryQueue
    subscription: Subscription
    is_hurried: bool


class _Leased(NamedTuple):
    delivery: Delivery
    holder: str
    body: bytes


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
        self.policy = policy
        self._clock = clock
        self._metrics = metrics

    async def advance(self, queues: PartitionQueues, queue: DeliveryQueue) -> timedelta | None:
        """Work on it from its head on; how long to wait then, None: the delivery queue is free."""
        is_hurried, queue.is_hurried = queue.is_hurried, False
        while queues.is_live:
            subscription = self._subscribers.get(queue.key.subscription)
            is_away = subscription is not None and self._is_away(subscription)
            if queue.is_attempting or is_away:
                return _SOON
            queue.is_stale = False
            changes, was_storing = queue.changes, queue.is_storing
            waiting = await self._store.waiting(queue.key)
            if not waiting:
                if was_storing or changes != queue.changes:
                    return _SOON
                queue.blocked = False
                return None
            queue.move_head(waiting[0].number)
            if subscription is None:
                return NO_SUBSCRIBER
            job = _Job(queues, queue, subscription, is_hurried)
            wait = await self._deliver(job, waiting)
            if wait is not None:
                return wait
        return None

    def _is_away(self, subscription: Subscription) -> bool:
        endpoint = self._subscribers.endpoint(subscription.id)
        return subscription.is_held or endpoint.away(is_first=False) is not None

    async def _deliver(self, job: _Job, waiting: Sequence[Delivery]) -> timedelta | None:
        """One request after the other; how long to wait before the next, None: read the delivery queue
        again."""
        queue, done = job.queue, 0
        while done < len(waiting):
            is_changed = self._subscribers.get(queue.key.subscription) is not job.subscription
            if queue.is_stale or is_changed or not job.queues.is_live:
                return None
            wait, taken = await self._try(job, waiting[done:])
            if wait is not None:
                return wait
            done += taken
            queue.move_head(waiting[done - 1].number + 1)
        return None

    async def _try(self, job: _Job, waiting: Sequence[Delivery]) -> tuple[timedelta | None, int]:
        """No time, and how many are out of the way: delivered, dead-lettered or set aside; or the time to
        wait."""
        head = waiting[0]
        if head.event_id == job.queue.refused:
            # Its first attempt has shown already that it leaves the delivery queue.
            job.queue.refused = None
            holders = await self._store.lease([head])
            if not holders:
                return _LEASED, 0
            await self._set_aside(job, head, holders[0])
            return None, 1
        endpoint = self._subscribers.endpoint(job.subscription.id)
        if head.last_error == PAUSED.reason:
            endpoint.was_paused()
        early = self._time_left(job, head)
        if early and not job.is_hurried:
            return early, 0
        run = self._run(job, waiting[: job.subscription.form.batch])
        wait, taken = await self._attempt(job, run, is_early=bool(early))
        if early and wait is not None and not endpoint.is_resting:
            job.queue.hurry_failed(self._clock.monotonic())
        return wait, taken

    def _time_left(self, job: _Job, delivery: Delivery) -> timedelta:
        return self.policy.time_left(job.subscription, delivery, self._clock.now())

    def _run(self, job: _Job, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """The first ones that share a request."""
        size, most = 0, self._bodies.most_together(job.subscription.id)
        for number, delivery in enumerate(deliveries):
            size += most_of_size(job.subscription.form, _size(delivery))
            is_alone = delivery.attempts >= SHARED_ATTEMPTS or size > most
            is_early = self._time_left(job, delivery) and not job.is_hurried
            if is_alone or is_early or delivery.event_id == job.queue.refused:
                return deliveries[: max(number, 1)]
        return deliveries

    async def _attempt(
        self, job: _Job, run: Sequence[Delivery], is_early: bool
    ) -> tuple[timedelta | None, int]:
        form = job.subscription.form
        size = sum(most_of_size(form, _size(delivery)) for delivery in run)
        async with self._bodies.in_use(job.subscription.id, size):
            found = await asyncio.gather(*map(self._body, run), return_exceptions=True)
            if isinstance(found[0], BaseException):
                raise found[0]
            # One that is missing ends the request: those behind it must not overtake it.
            bodies = [None if isinstance(each, BaseException) else each for each in found]
            count = _fitting(form, bodies, size)
            holders = await self._store.lease(run[: max(count, 1)])
            if not holders:
                return _LEASED, 0
            if bodies[0] is None:
                reason = "the journal no longer holds this event"
                await self._give_up(job, replace(run[0], last_error=reason), holders[0], None)
                return None, 1
            leased = [
                _Leased(delivery, holder, body)
                for delivery, holder, body in zip(run, holders, bodies, strict=False)
                if body is not None
            ]
            outcome = await self._ask(job, leased)
            if outcome.delivered:
                await asyncio.gather(*(self._store.delivered(each.delivery) for each in leased))
                return None, len(leased)
            job.queue.rest(self._clock.monotonic(), outcome.asked)
            outcome = replace(outcome, counts=outcome.counts and not is_early)
            if len(leased) == 1 and not outcome.is_shared:
                return await self._failed_alone(job, leased[0], outcome), 1
            failed = [self._failed(job, each.delivery, outcome) for each in leased]
            # Each would be spread by itself, and the request would come again in parts.
            failed = [
                replace(each, next_attempt_at=failed[0].next_attempt_at)
                if each.attempts == failed[0].attempts
                else each
                for each in failed
            ]
            await asyncio.gather(*map(self._store.failed, failed, holders))
            self._metrics.deliveries_retried.inc(len(failed))
            return max(self._time_left(job, failed[0]), _SOON), 0

    async def _body(self, delivery: Delivery) -> bytes | None:
        return await self._bodies.read(delivery.event_id) or await self._store.body(delivery)

    async def _ask(self, job: _Job, leased: Sequence[_Leased]) -> AttemptOutcome:
        events = tuple(
            EventBody(each.delivery.event_id, each.delivery.topic, each.body) for each in leased
        )
        attempts = max(each.delivery.attempts for each in leased)
        request = EventRequest(events, attempts + 1, job.queue.key.replay)
        is_alone = attempts >= SHARED_ATTEMPTS
        return await self._subscribers.again(
            job.subscription, job.queue.key.device, request, is_alone
        )

    async def _failed_alone(
        self, job: _Job, leased: _Leased, outcome: AttemptOutcome
    ) -> timedelta | None:
        failed = self._failed(job, leased.delivery, outcome)
        is_counted = failed.attempts > leased.delivery.attempts
        if is_counted and failed.next_attempt_at is None:
            await self._give_up(job, failed, leased.holder, leased.body)
        elif is_counted and job.queues.aside.takes(job.queue, outcome, failed.attempts):
            await self._set_aside(job, failed, leased.holder)
        else:
            await self._store.failed(failed, leased.holder)
            self._metrics.deliveries_retried.inc()
            return max(self._time_left(job, failed), _SOON)
        return None

    def _failed(self, job: _Job, delivery: Delivery, outcome: AttemptOutcome) -> Delivery:
        now, due, attempts = self._clock.now(), delivery.next_attempt_at, delivery.attempts
        if outcome.counts:
            attempts += 1 if self._uses_up(job, attempts + 1) else 0
            due = self.policy.next_attempt(job.subscription, attempts, now, outcome.asked)
        elif outcome.asked:
            due = max(due or now, now + outcome.asked)
        failed = replace(
            delivery, attempts=attempts, next_attempt_at=due, last_error=outcome.reason
        )
        if attempts == 1 and not delivery.attempts:
            job.queue.failing_since = self._clock.monotonic()
            self._subscribers.note_first_failure(failed)
        return failed

    def _uses_up(self, job: _Job, attempts: int) -> bool:
        """True if a failure is one of the event's `attempts`: it is among the first, or the subscriber took
        another one since the event began to fail."""
        if attempts <= self.policy.free_attempts(job.subscription):
            return True
        return self._subscribers.endpoint(job.subscription.id).took(job.queue.failing_since)

    async def _set_aside(self, job: _Job, failed: Delivery, holder: str) -> None:
        beside = replace(failed, queue=replace(failed.queue, aside=failed.event_id))
        job.queue.is_stale = True
        await self._store.failed(beside, holder)
        self._metrics.deliveries_set_aside.inc()
        self._subscribers.note_set_aside(beside)
        job.queues.set_aside(job.queue, beside)

    async def _give_up(self, job: _Job, failed: Delivery, holder: str, body: bytes | None) -> None:
        dead_lettered = replace(failed, state=DeliveryState.DEAD_LETTERED, next_attempt_at=None)
        job.queue.is_stale = True
        await self._store.dead_lettered(dead_lettered, holder, body)
        self._metrics.deliveries_dead_lettered.inc()
        log.error(
            "delivery_given_up",
            subscription=failed.queue.subscription,
            event_id=failed.event_id,
            attempts=failed.attempts,
            reason=failed.last_error,
        )


def _size(delivery: Delivery) -> int:
    return USUAL_SIZE if delivery.size is None else delivery.size


def _fitting(form: BodyForm, bodies: Sequence[bytes | None], size: int) -> int:
    """So many of the first bodies are there, and have room in this form; one alone always has."""
    for number, body in enumerate(bodies):
        size -= 0 if body is None else most_of(form, body)
        if body is None or (number and size < 0):
            return number
    return len(bodies)
