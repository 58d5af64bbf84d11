"""The answers of devices to commands, found again in the journal (docs/adr/0004).

Promises: the answer that made the entry what it is, or the one that came too late; None where the
device has not answered, or where the journal has let go of the event.
"""

from datetime import timedelta

from shared.apple.messages.connect import Status
from shared.domain.command import EntryState, QueueEntry
from shared.domain.event import Event
from shared.ports.events import Journal
from shared.times import EPOCH, nanoseconds

NEAR = timedelta(minutes=2)
"""An entry's `answered_at` and its event's time are two looks at the clock of one request."""
FAR = timedelta(days=1)
"""Unless the process was stopped in between, or the event was stamped behind a backlog by a clock
that is ahead (rule 8)."""

_SAID = {
    EntryState.NOT_NOW: Status.NOT_NOW,
    EntryState.ACKNOWLEDGED: Status.ACKNOWLEDGED,
    EntryState.ERROR: Status.ERROR,
    EntryState.FORMAT_ERROR: Status.COMMAND_FORMAT_ERROR,
}


class Answers:
    """Reads answers."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def last(self, entry: QueueEntry) -> Event | None:
        """The event of the answer at `answered_at`."""
        if entry.answered_at is None:
            return None
        at = nanoseconds(entry.answered_at)
        for reach in (NEAR, FAR):
            distance = nanoseconds(EPOCH + reach)
            found = await self._journal.answers(entry, at - distance, at + distance)
            if found:
                return min(found, key=lambda event: _unlikeliness(event, entry, at))
        return None

    async def late(self, entry: QueueEntry) -> Event | None:
        """The event of the answer that came after the end."""
        if entry.late_answer is None:
            return None
        event_id = entry.late_answer.event_id
        return (await self._journal.read([event_id])).get(event_id)


def _unlikeliness(event: Event, entry: QueueEntry, at: int) -> tuple[bool, int]:
    """A device may answer NotNow and, a moment later, Acknowledged."""
    said = _SAID.get(entry.state)
    return said is not None and event.status != said.value, abs(event.created_at - at)
