"""The events that a partition's channel gave and that are not acked yet, with their bodies.

Promises: a body that the process has no room for is read back from the journal when its turn comes. If the
journal does not have it, the partition has to be opened again, and its message is kept whole that time. An
event is acked once each of its delivery queues is done with it; one that the store refuses for ever is
dead-lettered.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from services.webhook.delivery.bodies import Account, Bodies
from services.webhook.endpoints.request import EventBody
from shared.domain.errors import CannotDecrypt, OfNewerVersion, StoreUnavailable, Unavailable
from shared.ports.events import Received

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Arrival:
    """An event from the queue, and how many delivery queues it still waits for."""

    received: Received
    owed: int = 0
    is_held: bool = False
    """Its body waits in memory."""
    is_dropped: bool = False
    """Its body was in the message, and has to be read back from the journal."""
    refusal: str | None = None
    """Why it can never be stored."""

    def event(self, body: bytes) -> EventBody:
        return EventBody(self.received.event_id, self.received.topic, body)


class Inbox:
    """Of one opening of a partition. `waiting` are all arrivals that wait in its delivery queues."""

    def __init__(self, bodies: Bodies, waiting: Callable[[], Iterable[Arrival]]) -> None:
        self._bodies = bodies
        self._waiting = waiting
        self._account = Account(bodies)
        self.is_spent = False
        """It must be opened again: only the broker's messages have the bodies that were dropped."""

    def hold(self, arrival: Arrival) -> None:
        """Keep the body that came with it, where there is room."""
        received = arrival.received
        arrival.is_held = self._account.hold(received.event_id, received.held)
        arrival.is_dropped = not arrival.is_held and received.drop_body()

    async def body(self, arrival: Arrival) -> bytes | None:
        """Of one that is not held; None: it is nowhere any more. Raises Unavailable while it cannot be
        read."""
        if arrival.received.body is not None:
            return arrival.received.body
        try:
            body = await self._bodies.read(arrival.received.event_id)
        except (CannotDecrypt, OfNewerVersion):
            if not arrival.is_dropped:
                raise
            body = None
        if body is None and arrival.is_dropped:
            # All that waits comes once more, and the bodies that were dropped are kept then.
            dropped = (each for each in self._waiting() if each.is_dropped)
            self._bodies.wanted.update(each.received.event_id for each in dropped)
            self.is_spent = True
            raise StoreUnavailable("the journal does not give this event: its message comes again")
        return body

    async def done(self, arrival: Arrival) -> None:
        """One of its delivery queues needs it no more: after the last one ack it, or put it aside for an
        operator where it cannot be kept for a subscriber."""
        arrival.owed -= 1
        if arrival.owed > 0:
            return
        received = arrival.received
        if arrival.is_held:
            self._account.release(received.held)
        try:
            if arrival.refusal is None:
                await received.ack()
            else:
                log.error("event_refused", event_id=received.event_id, reason=arrival.refusal)
                await received.dead_letter(arrival.refusal)
            self._bodies.wanted.discard(received.event_id)
        except Unavailable as exc:
            # It is not lost: it comes again, with the same id.
            log.warning("event_not_acked", event_id=received.event_id, error=str(exc))

    def close(self) -> None:
        self._account.close()
