"""Retries of blocked lanes: the head when it is due, and the rest right behind it.

Promises (docs/rules.md, rule 11): every retry leases its delivery first; the rest of a lane moves
only after its head is delivered or given up on; a lane is free when a read found it empty and no
store into it began since that read. Thousands of blocked lanes share a bounded number of runs, few
while their subscriber is down. What the schedule gives up on is kept.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Protocol

import structlog

from services.webhook.attempts import Attempts, Counter
from services.webhook.lanes import OpenLane, PartitionLanes
from services.webhook.outbox import Outbox
from services.webhook.pace import Pace
from services.webhook.schedule import next_attempt
from services.webhook.sender import Outcome
from shared.domain.errors import Unavailable
from shared.domain.event import Event
from shared.domain.subscription import Delivery, DeliveryState, Subscription
from shared.ports import Clock

log = structlog.get_logger()

TICK = timedelta(milliseconds=50)
_SOON = timedelta(milliseconds=100)
_LEASED = timedelta(seconds=1)
_STORE_AWAY = timedelta(seconds=2)
_NO_SUBSCRIBER = timedelta(seconds=60)
_PAUSE_WHILE_DOWN = timedelta(milliseconds=50)

Render = Callable[[Event], bytes]


class Counts(Protocol):
    """Of the metrics, those that retries move."""

    @property
    def deliveries_retried(self) -> Counter: ...
    @property
    def deliveries_given_up(self) -> Counter: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which waits, how spread, and what the body of an event is."""

    waits: Sequence[timedelta]
    random: Callable[[], float]
    render: Render

    def next_attempt(self, attempts: int, now: datetime) -> datetime | None:
        return next_attempt(attempts, now, self.waits, self.random())


Run = tuple[PartitionLanes, OpenLane]


