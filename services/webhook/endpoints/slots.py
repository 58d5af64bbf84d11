"""The slots of one subscriber: so many requests at once, and so many a second.

Promises: while no slot is free, items wait in the order in which they came, and each slot that becomes free
goes to a first attempt and to a retry by turns. Items that wait together share a request as far as their
subscription's batches allow; one alone never waits for others. A first attempt without a slot for `PATIENCE`
is turned away, and so is each one behind it until a slot is free again.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.sender import AttemptOutcome
from shared.domain.subscription import Subscription
from shared.ports.clock import Clock

PATIENCE = timedelta(seconds=10)
"""A first attempt waits so long for a slot; then its event is stored."""
LEASED_PATIENCE = timedelta(seconds=4)
"""The same of a retry, whose lease ends."""
LARGEST_BATCH = 4 * 1024**2
"""Bytes of the events of a request, in the form of their subscription; a larger event goes alone."""
_LONGEST_PACE = timedelta(days=10)
"""Of any rate: that of a replica, and one that a store holds, has no lower bound."""
_CATCH_UP = timedelta(milliseconds=100)
"""What a rate allowed and was not used may be used so much later."""

BUSY = AttemptOutcome("the subscriber is too slow: not tried yet", counts=False)


@dataclass(slots=True, eq=False)
class Item:
    """Consecutive events of one delivery queue, on their way into a request. `is_alone`: into one of its
    own."""

    device: str
    request: EventRequest
    is_alone: bool = False
    size: int = 0
    since: float = 0.0
    answer: "asyncio.Future[list[Item] | AttemptOutcome] | None" = None


class Slots:
    def __init__(self, clock: Clock, patience: timedelta = PATIENCE) -> None:
        self._clock = clock
        self._limit = 1
        self._batch = 1
        self._pace: float | None = None
        """Seconds from one request to the next."""
        self._next_at = float("-inf")
        self._used = 0
        self._is_stuck = False
        """An item waited for a slot without success, and none has become free since."""
        self._firsts: deque[Item] = deque()
        self._retries: deque[Item] = deque()
        self._patience = {True: patience.total_seconds(), False: LEASED_PATIENCE.total_seconds()}
        self._was_first = False

    def follow(self, subscription: Subscription, portion: float) -> None:
        """Keep to its limits from now on; of its rate, to this portion."""
        limits = subscription.limits
        self._limit, self._batch = limits.concurrency, subscription.form.batch
        self._pace = None
        if limits.rate and portion:
            self._pace = 1 / max(limits.rate * portion, 1 / _LONGEST_PACE.total_seconds())
        if self._pace is not None:
            # A former, lower rate does not count any more.
            self._next_at = min(self._next_at, self._clock.monotonic() + self._pace)
        self._give_out()

    @property
    def most_retries(self) -> int:
        """So many items of retries may be under way: half of the slots, full."""
        if self._pace is not None and self._retries:
            return 0
        return max(1, self._limit // 2) * self._batch

    async def take(self, item: Item, is_first: bool) -> list[Item] | AttemptOutcome:
        """The items of a request that has a slot now: the caller posts it, answers to the others and gives
        the slot back. Or what became of the item without its caller."""
        if not (self._firsts or self._retries) and self._is_free():
            self._begin()
            return [item]
        if is_first and self._is_stuck:
            return BUSY
        item.since = self._clock.monotonic()
        item.answer = asyncio.get_running_loop().create_future()
        waiting = self._firsts if is_first else self._retries
        waiting.append(item)
        try:
            return await item.answer
        except asyncio.CancelledError:
            if not item.answer.cancelled() and isinstance(items := item.answer.result(), list):
                waiting.extendleft(reversed(items[1:]))
                self.give()
            raise

    def give(self) -> None:
        self._used -= 1
        self._is_stuck = False
        self._give_out()

    def tick(self) -> None:
        """Time has passed: turn away who waited for too long, and begin what the rate allows by now."""
        now = self._clock.monotonic()
        for is_first, waiting in ((True, self._firsts), (False, self._retries)):
            while waiting and now - waiting[0].since >= self._patience[is_first]:
                self._is_stuck = self._is_stuck or is_first
                _answer(waiting.popleft(), BUSY)
        self._give_out()

    def _is_free(self) -> bool:
        if self._used >= self._limit:
            return False
        return self._pace is None or self._next_at <= self._clock.monotonic()

    def _begin(self) -> None:
        self._used += 1
        if self._pace is not None:
            least = self._clock.monotonic() - _CATCH_UP.total_seconds()
            self._next_at = max(self._next_at, least) + self._pace

    def _give_out(self) -> None:
        while (self._firsts or self._retries) and self._is_free():
            is_first = not self._was_first if self._firsts and self._retries else bool(self._firsts)
            if items := self._gather(self._firsts if is_first else self._retries):
                self._was_first = is_first
                self._begin()
                _answer(items[0], items)

    def _gather(self, waiting: deque[Item]) -> list[Item]:
        items: list[Item] = []
        count = size = 0
        while waiting:
            item = waiting[0]
            if item.answer is not None and item.answer.cancelled():
                waiting.popleft()
                continue
            count, size = count + len(item.request.events), size + item.size
            fits = count <= self._batch and size <= LARGEST_BATCH
            if items and not (fits and _may_share(items[0], item)):
                break
            items.append(waiting.popleft())
        return items


def _may_share(one: Item, other: Item) -> bool:
    return not (one.is_alone or other.is_alone) and one.request.replay == other.request.replay


def _answer(item: Item, answer: list[Item] | AttemptOutcome) -> None:
    if item.answer is not None and not item.answer.done():
        item.answer.set_result(answer)
