"""One command of one queue, looked up by any name of its enrollment.

Promises: what is over has ended before it is shown (`services.commands.queue.reconcile`); NotFound says
whether it is the device or the command that nobody knows.
"""

from dataclasses import dataclass

from services.commands.history.results import Answers
from services.commands.history.schemas import CommandOut, command_out, without_secrets
from services.commands.queue.reconcile import Reconciler
from services.commands.queue.targets import Target, Targets
from shared.domain.access import Caller, Scope
from shared.domain.command import QueueEntry, entry_id
from shared.domain.enrollment import Refusal
from shared.domain.errors import NotFound
from shared.ports.pushes import Pushes
from shared.ports.queue import CommandQueue


@dataclass(frozen=True, slots=True)
class View:
    """A command as it stands: `whole` is the JSON of the API, as an administrator sees it."""

    entry: QueueEntry
    whole: CommandOut

    def shown_to(self, caller: Caller) -> CommandOut:
        """The JSON of the API for this caller."""
        return self.whole if caller.may(Scope.ADMIN) else without_secrets(self.whole)


class CommandLookup:
    """Finds commands and shows them."""

    def __init__(
        self,
        queue: CommandQueue,
        pushes: Pushes,
        answers: Answers,
        targets: Targets,
        reconciler: Reconciler,
    ) -> None:
        self._queue = queue
        self._pushes = pushes
        self._answers = answers
        self._targets = targets
        self._reconciler = reconciler

    async def one(self, name: str, command_uuid: str) -> View:
        """A command as it stands. Raises NotFound, and Conflict for an ambiguous name."""
        return await self.view(await self.entry(name, command_uuid))

    async def entry(self, name: str, command_uuid: str) -> QueueEntry:
        """Its entry, as it stands. Raises NotFound, and Conflict for an ambiguous name."""
        target = await self._targets.one(name)
        found = await self._queue.entries_of([entry_id(target.key.id, command_uuid)])
        settled = await self._reconciler.current(list(found.values()))
        if not settled:
            raise _not_found(target, name, command_uuid)
        return settled[0]

    async def view(self, entry: QueueEntry) -> View:
        """An entry with all that is known beside it: pushes while it is open, and answers."""
        push = None
        if entry.state.is_open:
            push = (await self._pushes.load([entry.enrollment])).get(entry.enrollment)
        answer, late = await self._answers.last(entry), await self._answers.late(entry)
        refusal = await self._last_refusal(entry)
        return View(entry, command_out(entry, answer, push, late, refusal))

    async def _last_refusal(self, entry: QueueEntry) -> Refusal | None:
        """The last one of a message of its device since its unanswered attempts began."""
        since = entry.first_handed_at
        if since is None:
            return None
        device = (await self._targets.devices([entry.device])).get(entry.device)
        later = [each for each in (device.refusals if device else ()) if each.at >= since]
        return later[0] if later else None


def _not_found(target: Target, name: str, command_uuid: str) -> NotFound:
    if not target.is_known:
        return NotFound(f"udid: no device or user {name} is enrolled")
    return NotFound(f"command_uuid: {name} has no command {command_uuid}")
