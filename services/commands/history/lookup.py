"""One command of one queue, looked up by any name of its enrollment, with its device's answers.

Promises: what is over has ended before it is shown (`services.commands.queue.reconcile`); NotFound says
whether the device or the command is unknown. An answer is the journaled event (docs/adr/0004) that made
the entry what it is, or the one that came too late; None where the device has not answered, or where the
journal has let go of the event.
"""

from dataclasses import dataclass
from datetime import timedelta

from services.commands.history.schemas import CommandOut, command_out
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.targets import Targets
from shared.apple.messages.connect import Status
from shared.domain.command import EntryState, QueueEntry, entry_id
from shared.domain.enrollment import Refusal
from shared.domain.errors import NotFound
from shared.domain.event import Event
from shared.ports.events import Journal
from shared.ports.pushes import Pushes
from shared.ports.queue import CommandQueue
from shared.times import EPOCH, nanoseconds

NEAR = timedelta(minutes=2)
"""An entry's `answered_at` and its event's time are two looks at the clock of one request."""
FAR = timedelta(days=1)
"""Unless the process was stopped in between, or the event was stamped behind a backlog by a clock
that is ahead (rule 8)."""

_STATUS = {
    EntryState.NOT_NOW: Status.NOT_NOW,
    EntryState.ACKNOWLEDGED: Status.ACKNOWLEDGED,
    EntryState.ERROR: Status.ERROR,
    EntryState.FORMAT_ERROR: Status.COMMAND_FORMAT_ERROR,
}


@dataclass(frozen=True, slots=True)
class CommandLookup:
    """Finds commands and shows them, as an administrator sees them. Raises NotFound, and Conflict for an
    ambiguous name."""

    queue: CommandQueue
    pushes: Pushes
    journal: Journal
    targets: Targets
    reconciler: Reconciler

    async def entry(self, name: str, command_uuid: str) -> QueueEntry:
        """Its entry as it is now."""
        target = await self.targets.one(name)
        found = await self.queue.entries_of([entry_id(target.key.id, command_uuid)])
        settled = await self.reconciler.current(list(found.values()))
        if settled:
            return settled[0]
        if not target.is_known:
            raise NotFound(f"udid: no device or user {name} is enrolled")
        raise NotFound(f"command_uuid: {name} has no command {command_uuid}")

    async def show(self, entry: QueueEntry) -> CommandOut:
        """An entry with all that is known beside it: pushes while it is open, and answers."""
        push = late = None
        if entry.state.is_open:
            push = (await self.pushes.load([entry.enrollment])).get(entry.enrollment)
        answer = await self._last_answer(entry)
        if entry.late_answer is not None:
            event_id = entry.late_answer.event_id
            late = (await self.journal.read([event_id])).get(event_id)
        return command_out(entry, answer, push, late, await self._last_refusal(entry))

    async def _last_answer(self, entry: QueueEntry) -> Event | None:
        if entry.answered_at is None:
            return None
        at, status = nanoseconds(entry.answered_at), _STATUS.get(entry.state)

        def unlikeliness(event: Event) -> tuple[bool, int]:
            """A device may answer NotNow and, a moment later, Acknowledged."""
            is_other = status is not None and event.status != status.value
            return is_other, abs(event.created_at - at)

        for reach in (NEAR, FAR):
            distance = nanoseconds(EPOCH + reach)
            if found := await self.journal.answers(entry, at - distance, at + distance):
                return min(found, key=unlikeliness)
        return None

    async def _last_refusal(self, entry: QueueEntry) -> Refusal | None:
        """The last one of a message of its device since its unanswered attempts began."""
        since = entry.first_handed_at
        if since is None:
            return None
        device = (await self.targets.enrollments.load([entry.device])).get(entry.device)
        refusals = device.refusals if device else ()
        return next((each for each in refusals if each.at >= since), None)
