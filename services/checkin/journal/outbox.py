"""Publish the outbox: events about the bindings of devices.

An outbox event is stored in the same write as its change, so none is lost. It is journaled and published,
always with the same id and the same bytes, until the broker or the relay has it, and removed only then.
Every replica works on its share of the partitions; if two do the same for a moment, subscribers see one
event twice."""

from datetime import timedelta

import orjson

from shared.chunks import chunked
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.concurrency.publishing import publish_where_possible
from shared.domain.errors import StoreUnavailable
from shared.domain.event import Event
from shared.ports.clock import Clock
from shared.ports.events import EventPublisher, Journal
from shared.ports.identities import Identities

PACE = Pace(every=timedelta(seconds=2), after_failure=timedelta(seconds=10))
CHUNK = 32
WRITER = "checkin-notices"
"""The writer of these events. It journals no device messages, so it is never taken over (rule 7)."""


class Outbox:
    """Runs in every replica of check-in; the share is kept by the relay."""

    def __init__(
        self,
        identities: Identities,
        journal: Journal,
        publisher: EventPublisher,
        share: Share,
        clock: Clock,
    ) -> None:
        self._identities = identities
        self._journal = journal
        self._publisher = publisher
        self._share = share
        self._clock = clock

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("notices", self.look, PACE, waits="notices_wait")

    async def look(self) -> None:
        """One pass over the outbox events of this replica's share. Raises Unavailable."""
        partitions = self._share.partitions
        if not partitions:
            return
        outgoing = await self._identities.outbox(partitions)
        for chunk in chunked(outgoing, CHUNK):
            events = [
                Event(
                    id=each.outbox_event.id,
                    topic=each.outbox_event.topic,
                    key=each.device.key,
                    created_at=each.outbox_event.created_at,
                    raw_payload=orjson.dumps(dict(each.outbox_event.facts)),
                    writer=WRITER,
                    number=each.outbox_event.created_at,
                )
                for each in chunk
            ]
            if not all(await self._journal.append(events)):
                raise StoreUnavailable("the journal did not take the notices")
            safe = await publish_where_possible(self._publisher, events)
            await self._identities.published([e for e in chunk if e.outbox_event.id in safe])
