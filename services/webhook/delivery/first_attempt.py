"""First deliveries of one partition: side by side between delivery queues, strictly in order within one.

Promises (docs/rules.md, rule 11): an event goes to the subscriptions that want it, and is acked once each of
its delivery queues has delivered it or stored it, never while the subscriptions cannot be read; a delivery
queue with something stored makes no attempt before that is gone; the order of what is stored is a number, the
event's time or one more than the highest known in the delivery queue; where the event is stored already, the
stored number counts. Nothing is handled before the blocked delivery queues are loaded. What the store refuses
for ever is dead-lettered. A body beyond the process's budget is read back from the journal; until then its
event stays the first, at no attempt's cost.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import structlog

from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.filters import Passes
from services.webhook.delivery.inbox import Arrival, Inbox
from services.webhook.delivery.queue_state import DeliveryQueue, SetAside
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.request import EventBody, EventRequest
from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.endpoints.subscribers import Subscribers
from shared.concurrency.periodic import Step
from shared.domain.errors import Refused, StoreUnavailable, Unavailable
from shared.domain.subscription import Delivery, DeliveryQueueKey, Subscription
from shared.ports.clock import Clock
from shared.ports.deliveries import Backlog
from shared.ports.events import Received

log = structlog.get_logger()

Spawn = Callable[[Step], "asyncio.Task[None]"]
"""Starts a step in the background; its failure ends there."""

_AFTER_A_FAULT = timedelta(seconds=1)


class RetryPlan(Protocol):
    def plan(self, queues: "PartitionQueues", queue: DeliveryQueue, wait: timedelta) -> None: ...
    def hasten(self, queues: "PartitionQueues", queue: DeliveryQueue) -> bool: ...
    def next_attempt(
        self, subscription: Subscription, attempts: int, now: datetime, asked: timedelta
    ) -> datetime | None: ...


class PartitionQueues:
    """The delivery queues of one partition while its channel is open; an idle one is forgotten."""

    def __init__(
        self,
        subscribers: Subscribers,
        store: DeliveryStore,
        bodies: Bodies,
        passes: Passes,
        retries: RetryPlan,
        clock: Clock,
        spawn: Spawn,
        on_early_event: Callable[[], object],
    ) -> None:
        self._subscribers = subscribers
        self._store = store
        self._bodies = bodies
        self._retry_plan = retries
        self._passes = passes
        self._clock = clock
        self._spawn = spawn
        self._on_early_event = on_early_event
        self.queues: dict[DeliveryQueueKey, DeliveryQueue] = {}
        self._early: list[Arrival] = []
        self.inbox = Inbox(bodies, self._waiting)
        self._tasks, self._retries = set[asyncio.Task[None]](), set[asyncio.Task[None]]()
        self.aside = SetAside(subscribers)
        self.is_loaded, self.is_live = False, True
        self.read_at = float("-inf")
        """When the latest read of what is stored here began."""

    @property
    def is_behind(self) -> bool:
        """The history of a subscription that is active now may be missing in what was read."""
        return any(
            not each.is_held and self._misses_history(each) for each in self._subscribers.current()
        )

    @property
    def blocked_count(self) -> int:
        return sum(queue.blocked for queue in self.queues.values() if not queue.key.aside)

    def take(self, received: Received) -> None:
        if not self.is_live:
            return
        arrival = Arrival(received)
        if received.held:
            self.inbox.hold(arrival)
        if self.is_loaded and not self._early and self._subscribers.is_current:
            self._route(arrival)
            return
        self._early.append(arrival)
        if len(self._early) == 1:
            # Only now we are surely the active consumer: what was read before may be out of date.
            self._on_early_event()

    def learn(self, backlogs: Mapping[DeliveryQueueKey, Backlog]) -> None:
        """Take what a read found stored for this partition; reads may repeat."""
        for key, backlog in backlogs.items():
            queue = self._queue(key)
            queue.learn(backlog, self._clock.monotonic())
            if not backlog.asked <= queue.heeded and self._retry_plan.hasten(self, queue):
                queue.heeded = backlog.asked
            self._retry_plan.plan(self, queue, timedelta())

    def loaded(self) -> None:
        """A read that began after the first event has been learnt: begin. Raises StoreUnavailable while a
        subscription may be missing here: what is acked without it is lost for it."""
        if not self._subscribers.is_current:
            raise StoreUnavailable("the subscriptions were not read for some seconds")
        self.is_loaded = True
        while self._early:
            self._route(self._early.pop(0))

    def forget(self, queue: DeliveryQueue) -> None:
        """Drop a delivery queue where nothing waits; its next event makes a new one."""
        if queue.is_idle and self.queues.get(queue.key) is queue:
            del self.queues[queue.key]
            self.aside.drop(queue)

    def set_aside(self, queue: DeliveryQueue, delivery: Delivery) -> None:
        """The head of a delivery queue waits by itself from now on, as `delivery` says."""
        beside = self._queue(delivery.queue)
        number = delivery.number
        beside.learn(Backlog(number, number, delivery.event_id), queue.failing_since)
        self._retry_plan.plan(self, beside, self._wait(delivery))

    def spawn_retry(self, work: Step) -> None:
        """Start a retry: it may finish its attempt when the channel is gone, since it holds a lease."""
        self._start(work, self._retries)

    async def finish(self, grace: timedelta) -> None:
        """Begin nothing new and wait for what is under way, but not for ever."""
        self.is_live = False
        if under_way := self._tasks | self._retries:
            await asyncio.wait(under_way, timeout=grace.total_seconds())

    def abandon(self) -> None:
        """The channel is gone, or grace is over: what is not acked comes again."""
        self.is_live = False
        self.inbox.close()
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Step, tasks: set[asyncio.Task[None]]) -> None:
        task = self._spawn(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _queue(self, key: DeliveryQueueKey) -> DeliveryQueue:
        if key not in self.queues:
            self.queues[key] = DeliveryQueue(key)
            self.aside.add(self.queues[key])
        return self.queues[key]

    def _waiting(self) -> Iterator[Arrival]:
        return (each for queue in self.queues.values() for each in queue.arrivals)

    def _route(self, arrival: Arrival) -> None:
        received = arrival.received
        subscribers = [s for s in self._subscribers.current() if s.wants(received.topic)]
        arrival.owed = len(subscribers)
        if not subscribers:
            self._start(partial(self.inbox.done, arrival), self._tasks)
        for subscription in subscribers:
            queue = self._queue(DeliveryQueueKey(subscription.id, received.device))
            queue.arrivals.append(arrival)
            if not queue.is_working:
                queue.is_working = True
                self._start(partial(self._work, queue), self._tasks)

    async def _work(self, queue: DeliveryQueue) -> None:
        try:
            while self.is_live and queue.arrivals:
                if not self._subscribers.is_current:  # its subscription may be paused, or gone
                    await self._clock.sleep(_AFTER_A_FAULT)
                    continue
                event_id = queue.arrivals[0].received.event_id
                try:
                    await self._settle(queue)
                    continue
                except (Unavailable, TimeoutError) as exc:
                    log.warning("body_not_read_back", event_id=event_id, error=str(exc))
                except Exception:  # an event never leaves its delivery queue
                    log.exception("event_not_handled", event_id=event_id)
                await self._clock.sleep(_AFTER_A_FAULT)
        finally:
            queue.is_working = False
            self.forget(queue)

    async def _settle(self, queue: DeliveryQueue) -> None:
        """Deliver or store the first arrivals of a delivery queue."""
        subscription = self._subscribers.get(queue.key.subscription)
        if subscription is None:
            await self._leave(queue)
            return
        await queue.sift(subscription, self._passes, self.inbox.done)
        run = queue.run(subscription)
        may_try = run and self._may_try(queue, subscription)
        outcome = await self._try(queue, subscription, run) if may_try else None
        for arrival in run:
            if outcome is None or not outcome.delivered:
                if not self.is_live:
                    return
                try:
                    await self._store_behind(queue, arrival, outcome, subscription)
                except Refused as exc:
                    arrival.refusal = str(exc)
            await self._leave(queue)

    async def _leave(self, queue: DeliveryQueue) -> None:
        """The first arrival of a delivery queue is delivered or stored, or not for its subscription."""
        arrival = queue.arrivals.popleft()
        queue.passed = max(queue.passed - 1, 0)
        await self.inbox.done(arrival)

    async def _try(
        self, queue: DeliveryQueue, subscription: Subscription, run: Sequence[Arrival]
    ) -> AttemptOutcome | None:
        if run[0].is_held:
            held = [arrival.event(arrival.received.body or b"") for arrival in run]
            return await self._attempt(queue, subscription, held)
        async with self._bodies.in_use(subscription.id, run[0].received.size):
            body = await self.inbox.body(run[0])
            # That took time: the delivery queue may be blocked by now, or no longer ours.
            if body is None or not self.is_live or not self._may_try(queue, subscription):
                return None
            return await self._attempt(queue, subscription, [run[0].event(body)])

    def _may_try(self, queue: DeliveryQueue, subscription: Subscription) -> bool:
        return not (queue.blocked or subscription.is_held or self._misses_history(subscription))

    def _misses_history(self, subscription: Subscription) -> bool:
        return self._subscribers.endpoint(subscription.id).history_at >= self.read_at

    async def _attempt(
        self, queue: DeliveryQueue, subscription: Subscription, events: Sequence[EventBody]
    ) -> AttemptOutcome:
        queue.is_attempting = True
        try:
            request = EventRequest(tuple(events))
            return await self._subscribers.first(subscription, queue.key.device, request)
        finally:
            queue.is_attempting = False

    async def _store_behind(
        self,
        queue: DeliveryQueue,
        arrival: Arrival,
        outcome: AttemptOutcome | None,
        subscription: Subscription,
    ) -> None:
        """Store the event as the last one of its delivery queue, which is blocked from now on."""
        event = arrival.received
        at = await self._store.created_at(event)
        number = queue.begin_store(self._clock.monotonic(), at)
        delivery = Delivery(queue.key, event.event_id, number, size=event.size, topic=event.topic)
        if outcome is not None:
            delivery = self._tried(queue, subscription, delivery, outcome)
        wait = timedelta() if queue.refused else self._wait(delivery)
        stored = delivery.number
        try:
            stored = await self._store.store(delivery)
        finally:
            queue.end_store(delivery.number, stored)
            # Even if nothing was stored: the delivery queue is blocked now, and only a read frees it.
            self._retry_plan.plan(self, queue, wait)

    def _tried(
        self,
        queue: DeliveryQueue,
        subscription: Subscription,
        delivery: Delivery,
        outcome: AttemptOutcome,
    ) -> Delivery:
        delivery = replace(delivery, last_error=outcome.reason)
        if not outcome.counts:
            return delivery
        at = self._retry_plan.next_attempt(subscription, 1, self._clock.now(), outcome.asked)
        delivery = replace(delivery, attempts=1, next_attempt_at=at)
        self._subscribers.note_first_failure(delivery)
        queue.rest(self._clock.monotonic(), outcome.asked)
        if self.aside.takes(queue, outcome, attempts=1):
            queue.refused = delivery.event_id
        return delivery

    def _wait(self, delivery: Delivery) -> timedelta:
        now = self._clock.now()
        return (delivery.next_attempt_at or now) - now
