"""Commands whose time is over: they end, and an event says so to whoever asked for it. What a newer command
superseded has ended already; an event says that too.

Promises: an overdue command ends within seconds (a minute where a replica was killed), whether or not
anybody can be told now; its event, and that of a superseded one, is journaled first and then published
until it is safe, by whichever replica gets to it, always with the same id and the same bytes, since both
come from the entry and from what the journal has. A crash between any two steps is repaired by a later
pass. What has expired by the store's clock is not sent in any case.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import orjson
import structlog

from services.commands.queue.targets import key_of_unknown
from shared.chunks import chunked
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.concurrency.publishing import publish_safely, publish_where_possible
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey, partition_of
from shared.domain.errors import StoreUnavailable
from shared.domain.event import Event, Topic
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import EventPublisher, Journal
from shared.ports.queue import Expiries
from shared.times import nanoseconds, rfc3339_or_null

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=3), after_failure=timedelta(seconds=10))
FORGOTTEN_AFTER = timedelta(minutes=1)
"""So long after its end an entry whose event is not safe is taken for one that nobody sees to."""
TOLD_AT_ONCE = 5_000
"""The most of one pass; a later pass finds the rest."""
CHUNK = 32
WRITER = "commands"
"""The writer of these events. It journals no device messages, so it is never taken over (rule 7)."""

_SUB_MILLISECOND = 10**6


@dataclass(frozen=True, slots=True)
class Expiry:
    """Runs in every replica of commands, for its share of the partitions."""

    expiries: Expiries
    enrollments: Enrollments
    journal: Journal
    publisher: EventPublisher
    share: Share
    clock: Clock

    async def run(self, loops: Loops) -> None:
        """Until cancelled. The share is kept by the janitor."""
        await loops.keep_doing("expiry", self.look, PACE, waits="expiry_waits")

    async def look(self) -> None:
        """One pass. Raises Unavailable when events could not be made safe; what is over has ended
        before that, where the store answers."""
        now = self.clock.now()
        ended: list[QueueEntry] = []
        count = 0
        async for page in self.expiries.overdue(now):
            for chunk in chunked(self._ours(page), CHUNK):
                there = (await self.expiries.expire(chunk, now)).values()
                expired = [entry for entry in there if entry.state is EntryState.EXPIRED]
                count += len(expired)
                ended += expired[: TOLD_AT_ONCE - len(ended)]
        if count:
            log.info("commands_expired", count=count)
        for chunk in chunked(ended, CHUNK):
            await self._publish(chunk)
        async for page in self.expiries.unpublished(now):
            left = [each for each in self._ours(page) if _is_left(each, now - FORGOTTEN_AFTER)]
            for chunk in chunked(left, CHUNK):
                await self._publish(chunk)

    def _ours(self, entries: Sequence[QueueEntry]) -> list[QueueEntry]:
        partitions = self.share.partitions
        return [entry for entry in entries if partition_of(entry.device) in partitions]

    async def hand_over(self, entry: QueueEntry) -> None:
        """Before an entry that expired, or was superseded, is queued anew, which forgets that end: its event
        is journaled, and the relay publishes it, since its device is behind it from then on (rule 8).

        Raises Unavailable where that could not be written."""
        if not await self.expiries.is_unpublished(entry):
            return
        [event] = await self._journaled([entry])
        marked = await self.enrollments.mark_waiting([Mark(entry.device, event.created_at)])
        if not all(marked):  # nobody knows its device, so no relay looks after it
            await publish_safely(self.publisher, [event])

    async def _publish(self, entries: Sequence[QueueEntry]) -> None:
        """A later pass finds the entries of a partition that is away."""
        events = await self._journaled(entries)
        safe = await publish_where_possible(self.publisher, events)
        late = {(event.key.id, event.command_uuid) for event in events if event.id not in safe}
        await self.expiries.published(
            [each for each in entries if (each.enrollment, each.command_uuid) not in late]
        )

    async def _journaled(self, entries: Sequence[QueueEntry]) -> list[Event]:
        keys = await self._keys({entry.enrollment for entry in entries})
        events = [ended_event(entry, keys[entry.enrollment]) for entry in entries]
        if not all(await self.journal.append(events)):
            raise StoreUnavailable("the journal did not take the events of commands that ended")
        # What is there may be what another replica wrote when more, or less, was known of the device.
        journaled = await self.journal.read([event.id for event in events])
        return list(journaled.values())

    async def _keys(self, enrollments: Collection[str]) -> dict[str, EnrollmentKey]:
        known = await self.enrollments.load(enrollments)
        return {id_: known[id_].key if id_ in known else key_of_unknown(id_) for id_ in enrollments}


def _is_left(entry: QueueEntry, before: datetime) -> bool:
    """True if nobody else sees to its event: who ends an overdue entry does, who supersedes one does not."""
    is_superseded = entry.state is EntryState.SUPERSEDED
    return is_superseded or (entry.finished_at is not None and entry.finished_at < before)


def ended_event(entry: QueueEntry, key: EnrollmentKey) -> Event:
    """The event of an entry that expired or was superseded; the same id for it from everybody, at any
    time."""
    assert entry.finished_at is not None
    seed = hashlib.sha256(f"{entry.id}\0{entry.order}".encode()).digest()
    # Different for entries that ended in the same millisecond: the relay reads by this time.
    created_at = _milliseconds(entry.finished_at) * _SUB_MILLISECOND
    created_at += int.from_bytes(seed[16:24], "big") % _SUB_MILLISECOND
    facts = {"request_type": entry.request_type, "state": entry.state.value}
    if entry.state is EntryState.SUPERSEDED:
        topic, why = Topic.COMMAND_SUPERSEDED, {"superseded_by": entry.superseded_by}
    else:
        topic, why = Topic.COMMAND_EXPIRED, {"expires_at": rfc3339_or_null(entry.expires_at)}
    return Event(
        id=_id(entry.finished_at, seed),
        topic=topic,
        key=key,
        created_at=created_at,
        raw_payload=orjson.dumps({**facts, **why}),
        writer=WRITER,
        number=created_at,
        command_uuid=entry.command_uuid,
    )


def _id(at: datetime, seed: bytes) -> str:
    """In the shape of a UUIDv7, with bits of a hash in place of random ones."""
    number = _milliseconds(at) << 80 | int.from_bytes(seed[:10], "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=number))


def _milliseconds(moment: datetime) -> int:
    return nanoseconds(moment) // _SUB_MILLISECOND
