"""What a retry does with a blocked lane: the head when it is due, and the rest right behind it.

Promises (docs/rules.md, rule 11): every retry leases its delivery first; the rest of a lane moves
only after its head is delivered or given up on; a lane is free when a read found it empty and no
store into it began since that read. What the schedule gives up on is kept, with its body.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from services.webhook.attempts import Attempts, Counter
from services.webhook.bodies import Bodies
from services.webhook.delivery_store import DeliveryStore
from services.webhook.lanes import PartitionLanes
from services.webhook.open_lane import EVERYTHING, OpenLane
from services.webhook.schedule import JITTER, next_attempt
from services.webhook.sender import Outcome
from shared.domain.subscription import Delivery, DeliveryState, Subscription
from shared.ports.clock import Clock

log = structlog.get_logger()

_SOON = timedelta(milliseconds=100)
_LEASED = timedelta(seconds=1)
_NO_SUBSCRIBER = timedelta(seconds=60)


class Counts(Protocol):
    """Of the metrics, those that retries move."""

    @property
    def deliveries_retried(self) -> Counter: ...
    @property
    def deliveries_given_up(self) -> Counter: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which waits, how spread, to whom, and where the bodies are."""

    waits: Sequence[timedelta]
    random: Callable[[], float]
    subscriber: Callable[[str], Subscription | None]
    bodies: Bodies

    def next_attempt(self, attempts: int, now: datetime) -> datetime | None:
        return next_attempt(attempts, now, self.waits, self.random())

    def time_left(self, delivery: Delivery, now: datetime) -> timedelta:
        """How long until it is due; zero when it is, or when no right clock can have set its time."""
        left = (delivery.next_attempt_at or now) - now
        longest = max(self.waits, default=timedelta()) * (1 + JITTER)
        return left if timedelta() < left <= longest else timedelta()


class LaneRetry:
    """One run over a blocked lane."""

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

    async def advance(self, lanes: PartitionLanes, lane: OpenLane) -> timedelta | None:
        """Work on a lane from its head on; how long to wait then, None: the lane is free."""
        is_hurried, lane.is_hurried = lane.is_hurried, False
        while lanes.is_live:
            if lane.is_attempting:
                return _SOON
            lane.was_adopted = False
            changes, was_storing = lane.changes, lane.is_storing
            waiting = await self._read(lane)
            if not waiting:
                if was_storing or changes != lane.changes:
                    return _SOON
                lane.blocked = False
                return None
            lane.move_head(waiting[0].number)
            wait = await self._deliver(lanes, lane, waiting, is_hurried)
            if wait is not None:
                return wait
        return None

    async def _read(self, lane: OpenLane) -> Sequence[Delivery]:
        """The next ones of a lane; none only if the whole lane was read and is empty."""
        reach = lane.reach
        waiting = await self._store.waiting(lane.key, *reach)
        if not waiting and reach != EVERYTHING:
            waiting = await self._store.waiting(lane.key, *EVERYTHING)
        return waiting

    async def _deliver(
        self, lanes: PartitionLanes, lane: OpenLane, waiting: Sequence[Delivery], is_hurried: bool
    ) -> timedelta | None:
        """One after the other; how long to wait before the next, None: read the lane again."""
        for delivery in waiting:
            if lane.was_adopted or not lanes.is_live:
                return None
            early = self._policy.time_left(delivery, self._clock.now())
            if early and not is_hurried:
                return early
            wait = await self._attempt(delivery, is_early=bool(early))
            if wait is not None:
                if early:
                    lane.hurried_in_vain(self._clock.monotonic())
                return wait
            lane.move_head(delivery.number + 1)
        return None

    async def _attempt(self, delivery: Delivery, is_early: bool) -> timedelta | None:
        """None: it is out of the way, delivered or given up on."""
        subscription = self._policy.subscriber(delivery.lane.subscription)
        if subscription is None:
            return _NO_SUBSCRIBER
        async with self._policy.bodies.in_use(delivery.size):
            return await self._send(delivery, subscription, is_early)

    async def _send(
        self, delivery: Delivery, subscription: Subscription, is_early: bool
    ) -> timedelta | None:
        body = await self._policy.bodies.read(delivery.event_id) or await self._store.body(delivery)
        holder = await self._store.lease(delivery)
        if holder is None:
            return _LEASED
        if body is None:
            reason = "the journal no longer holds this event"
            await self._give_up(replace(delivery, last_error=reason), holder, None)
            return None
        outcome = await self._attempts.again(subscription, body)
        if outcome.delivered:
            await self._store.delivered(delivery)
            return None
        if is_early:
            # An attempt ahead of the schedule costs none of it.
            await self._store.failed(replace(delivery, last_error=outcome.reason), holder)
            self._counts.deliveries_retried.inc()
            return self._policy.time_left(delivery, self._clock.now()) or _SOON
        return await self._failed(delivery, holder, outcome, body)

    async def _failed(
        self, delivery: Delivery, holder: str, outcome: Outcome, body: bytes
    ) -> timedelta | None:
        now = self._clock.now()
        attempts = delivery.attempts + 1
        at = self._policy.next_attempt(attempts, now)
        failed = replace(delivery, attempts=attempts, next_attempt_at=at, last_error=outcome.reason)
        if at is None:
            await self._give_up(failed, holder, body)
            return None
        await self._store.failed(failed, holder)
        self._counts.deliveries_retried.inc()
        return max(at - now, _SOON)

    async def _give_up(self, delivery: Delivery, holder: str, body: bytes | None) -> None:
        given_up = replace(delivery, state=DeliveryState.GIVEN_UP, next_attempt_at=None)
        await self._store.given_up(given_up, holder, body)
        self._counts.deliveries_given_up.inc()
        log.error(
            "delivery_given_up",
            subscription=delivery.lane.subscription,
            event_id=delivery.event_id,
            attempts=delivery.attempts,
            reason=delivery.last_error,
        )
