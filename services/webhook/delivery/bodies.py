"""The bytes of event bodies that one process holds.

Promises: what waits for its turn and what is in use stay together below the budget; one body always
fits, however large it is. An event beyond the budget keeps its id and size, and its body is read back
from the journal when its turn comes. Bodies that are read back are let in by order of arrival, and an
event that has its body waits for no other one; so all of them get on.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from services.webhook.delivery.store import DeliveryStore
from shared.domain.event import Event
from shared.telemetry.metrics import Metrics

IN_USE = 4
"""One in so many bytes of the budget is for bodies that were read back."""
USUAL_SIZE = 1024**2
"""Taken for the size of a body that is not known: a former version stored its delivery."""


class Room:
    """So many bytes, given by order of arrival. One body always fits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def of(self, size: int) -> "_Share":
        return _Share(self, size)

    async def take(self, size: int) -> None:
        if not self._waiting and self._fits(size):
            self._used += size
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            self.give(0 if admitted.cancelled() else size)
            raise

    def give(self, size: int) -> None:
        self._used -= size
        while self._waiting:
            wanted, admitted = self._waiting[0]
            if not admitted.cancelled():
                if not self._fits(wanted):
                    return
                self._used += wanted
                admitted.set_result(None)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        return not self._used or self._used + size <= self._limit


class _Share(AbstractAsyncContextManager[None]):
    """A part of a room for a while. A class, since each event passes here and a generator costs more."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._size = size

    async def __aenter__(self) -> None:
        await self._room.take(self._size)

    async def __aexit__(self, *_: object) -> None:
        self._room.give(self._size)


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

    def in_use(self, size: int | None) -> AbstractAsyncContextManager[None]:
        """Room for one body that is read back."""
        return self._room.of(USUAL_SIZE if size is None else size)

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
