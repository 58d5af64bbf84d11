"""Schedule blocked delivery queues: each by that of its head, or sooner once its subscriber is back.

Promises: a blocked delivery queue waits here once, however often it is planned; thousands of them share a
bounded number of runs, one while their subscriber is down or paused. When a subscriber recovers, its delivery
queues are hurried, except those where that failed lately. One delivery queue's fault does not end the retries
of the others."""

import heapq
from collections import deque
from datetime import datetime, timedelta
from functools import partial
from itertools import count

import structlog

from services.webhook.delivery.first_attempt import PartitionQueues
from services.webhook.delivery.queue_state import DeliveryQueue
from services.webhook.delivery.retry import NO_SUBSCRIBER, QueueRetry
from services.webhook.endpoints.endpoint import Endpoint
from services.webhook.endpoints.subscribers import Subscribers
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import Unavailable
from shared.domain.subscription import Subscription
from shared.ports.clock import Clock

log = structlog.get_logger()

PACE = Pace(every=timedelta(milliseconds=50), after_failure=timedelta(seconds=1))
_STORE_AWAY = timedelta(seconds=2)
_FORGETS_EVERY = timedelta(seconds=10)
_FEW = 1000
_FEW_READY = 50

Entry = tuple[float, int, PartitionQueues, DeliveryQueue]
"""Due at that time; the number orders those of the same time."""