class Retries:
    """One for all partitions of a process."""

    def __init__(
        self,
        outbox: Outbox,
        attempts: Attempts,
        policy: RetryPolicy,
        clock: Clock,
        counts: Counts,
    ) -> None:
        self._outbox = outbox
        self._attempts = attempts
        self._policy = policy
        self._clock = clock
        self._counts = counts
        self._planned: list[tuple[float, int, Run]] = []
        self._ready: defaultdict[str, deque[Run]] = defaultdict(deque)
        self._order = count()
        self.subscriber: Callable[[str], Subscription | None] = lambda subscription: None

    def plan(self, lanes: PartitionLanes, lane: OpenLane, wait: timedelta) -> None:
        """See to a blocked lane after `wait`, unless that is planned already."""
        if lane.due is None and not lane.is_retrying:
            self._plan(lanes, lane, wait)

    def hurry(self, owners: Sequence[PartitionLanes], subscription: str) -> None:
        """A subscriber is back: whatever waits for it may be tried now, ahead of its schedule."""
        for lanes in owners:
            for lane in lanes.blocked_lanes(subscription):
                lane.is_hurried = True
                if not lane.is_retrying:
                    self._plan(lanes, lane, timedelta())

    async def run(self) -> None:
        """Start what is due, until cancelled."""
        while True:
            self._collect()
            for subscription, ready in self._ready.items():
                self._start(self._attempts.pace(subscription), ready)
            await self._clock.sleep(TICK)

    def _plan(self, lanes: PartitionLanes, lane: OpenLane, wait: timedelta) -> None:
        lane.due = self._clock.monotonic() + wait.total_seconds()
        heapq.heappush(self._planned, (lane.due, next(self._order), (lanes, lane)))

    def _collect(self) -> None:
        now = self._clock.monotonic()
        while self._planned and self._planned[0][0] <= now:
            due, _, (lanes, lane) = heapq.heappop(self._planned)
            if lanes.is_live and lane.due == due:  # else it was planned anew since
                self._ready[lane.key.subscription].append((lanes, lane))

    def _start(self, pace: Pace, ready: deque[Run]) -> None:
        while ready and pace.has_room:
            lanes, lane = ready.popleft()
            if not lanes.is_live or lane.is_retrying:
                continue
            pace.active += 1
            lane.is_retrying = True
            lanes.spawn_retry(self._run(lanes, lane, pace))

    async def _run(self, lanes: PartitionLanes, lane: OpenLane, pace: Pace) -> None:
        lane.due = None
        try:
            wait = await self._guarded(lanes, lane)
            if wait is not None and pace.is_down:
                await self._clock.sleep(_PAUSE_WHILE_DOWN)
        finally:
            pace.active -= 1
            lane.is_retrying = False
        if lanes.is_live and wait is not None:
            self._plan(lanes, lane, timedelta() if lane.is_hurried else wait)
        # The next one at once, instead of at the next tick.
        self._start(pace, self._ready[lane.key.subscription])

    async def _guarded(self, lanes: PartitionLanes, lane: OpenLane) -> timedelta | None:
        """`_advance`; one lane's fault must not end the retries of the others."""
        try:
            return await self._advance(lanes, lane)
        except (Unavailable, TimeoutError) as exc:
            log.warning("retry_put_off", lane=lane.key, error=str(exc))
        except Exception:
            log.exception("retry_failed", lane=lane.key)
        return _STORE_AWAY

    async def _advance(self, lanes: PartitionLanes, lane: OpenLane) -> timedelta | None:
        """Work on a lane from its head on; how long to wait then, None: the lane is free."""
        is_hurried, lane.is_hurried = lane.is_hurried, False
        while lanes.is_live:
            if lane.is_attempting:
                return _SOON
            lane.was_adopted = False
            changes, was_storing = lane.changes, lane.is_storing
            waiting = await self._outbox.waiting(lane.key)
            if not waiting:
                if was_storing or changes != lane.changes:
                    return _SOON
                lane.blocked = False
                return None
            wait = await self._deliver(lanes, lane, waiting, is_hurried)
            if wait is not None:
                return wait
        return None

    async def _deliver(
        self,
        lanes: PartitionLanes,
        lane: OpenLane,
        waiting: Sequence[Delivery],
        is_hurried: bool,
    ) -> timedelta | None:
        """One after the other; how long to wait before the next, None: read the lane again."""
        for delivery in waiting:
            if lane.was_adopted or not lanes.is_live:
                return None
            early = self._time_left(delivery)
            if early and not is_hurried:
                return early
            wait = await self._attempt(delivery, is_early=bool(early))
            if wait is not None:
                return wait
        return None

    def _time_left(self, delivery: Delivery) -> timedelta:
        """How long until it is due; zero when it is."""
        if delivery.next_attempt_at is None:
            return timedelta()
        return max(delivery.next_attempt_at - self._clock.now(), timedelta())

    async def _attempt(self, delivery: Delivery, is_early: bool) -> timedelta | None:
        """None: it is out of the way, delivered or given up on."""
        subscription = self.subscriber(delivery.lane.subscription)
        if subscription is None:
            return _NO_SUBSCRIBER
        event = await self._outbox.event(delivery.event_id)
        holder = await self._outbox.lease(delivery)
        if holder is None:
            return _LEASED
        if event is None:
            await self._give_up(delivery, holder, "the journal no longer holds this event")
            return None
        outcome = await self._attempts.again(subscription, self._policy.render(event))
        if outcome.delivered:
            await self._outbox.delivered(delivery)
            return None
        return await self._failed(delivery, holder, outcome, is_early)

    async def _failed(
        self, delivery: Delivery, holder: str, outcome: Outcome, is_early: bool
    ) -> timedelta | None:
        now = self._clock.now()
        # An attempt ahead of the schedule costs none of it.
        attempts = delivery.attempts + (not is_early)
        at = delivery.next_attempt_at if is_early else self._policy.next_attempt(attempts, now)
        failed = replace(delivery, attempts=attempts, next_attempt_at=at, last_error=outcome.reason)
        if at is None:
            await self._give_up(failed, holder, outcome.reason or "")
            return None
        await self._outbox.failed(failed, holder)
        self._counts.deliveries_retried.inc()
        return max(at - now, _SOON)

    async def _give_up(self, delivery: Delivery, holder: str, reason: str) -> None:
        given_up = replace(
            delivery, state=DeliveryState.GIVEN_UP, next_attempt_at=None, last_error=reason
        )
        await self._outbox.failed(given_up, holder)
        self._counts.deliveries_given_up.inc()
        log.error(
            "delivery_given_up",
            subscription=delivery.lane.subscription,
            event_id=delivery.event_id,
            attempts=delivery.attempts,
            reason=reason,
        )
