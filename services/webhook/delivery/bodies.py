"""The bytes of event bodies that one process holds.

Promises: what waits for its turn and what is in use stay together below the budget, but for a few large
bodies, which always fit. An event beyond the budget keeps its id and size, and its body is read back from the
journal when its turn comes. Of the room for these a subscription gets a share that leaves room for others, so
that one which hangs holds up no other. Bodies of a subscription are let in by order of arrival; one with a
share waits behind one that has none, and all wait behind one that many came behind. An event that has its
body waits for no other one; so all of them get on.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.slots import LARGEST_BATCH
from shared.domain.event import Event
from shared.telemetry.metrics import Metrics

IN_USE = 4
"""One in so many bytes of the budget is for bodies that were read back."""
USUAL_SIZE = 1024**2
"""Taken for the size of a body that is not known: a former version stored its delivery."""
_LARGE = 8
"""A request counts for one in so many bytes of the room at most; five that are larger fit at once."""
_LEFT_FREE = 3
"""For each byte that a subscription has, so many are free for others when it gets it."""

_MOST_BEHIND = 100
"""Once so many have come behind one that has no share, none is let in ahead of it."""

_Waiting = tuple[int, int, "asyncio.Future[None]"]
"""Number of its arrival, size, and what it waits for."""


class Room:
    """So many bytes, shared between subscriptions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._largest = limit // _LARGE
        self._used = 0
        self._had: dict[str, int] = {}
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._arrived = 0

    def of(self, subscription: str, size: int) -> "_Share":
        return _Share(self, subscription, min(size, self._largest))

    def most(self, subscription: str) -> int:
        """Bytes of one request: fewer where that subscription has none, and would have to wait for more."""
        if subscription in self._had:
            return self._largest
        return min(self._largest, self._left(subscription))

    async def take(self, subscription: str, size: int) -> None:
        if not self._waiting and size <= self._left(subscription):
            self._add(subscription, size)
            return
        admitted = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(subscription, deque())
        self._arrived += 1
        waiting.append((self._arrived, size, admitted))
        self._let_in()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._let_in()
            else:
                self.give(subscription, size)
            raise

    def give(self, subscription: str, size: int) -> None:
        self._add(subscription, -size)
        self._let_in()

    def _left(self, subscription: str) -> int:
        """So many bytes more it may have now."""
        had = self._had.get(subscription, 0)
        return (self._limit - self._used - _LEFT_FREE * had) // (_LEFT_FREE + 1)

    def _add(self, subscription: str, size: int) -> None:
        self._used += size
        had = self._had[subscription] = self._had.get(subscription, 0) + size
        if not had:
            del self._had[subscription]

    def _let_in(self) -> None:
        may_have_more = True
        for subscription in sorted(self._waiting, key=lambda name: self._waiting[name][0]):
            waiting = self._waiting[subscription]
            while waiting:
                number, size, admitted = waiting[0]
                if not admitted.cancelled():
                    has_some = subscription in self._had
                    if size > self._left(subscription) or (has_some and not may_have_more):
                        if not has_some and self._arrived - number >= _MOST_BEHIND:
                            return
                        may_have_more = may_have_more and has_some
                        break
                    self._add(subscription, size)
                    admitted.set_result(None)
                waiting.popleft()
            if not waiting:
                del self._waiting[subscription]


class _Share(AbstractAsyncContextManager[None]):
    """A part of a room for a while. A class, since each event passes here and a generator costs more."""

    __slots__ = ("_room", "_size", "_subscription")

    def __init__(self, room: Room, subscription: str, size: int) -> None:
        self._room = room
        self._subscription = subscription
        self._size = size

    async def __aenter__(self) -> None:
        await self._room.take(self._subscription, self._size)

    async def __aexit__(self, *_: object) -> None:
        self._room.give(self._subscription, self._size)


class Bodies:
    def __init__(
        self,
        budget: int,
        store: DeliveryStore,
        render: Callable[[Event], bytes],
        metrics: Metrics,
    ) -> None:
        self.limit = budget - budget // IN_USE
        self._room = Room(budget // IN_USE)
        self._store = store
        self._render = render
        self._read_back = metrics.bodies_read_back
        self.held = 0
        self.wanted: set[str] = set()
        """Events whose bodies are kept in any case, since the journal did not give them."""

    def in_use(self, subscription: str, size: int) -> AbstractAsyncContextManager[None]:
        """Room for bodies of one request that are read back."""
        return self._room.of(subscription, size)

    def most_together(self, subscription: str) -> int:
        """Bytes of a request of several events that are read back."""
        return min(LARGEST_BATCH, self._room.most(subscription))

    async def read(self, event_id: str) -> bytes | None:
        """The body out of the journal, None if the event is not there."""
        event = await self._store.event(event_id)
        self._read_back.inc()
        return None if event is None else self._render(event)


class Account:
    """The memory of one opening of a partition, all free when it ends."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._held = 0
        self._is_closed = False

    def hold(self, event_id: str, size: int) -> bool:
        bodies = self._bodies
        fits = bodies.held + size <= bodies.limit or event_id in bodies.wanted
        if self._is_closed or not fits:
            return False
        self._held += size
        bodies.held += size
        return True

    def release(self, size: int) -> None:
        if not self._is_closed:
            self._held -= size
            self._bodies.held -= size

    def close(self) -> None:
        self.release(self._held)
        self._is_closed = True