class Retries:
    """One for all partitions of a process."""

    def __init__(self, queue_retry: QueueRetry, subscribers: Subscribers, clock: Clock) -> None:
        self._queue_retry = queue_retry
        self._subscribers = subscribers
        self._clock = clock
        self._planned: list[Entry] = []
        self._tidy_at = _FEW
        self._order = count()
        self._ready: dict[str, deque[tuple[PartitionQueues, DeliveryQueue]]] = {}
        self._hurried_at: dict[str, float] = {}
        self._forgot_at = float("-inf")

    @property
    def held(self) -> int:
        """The number of entries, those included that have no effect any more."""
        return len(self._planned) + sum(len(ready) for ready in self._ready.values())

    def plan(self, queues: PartitionQueues, queue: DeliveryQueue, wait: timedelta) -> None:
        """See to a blocked delivery queue after `wait`, unless that is planned already."""
        if queue.due is None and not queue.is_retrying:
            self._plan(queues, queue, wait)

    def hasten(self, queues: PartitionQueues, queue: DeliveryQueue) -> bool:
        """An operator asks for an attempt: it goes before those of other delivery queues, whatever pause its
        subscriber has. False: one that is under way, or asked for too, may begin another pause."""
        endpoint = self._subscribers.endpoint(queue.key.subscription)
        ready = self._ready.setdefault(queue.key.subscription, deque())
        is_at_work = queue.is_retrying and (queues, queue) not in ready
        is_behind = endpoint.is_resting and ready and ready[0][1].is_asked
        if is_at_work or is_behind or not endpoint.ask_now():
            return False
        if queue.is_retrying:
            ready.remove((queues, queue))
        queue.due, queue.is_retrying, queue.is_asked = None, True, True
        ready.appendleft((queues, queue))
        return True

    def next_attempt(
        self, subscription: Subscription, attempts: int, now: datetime, asked: timedelta
    ) -> datetime | None:
        """When the attempt after the n-th one is made; None: there is none."""
        return self._queue_retry.policy.next_attempt(subscription, attempts, now, asked)

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("retries", self._tick, PACE, waits="retries_wait")

    async def _tick(self) -> None:
        self._subscribers.tick()
        now = self._clock.monotonic()
        while self._planned and self._planned[0][0] <= now:
            entry = heapq.heappop(self._planned)
            if _counts(entry):
                self._make_ready(*entry[2:])
        for subscription in list(self._ready):
            self._look_after(subscription, now)
        self._forget_removed(now)

    def _look_after(self, subscription: str, now: float) -> None:
        endpoint = self._subscribers.endpoint(subscription)
        if endpoint.recovered_at > self._hurried_at.get(subscription, float("-inf")):
            self._hurried_at[subscription] = endpoint.recovered_at
            for _, queue in self._ready[subscription]:
                queue.is_hurried = queue.may_hurry(now)
            for entry in list(self._planned):
                if entry[3].key.subscription == subscription and _counts(entry):
                    self._hurry(*entry[2:])
        if endpoint.is_resting and endpoint.has_room and not self._ready[subscription]:
            self._probe(subscription, now)
        self._start(subscription, endpoint)
        self._tidy(subscription)

    def _plan(self, queues: PartitionQueues, queue: DeliveryQueue, wait: timedelta) -> None:
        queue.due = self._clock.monotonic() + wait.total_seconds()
        heapq.heappush(self._planned, (queue.due, next(self._order), queues, queue))
        self._ready.setdefault(queue.key.subscription, deque())
        if len(self._planned) >= self._tidy_at:
            self._planned = [entry for entry in self._planned if _counts(entry)]
            heapq.heapify(self._planned)
            self._tidy_at = max(_FEW, 2 * len(self._planned))

    def _make_ready(self, queues: PartitionQueues, queue: DeliveryQueue) -> None:
        queue.due = None
        queue.is_retrying = True
        self._ready[queue.key.subscription].append((queues, queue))

    def _hurry(self, queues: PartitionQueues, queue: DeliveryQueue) -> None:
        if queue.may_hurry(self._clock.monotonic()):
            queue.is_hurried = True
            self._make_ready(queues, queue)

    def _probe(self, subscription: str, now: float) -> None:
        """Ask whether a subscriber is back, though nothing is due: by each of its delivery queues in turn."""
        entries = (each for each in self._planned if each[3].key.subscription == subscription)
        able = (each for each in entries if _counts(each) and each[3].rests_until <= now)
        if chosen := min(able, key=lambda each: each[3].probed_at, default=None):
            _, _, queues, queue = chosen
            queue.probed_at, queue.is_hurried = now, True
            self._make_ready(queues, queue)

    def _start(self, subscription: str, endpoint: Endpoint) -> None:
        ready = self._ready.get(subscription, deque())
        while ready and endpoint.has_room:
            queues, queue = ready.popleft()
            if queues.is_live:
                endpoint.retrying += 1
                queues.spawn_retry(partial(self._run, queues, queue, endpoint))

    def _tidy(self, subscription: str) -> None:
        """Forget, a few at a time, what waits for room and is not ours any more."""
        ready = self._ready[subscription]
        for _ in range(min(_FEW_READY, len(ready))):
            queues, queue = ready.popleft()
            if queues.is_live:
                ready.append((queues, queue))

    def _forget_removed(self, now: float) -> None:
        """Look soon at what waits for subscriptions that are gone; forget those of which nothing waits."""
        if now < self._forgot_at + _FORGETS_EVERY.total_seconds():
            return
        self._forgot_at = now
        gone = {name for name in self._ready if self._subscribers.get(name) is None}
        for entry in [each for each in self._planned if each[3].key.subscription in gone]:
            if _counts(entry):
                gone.discard(entry[3].key.subscription)
                if entry[0] > now + NO_SUBSCRIBER.total_seconds():
                    self._make_ready(*entry[2:])
        for subscription in gone:
            if not self._ready[subscription]:
                del self._ready[subscription]
                self._hurried_at.pop(subscription, None)

    async def _run(self, queues: PartitionQueues, queue: DeliveryQueue, endpoint: Endpoint) -> None:
        began, queue.is_asked = self._clock.monotonic(), False
        wait: timedelta | None = _STORE_AWAY
        try:
            try:
                wait = await self._queue_retry.advance(queues, queue)
            except (Unavailable, TimeoutError) as exc:
                log.warning("retry_put_off", lane=queue.key, error=str(exc))
            except Exception:
                log.exception("retry_failed", lane=queue.key)
        finally:
            endpoint.retrying -= 1
            queue.is_retrying = False
        if wait is None:
            queues.forget(queue)
        elif queues.is_live:
            self._plan(queues, queue, wait)
            if began <= endpoint.recovered_at:  # it was not planned when the others were hurried
                self._hurry(queues, queue)
        # The next one at once, instead of at the next tick.
        self._start(queue.key.subscription, endpoint)


def _counts(entry: Entry) -> bool:
    due, _, queues, queue = entry
    return queues.is_live and queue.due == due
