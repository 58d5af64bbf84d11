"""Publishing that ends when the events are safe.

Promises: a caller may forget what is returned as safe: the broker confirmed it, or, in one process, its
consumer acked it (docs/rules.md, rule 10), or a mark leaves it to the relay; an event of ours comes behind
all that its device was answered before, though that waits (rule 8).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from shared.concurrency.batching import verdicts
from shared.domain.enrollment import Waiting
from shared.domain.errors import BrokerUnavailable, StoreUnavailable
from shared.domain.event import Event
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import EventPublisher, Journal

Backlogs = Mapping[str, Waiting]
"""By device, as read before its events are journaled; a device without a record has none."""

SAFE_WITHIN = timedelta(seconds=90)
"""The longest time until an event is safe: the in-process broker's consumer makes its first attempt (30 s
at most) before it stores and acks."""


async def publish_safely(publisher: EventPublisher, events: Sequence[Event]) -> None:
    """Publish, and wait until every event is safe. Raises BrokerUnavailable where one is not; then all must
    be tried again."""
    if len(await _published(publisher, events)) < len(events):
        raise BrokerUnavailable("the broker did not take the event")


async def journal_behind(
    journal: Journal, events: Sequence[Event], backlogs: Backlogs, term: object
) -> list[Event]:
    """Journal events of ours, each later than what waits of its device; returns them as the journal has them:
    an earlier pass, or another replica, may have journaled them. `term` is that of the time before the
    backlogs were read. Raises StoreUnavailable: all must be journaled again."""
    latest = {device: waiting.upto or 0 for device, waiting in backlogs.items()}
    behind = []
    for event in sorted(events, key=lambda event: event.created_at):
        at = max(event.created_at, latest.get(event.key.device, 0) + 1)
        latest[event.key.device] = at
        behind.append(replace(event, created_at=at))
    if not all(await journal.append(behind)) or journal.term != term:
        raise StoreUnavailable("the journal did not take the events, or its primary changed")
    stored = await journal.read([event.id for event in behind])
    return [stored[event.id] for event in behind if event.id in stored]


async def publish_behind(
    publisher: EventPublisher, enrollments: Enrollments, events: Sequence[Event], backlogs: Backlogs
) -> set[str]:
    """Publish journaled events of ours, but leave to the relay, by a mark, those whose device has a backlog
    and those that the broker does not take. Of each device one is published at a time. Returns the ids of the
    events that are safe. Raises BrokerUnavailable where one could be neither published nor marked, unless its
    partition is away."""
    free = [each for each in events if backlogs.get(each.key.device, _NONE).since is None]
    safe: set[str] = set()
    going = free
    while going:
        first = {each.key.device: each for each in reversed(going)}
        safe |= await _published(publisher, [*first.values()])
        going = [
            each for each in going if each.id not in safe and first[each.key.device].id in safe
        ]
    left = [each for each in events if each.id not in safe]
    marks = [Mark(each.key.device, each.created_at) for each in left]
    marked = await verdicts(enrollments.mark_waiting, marks) if marks else []
    safe |= {each.id for each, verdict in zip(left, marked, strict=True) if verdict is True}
    if not {e.key.partition for e in free if e.id not in safe} <= publisher.away:
        raise BrokerUnavailable("the broker did not take the event")
    return safe


_NONE = Waiting()


async def _published(publisher: EventPublisher, events: Sequence[Event]) -> set[str]:
    """Publish, and wait until the events that the broker took are safe; returns their ids. Raises
    BrokerUnavailable where that takes too long."""
    waiting = {event.id for event in events}
    some = asyncio.Event()

    def settled(event: Event) -> None:
        waiting.discard(event.id)
        some.set()

    taken = await publisher.publish(events, settled=settled)
    left = {event.id for event, is_taken in zip(events, taken, strict=True) if not is_taken}
    try:
        async with asyncio.timeout(SAFE_WITHIN.total_seconds()):
            while waiting - left:
                some.clear()
                await some.wait()
    except TimeoutError as exc:
        raise BrokerUnavailable("the consumer did not take the event") from exc
    return {event.id for event in events} - left
