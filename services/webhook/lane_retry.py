"""What a retry does with a blocked lane: the head when it is due, and the rest right behind it.

Promises (docs/rules.md, rule 11): every retry leases its delivery first; the rest of a lane moves
only after its head is delivered or given up on; a lane is free when a read found it empty and no
store into it began since that read. What the schedule gives up on is kept, with its body. A head that
its subscriber cannot take is set aside, and the lane read again. A subscriber that is paused is not asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from services.webhook.answers import LONGEST_WAIT
from services.webhook.attempts import PAUSED, Attempts, Counter, Endpoint
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
    @property
    def deliveries_set_aside(self) -> Counter: ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which waits, how spread, to whom, and where the bodies are."""

    waits: Sequence[timedelta]
    random: Callable[[], float]
    subscriber: Callable[[str], Subscription | None]
    bodies: Bodies

    def next_attempt(self, attempts: int, now: datetime, asked: timedelta) -> datetime | None:
        """By the schedule, or after what the subscriber `asked` for if that is later."""
        at = next_attempt(attempts, now, self.waits, self.random())
        return at and max(at, now + asked)

    def time_left(self, delivery: Delivery, now: datetime) -> timedelta:
        """How long until it is due; zero when it is, or when no right clock can have set its time."""
        left = (delivery.next_attempt_at or now) - now
        longest = max([LONGEST_WAIT, *self.waits]) * (1 + JITTER)
        return left if timedelta() < left <= longest else timedelta()


@dataclass(frozen=True, slots=True)
class _Leased:
    """The head of a lane, ours for one attempt."""

    lanes: PartitionLanes
    lane: OpenLane
    delivery: Delivery
    holder: str
    body: bytes | None = None


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
            if pause := self._endpoint(lane).pause_left:
                return pause
            lane.is_stale = False
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
            if lane.is_stale or not lanes.is_live:
                return None
            if delivery.event_id == lane.refused:
                wait = await self._set_refused_aside(lanes, lane, delivery)
            else:
                wait = await self._try(lanes, lane, delivery, is_hurried)
            if wait is not None:
                return wait
            lane.move_head(delivery.number + 1)
        return None

    async def _try(
        self, lanes: PartitionLanes, lane: OpenLane, delivery: Delivery, is_hurried: bool
    ) -> timedelta | None:
        """None: it is out of the way, delivered, given up on or set aside."""
        if delivery.last_error == PAUSED.reason:
            self._endpoint(lane).was_paused()
        early = self._policy.time_left(delivery, self._clock.now())
        if early and not is_hurried:
            return early
        wait = await self._attempt(lanes, lane, delivery, is_early=bool(early))
        if wait is not None and early:
            lane.hurried_in_vain(self._clock.monotonic())
        return wait

    def _endpoint(self, lane: OpenLane) -> Endpoint:
        return self._attempts.endpoint(lane.key.subscription)

    async def _attempt(
        self, lanes: PartitionLanes, lane: OpenLane, delivery: Delivery, is_early: bool
    ) -> timedelta | None:
        subscription = self._policy.subscriber(delivery.lane.subscription)
        if subscription is None:
            return _NO_SUBSCRIBER
        async with self._policy.bodies.in_use(delivery.size):
            body = await self._policy.bodies.read(delivery.event_id)
            body = body or await self._store.body(delivery)
            holder = await self._store.lease(delivery)
            if holder is None:
                return _LEASED
            leased = _Leased(lanes, lane, delivery, holder, body)
            if body is None:
                reason = "the journal no longer holds this event"
                await self._give_up(leased, replace(delivery, last_error=reason))
                return None
            outcome = await self._attempts.again(subscription, delivery.lane.device, body)
            if outcome.delivered:
                await self._store.delivered(delivery)
                return None
            lane.rest(self._clock.monotonic(), outcome.asked)
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
        now, lane = self._clock.now(), leased.lane
        attempts = leased.delivery.attempts + 1
        at = self._policy.next_attempt(attempts, now, outcome.asked)
        failed = replace(
            leased.delivery, attempts=attempts, next_attempt_at=at, last_error=outcome.reason
        )
        if attempts == 1:
            lane.failing_since = self._clock.monotonic()
            self._attempts.note_first_failure(failed)
        if at is None:
            await self._give_up(leased, failed)
            return None
        if leased.lanes.aside.takes(lane, outcome, attempts):
            await self._set_aside(leased, failed)
            return None
        await self._store.failed(failed, leased.holder)
        self._counts.deliveries_retried.inc()
        return max(at - now, _SOON)

    async def _set_refused_aside(
        self, lanes: PartitionLanes, lane: OpenLane, delivery: Delivery
    ) -> timedelta | None:
        """Its first attempt has shown already that it leaves the lane."""
        lane.refused = None
        holder = await self._store.lease(delivery)
        if holder is None:
            return _LEASED
        await self._set_aside(_Leased(lanes, lane, delivery, holder), delivery)
        return None

    async def _set_aside(self, leased: _Leased, failed: Delivery) -> None:
        beside = replace(failed, lane=replace(failed.lane, aside=failed.event_id))
        leased.lane.is_stale = True
        await self._store.failed(beside, leased.holder)
        self._counts.deliveries_set_aside.inc()
        self._attempts.note_set_aside(beside)
        leased.lanes.set_aside(leased.lane, beside)

    async def _give_up(self, leased: _Leased, failed: Delivery) -> None:
        given_up = replace(failed, state=DeliveryState.GIVEN_UP, next_attempt_at=None)
        leased.lane.is_stale = True
        await self._store.given_up(given_up, leased.holder, leased.body)
        self._counts.deliveries_given_up.inc()
        log.error(
            "delivery_given_up",
            subscription=failed.lane.subscription,
            event_id=failed.event_id,
            attempts=failed.attempts,
            reason=failed.last_error,
        )
