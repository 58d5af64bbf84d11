"""The state of one delivery queue while its partition is served here."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from services.webhook.delivery.filters import Passes
from services.webhook.delivery.inbox import Arrival
from services.webhook.endpoints.sender import AttemptOutcome
from services.webhook.endpoints.slots import LARGEST_BATCH
from services.webhook.endpoints.subscribers import Subscribers
from services.webhook.forms.form import most_of
from shared.domain.subscription import DeliveryQueueKey, Subscription
from shared.ports.deliveries import Backlog

_FIRST_HURRY_PAUSE = timedelta(minutes=1)
FIRST_WAITS = 5
"""So many waits of the schedule an event holds up its delivery queue."""


@dataclass(slots=True, eq=False)
class DeliveryQueue:
    """The state of a delivery queue; `blocked` while something of it is stored, or about to be."""

    key: DeliveryQueueKey
    arrivals: deque[Arrival] = field(default_factory=deque)
    passed: int = 0
    """So many of the first arrivals have passed the filters, if there are any."""
    blocked: bool = False
    head: int = 0
    """Nothing with a lower number is known to wait in the store."""
    highest: int = 0

    is_working: bool = False
    is_attempting: bool = False
    is_storing: bool = False
    changes: int = 0
    """Counts what an older read of the delivery queue cannot have seen: stores, and newer reads."""
    is_stale: bool = False
    """The last read of the delivery queue may be out of order: a store found an older number, a dead letter
    is tried again, or a head left the delivery queue by a write that may have come too late."""

    failing_since: float = 0.0
    """The time when its head failed first (monotonic), or was first known here to wait."""
    refused: str | None = None
    """The event that is to leave the delivery queue without another attempt."""

    due: float | None = None
    is_retrying: bool = False
    is_asked: bool = False
    """It waits for the attempt that an operator asked for."""
    is_hurried: bool = False
    hurry_from: float = 0.0
    """The earliest time to hurry it again, later and later while it fails."""
    rests_until: float = 0.0
    """Its subscriber asked to be left alone until then."""
    probed_at: float = 0.0
    """When it last asked whether its subscriber is back."""
    hurry_pause: timedelta = _FIRST_HURRY_PAUSE
    heeded: frozenset[tuple[str, datetime]] = frozenset()
    """What an operator asked for, as the last read had it, once that was heeded."""

    @property
    def is_idle(self) -> bool:
        return not (self.blocked or self.arrivals or self.is_working or self.is_retrying)

    def run(self, subscription: Subscription) -> list[Arrival]:
        """The first arrivals that fit into one request. One whose body is not in memory goes alone."""
        batch = subscription.form.batch
        limit = min(self.passed, batch) if subscription.filters else batch
        run = list(islice(self.arrivals, min(limit, 1)))
        if limit <= 1 or not (run and run[0].is_held):
            return run
        size = most_of(subscription.form, run[0].received.body or b"")
        for arrival in islice(self.arrivals, 1, limit):
            size += most_of(subscription.form, arrival.received.body or b"")
            if size > LARGEST_BATCH or not arrival.is_held:
                break
            run.append(arrival)
        return run

    async def sift(
        self,
        subscription: Subscription,
        passes: Passes,
        done: Callable[[Arrival], Awaitable[None]],
    ) -> None:
        """Take those out of the first arrivals that its filters keep out, and be `done` with them."""
        if not subscription.filters:
            return
        while self.passed < min(subscription.form.batch, len(self.arrivals)):
            arrival = self.arrivals[self.passed]
            event_id = arrival.received.event_id
            if await passes(subscription.filters, event_id, self.key.device):
                self.passed += 1
            else:
                del self.arrivals[self.passed]
                await done(arrival)

    def begin_store(self, now: float, created_at: int) -> int:
        """Block the delivery queue and take the number of the delivery that is about to be stored: the time
        of its event, or one more than the highest that is known."""
        self.is_storing = True
        self.changes += 1
        self.highest = max(self.highest + 1, created_at)
        if not self.blocked:
            self.head = self.highest
            self.failing_since = now
        self.blocked = True
        return self.highest

    def end_store(self, number: int, stored: int) -> None:
        self.is_storing = False
        if stored != number:
            self.is_stale = True
            self.highest = max(self.highest, stored)
            self.head = min(self.head, stored)

    def learn(self, backlog: Backlog, now: float) -> None:
        """A read found deliveries of this delivery queue in the store. What was planned for it is void if an
        operator skipped its head, or put an older one before it."""
        if backlog.lowest != self.head:
            self.due = None
        if self.blocked and backlog.lowest < self.head:
            self.is_stale = True
        self.head = min(self.head, backlog.lowest) if self.blocked else backlog.lowest
        if not self.blocked:
            self.failing_since = now
        self.blocked = True
        self.changes += 1
        self.highest = max(self.highest, backlog.highest)

    def move_head(self, number: int) -> None:
        """Nothing below waits any more, unless a store has just found something older."""
        if number > self.head and not self.is_stale:
            self.head = number
            self.hurry_from, self.hurry_pause = 0.0, _FIRST_HURRY_PAUSE

    def rest(self, now: float, asked: timedelta) -> None:
        """Its subscriber asks to be left alone for so long: it is not hurried before."""
        self.rests_until = now + asked.total_seconds()

    def may_hurry(self, now: float) -> bool:
        return max(self.hurry_from, self.rests_until) <= now

    def hurry_failed(self, now: float) -> None:
        self.hurry_from = max(self.hurry_from, now + self.hurry_pause.total_seconds())
        self.hurry_pause *= 2


class SetAside:
    """The events of a partition that are set aside, by the delivery queues of their devices.

    Promises (docs/rules.md, rule 11): an event is set aside only for an answer about the event, after the
    first waits of the schedule, and only if the subscriber took another device's event since its first
    failure; while a device has one aside, its next ones are after one attempt. Where this process does not
    know, the event stays the head of its delivery queue.
    """

    def __init__(self, subscribers: Subscribers) -> None:
        self._subscribers = subscribers
        self._queues: dict[DeliveryQueueKey, dict[DeliveryQueue, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, queue: DeliveryQueue) -> None:
        if queue.key.aside and not queue.key.replay:
            self._queues.setdefault(_device_queue(queue), {})[queue] = None

    def drop(self, queue: DeliveryQueue) -> None:
        device_queue = _device_queue(queue)
        aside = self._queues.get(device_queue, {})
        aside.pop(queue, None)
        if not aside:
            self._queues.pop(device_queue, None)

    def takes(self, queue: DeliveryQueue, outcome: AttemptOutcome, attempts: int) -> bool:
        """True if the head, which failed just now for the `attempts`th time, has to leave."""
        if queue.key.aside or not outcome.is_about_event:
            return False
        if aside := self._queues.get(queue.key):
            since = next(iter(aside)).failing_since
        elif attempts > FIRST_WAITS:
            since = queue.failing_since
        else:
            return False
        endpoint = self._subscribers.endpoint(queue.key.subscription)
        return endpoint.took_another(queue.key.device, since)


def _device_queue(queue: DeliveryQueue) -> DeliveryQueueKey:
    return DeliveryQueueKey(queue.key.subscription, queue.key.device)
