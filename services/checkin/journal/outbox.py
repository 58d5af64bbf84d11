"""Publish the outbox: events that are stored with the change of a device that they report.

None of them is lost. Each is journaled, behind what waits of its device, and published, always with the same
id and the same bytes, until the broker or the relay has it, and removed only then. Those of one device go one
after the other, in the order in which its record kept them. Every replica works on its share of the
partitions; if two do the same for a moment, subscribers see one event twice."""

from collections.abc import Sequence
from datetime import timedelta

from shared.chunks import chunked
from shared.concurrency.partitions import Share
from shared.concurrency.periodic import Loops, Pace
from shared.concurrency.publishing import journal_behind, publish_behind
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments
from shared.ports.events import EventPublisher, Journal
from shared.ports.identities import Identities, Outgoing

PACE = Pace(every=timedelta(seconds=2), after_failure=timedelta(seconds=10))
CHUNK = 32
KEPT_FOR = timedelta(seconds=30)
"""For so long after it was first read here, on our monotonic clock, an event that follows from a message is
left to the process that handles the message, so that it comes behind the message's own; of a process that
died, the take-over has marked that by then."""
WRITER = "checkin-notices"
"""The writer of these events. It journals no device messages, so it is never taken over (rule 7)."""


class Outbox:
    """Runs in every replica of check-in; the share is kept by the relay."""

    def __init__(
        self,
        identities: Identities,
        enrollments: Enrollments,
        journal: Journal,
        publisher: EventPublisher,
        share: Share,
        clock: Clock,
    ) -> None:
        self._identities = identities
        self._enrollments = enrollments
        self._journal = journal
        self._publisher = publisher
        self._share = share
        self._clock = clock
        self._since: dict[str, float] = {}
        """When this process first read each event, by its id, that it left to another."""

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("notices", self.look, PACE, waits="notices_wait")

    async def look(self) -> None:
        """One pass over the outbox events of this replica's share. Raises Unavailable."""
        partitions = self._share.partitions
        if not partitions:
            return
        due = self._due(await self._identities.outbox(partitions))
        while due:
            first = {each.device.device: each for each in reversed(due)}
            safe = set[str]()
            for chunk in chunked([*first.values()], CHUNK):
                done = await self._publish(chunk)
                await self._identities.published([e for e in chunk if e.outbox_event.id in done])
                safe |= done
            # What is journaled is in reach of the relay, so the next one of a device waits until it is safe.
            going = {device for device, each in first.items() if each.outbox_event.id in safe}
            due = [e for e in due if e.device.device in going and e.outbox_event.id not in safe]

    def _due(self, found: Sequence[Outgoing]) -> list[Outgoing]:
        """Those that are not left to another process, nor behind such a one of their device or of a channel
        of it; earliest first."""
        now, known = self._clock.monotonic(), self._since
        following = [each.outbox_event.id for each in found if each.outbox_event.follows]
        self._since = {id_: known.get(id_, now) for id_ in following}
        before = now - KEPT_FOR.total_seconds()
        due, left = [], set[str]()
        for each in sorted(found, key=lambda each: each.outbox_event.created_at):
            if self._since.get(each.outbox_event.id, before) > before:
                left.add(each.device.device)
            if each.device.device not in left:
                due.append(each)
        return due

    async def _publish(self, outgoing: Sequence[Outgoing]) -> set[str]:
        """Returns the ids of the events that are safe. A user channel has its device's mark."""
        term = self._journal.term
        devices = {each.device.device for each in outgoing}
        records = await self._enrollments.load(devices, secrets=False)
        backlogs = {id_: record.waiting for id_, record in records.items()}
        events = [each.outbox_event.event(each.device.key, WRITER) for each in outgoing]
        journaled = await journal_behind(self._journal, events, backlogs, term)
        return await publish_behind(self._publisher, self._enrollments, journaled, backlogs)
