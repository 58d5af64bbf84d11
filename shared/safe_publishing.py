"""Publishing that ends when the events are safe.

Promise: whoever gets no exception may forget the events: the broker confirmed them, or, in one process,
their consumer acked them (docs/rules.md, rule 10).
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from shared.domain.errors import BrokerUnavailable
from shared.domain.event import Event
from shared.ports.events import EventPublisher

SAFE_WITHIN = timedelta(seconds=90)
"""How long an event may take until its promise has passed on: the in-process broker's consumer
makes its first attempt (30 s at most) before it stores and acks."""


async def publish_safely(publisher: EventPublisher, events: Sequence[Event]) -> None:
    """Publish, and wait until every promise has passed on. Raises BrokerUnavailable when one has not;
    then all must be tried again."""
    waiting = {event.id for event in events}
    safe = asyncio.Event()

    def settled(event: Event) -> None:
        waiting.discard(event.id)
        if not waiting:
            safe.set()

    taken = await publisher.publish(events, settled=settled)
    if not all(taken):
        raise BrokerUnavailable("the broker did not take the event")
    if not waiting:
        return
    try:
        async with asyncio.timeout(SAFE_WITHIN.total_seconds()):
            await safe.wait()
    except TimeoutError as exc:
        raise BrokerUnavailable("the consumer did not take the event") from exc
