"""Publishing that ends when the events are safe.

Promise: a caller that gets no exception may forget the events: the broker confirmed them, or, in one
process, their consumer acked them (docs/rules.md, rule 10).
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from shared.domain.errors import BrokerUnavailable
from shared.domain.event import Event
from shared.ports.events import EventPublisher

SAFE_WITHIN = timedelta(seconds=90)
"""The longest time until an event is safe: the in-process broker's consumer makes its first attempt (30 s
at most) before it stores and acks."""


async def publish_safely(publisher: EventPublisher, events: Sequence[Event]) -> None:
    """Publish, and wait until every event is safe. Raises BrokerUnavailable where one is not; then all must
    be tried again."""
    if len(await publish_where_possible(publisher, events)) < len(events):
        raise BrokerUnavailable("the broker did not take the event")


async def publish_where_possible(publisher: EventPublisher, events: Sequence[Event]) -> set[str]:
    """`publish_safely`, except that events of partitions that are away do not fail the others. Returns the
    ids of the events that are safe. Raises BrokerUnavailable where another one is not."""
    waiting = {event.id for event in events}
    some = asyncio.Event()

    def settled(event: Event) -> None:
        waiting.discard(event.id)
        some.set()

    taken = await publisher.publish(events, settled=settled)
    refused = [event for event, is_taken in zip(events, taken, strict=True) if not is_taken]
    if not {event.key.partition for event in refused} <= publisher.away:
        raise BrokerUnavailable("the broker did not take the event")
    left = {event.id for event in refused}
    try:
        async with asyncio.timeout(SAFE_WITHIN.total_seconds()):
            while waiting - left:
                some.clear()
                await some.wait()
    except TimeoutError as exc:
        raise BrokerUnavailable("the consumer did not take the event") from exc
    return {event.id for event in events} - left
