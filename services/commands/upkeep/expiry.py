"""End the commands whose time is over, and publish the events of commands that expired or were
superseded or cancelled.

Promises: an overdue command ends within seconds (a minute where a replica was killed), though its event
cannot be published now; the event of an ended command is journaled first and then published until it is safe,
by whichever replica gets to it, always with the same id and the same bytes, since both come from the entry
and from what the journal has. A crash between any two steps is repaired by a later pass. A command that has
expired by the store's clock is not sent in any case.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import orjson
import structlog

from services.commands.queue.priority import Step, no_wait
from services.commands.queue.targets import key_of_unknown
from shared.chunks import chunked
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.concurrency.publishing import Backlogs, journal_behind, publish_behind, publish_safely
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey, partition_of
from shared.domain.event import FACTS_VERSION, Event, Topic, derived_id
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import EventPublisher, Journal
from shared.ports.queue import Expiries
from shared.times import nanoseconds, rfc3339_or_null

log = structlog.get_logger()

PACE = Pace(every=timedelta(seconds=3), after_failure=timedelta(seconds=10))
FORGOTTEN_AFTER = timedelta(minutes=1)
"""So long after its end, an entry whose event is not safe counts as abandoned."""
PUBLISHED_AT_ONCE = 5_000
"""The most of one pass; a later pass finds the rest."""
CHUNK = 32
WRITER = "commands"
"""The writer of these events. It journals no device messages, so it is never taken over (rule 7)."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """Runs in every replica of commands, for its share of the partitions, which the janitor keeps. `between`
    runs before each step but the reading of a page."""

    expiries: Expiries
    enrollments: Enrollments
    journal: Journal
    publisher: EventPublisher
    share: Share
    clock: Clock
    between: Step = no_wait

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("expiry", self.look, PACE, waits="expiry_waits")

    async def look(self) -> None:
        """One pass. Raises Unavailable when events could not be made safe; overdue commands have ended
        before that, where the store answers."""
        now = self.clock.now()
        ended: list[QueueEntry] = []
        count = 0
        async for chunk in self._ours(self.expiries.overdue(now)):
            await self.between()
            there = (await self.expiries.expire(chunk, now)).values()
            expired = [entry for entry in there if entry.state is EntryState.EXPIRED]
            count += len(expired)
            ended += expired[: PUBLISHED_AT_ONCE - len(ended)]
        if count:
            log.info("commands_expired", count=count)
        for published in chunked(ended, CHUNK):
            await self._publish(published)
        is_left = partial(_is_left, before=now - FORGOTTEN_AFTER)
        async for chunk in self._ours(self.expiries.unpublished(now), is_left):
            await self._publish(chunk)

    async def _ours(
        self,
        pages: AsyncIterator[list[QueueEntry]],
        is_wanted: Callable[[QueueEntry], bool] = lambda _: True,
    ) -> AsyncIterator[list[QueueEntry]]:
        """The wanted entries of our partitions, in full chunks, and the rest at last."""
        gathered: list[QueueEntry] = []
        async for page in pages:
            gathered += [
                each
                for each in page
                if partition_of(each.device) in self.share.partitions and is_wanted(each)
            ]
            while len(gathered) >= CHUNK:
                yield gathered[:CHUNK]
                gathered = gathered[CHUNK:]
        if gathered:
            yield gathered

    async def hand_over(self, entry: QueueEntry) -> None:
        """Journal the event of an `unpublished` entry before it is queued again, which forgets that end; the
        relay publishes it, since its device is behind it from then on (rule 8).

        Raises Unavailable where that could not be written."""
        if not await self.expiries.is_unpublished(entry):
            return
        [event], _ = await self._journaled([entry])
        marked = await self.enrollments.mark_waiting([Mark(entry.device, event.created_at)])
        if not all(marked):  # its device is unknown, so no relay looks after it
            await publish_safely(self.publisher, [event])

    async def _publish(self, entries: Sequence[QueueEntry]) -> None:
        """A later pass finds the entries of unknown devices in a partition that is away."""
        await self.between()
        events, backlogs = await self._journaled(entries)
        await self.between()
        safe = await publish_behind(self.publisher, self.enrollments, events, backlogs)
        late = {(event.key.id, event.command_uuid) for event in events if event.id not in safe}
        published = [each for each in entries if (each.enrollment, each.command_uuid) not in late]
        await self.between()
        await self.expiries.published(published)

    async def _journaled(self, entries: Sequence[QueueEntry]) -> tuple[list[Event], Backlogs]:
        term = self.journal.term
        ids = {id_ for entry in entries for id_ in (entry.enrollment, entry.device)}
        known = await self.enrollments.load(ids, secrets=False)
        keys = {id_: found.key for id_, found in known.items()}
        events = [
            ended_event(each, keys.get(each.enrollment) or key_of_unknown(each.enrollment))
            for each in entries
        ]
        backlogs = {id_: found.waiting for id_, found in known.items()}
        return await journal_behind(self.journal, events, backlogs, term), backlogs


def _is_left(entry: QueueEntry, before: datetime) -> bool:
    """Who ends an overdue entry publishes its event, if it lives; who supersedes or cancels one does not."""
    if entry.state is not EntryState.EXPIRED:
        return True
    return entry.finished_at is not None and entry.finished_at < before


def ended_event(entry: QueueEntry, key: EnrollmentKey) -> Event:
    """The event of an entry in one of ANNOUNCED_STATES. Every replica makes the same, at any time; it is
    journaled with a later time where events of its device wait."""
    assert entry.finished_at is not None
    cause = f"{entry.id}\0{entry.order}"
    milliseconds = nanoseconds(entry.finished_at) // 10**6
    # Different for entries that ended in the same millisecond: the relay reads by this time.
    rest = int.from_bytes(hashlib.sha256(cause.encode()).digest()[16:24], "big") % 10**6
    created_at = milliseconds * 10**6 + rest
    facts: dict[str, Any] = {"request_type": entry.request_type, "state": entry.state.value}
    if entry.state is EntryState.SUPERSEDED:
        topic, facts["superseded_by"] = Topic.COMMAND_SUPERSEDED, entry.superseded_by
    elif entry.state is EntryState.CANCELLED:
        topic, facts["version"] = Topic.COMMAND_CANCELLED, FACTS_VERSION
        facts["handed_out"] = entry.handed_by is not None
    else:
        topic, facts["expires_at"] = Topic.COMMAND_EXPIRED, rfc3339_or_null(entry.expires_at)
    return Event(
        id=derived_id(cause, milliseconds),
        topic=topic,
        key=key,
        created_at=created_at,
        raw_payload=orjson.dumps(facts),
        writer=WRITER,
        number=created_at,
        command_uuid=entry.command_uuid,
    )
