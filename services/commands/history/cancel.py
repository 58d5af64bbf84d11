"""Open commands of a queue, and how a client ends them.

Promises: a reader sees every open command of the device's present generation whose time is not over,
and ends the others for good before it leaves them out (docs/rules.md, rule 4); after the answer to a
clearing, or to a cancelling, nothing that was open is sent.
"""

from dataclasses import dataclass, replace

import structlog

from services.commands.queue.reconcile import Reconciler
from services.commands.queue.targets import Targets
from services.runtime.wanted_topics import WantedTopics
from shared.domain.command import RENEWAL_KEY, Command, EntryState, QueueEntry
from shared.domain.errors import Conflict, NotFound, OfNewerVersion, Overtaken
from shared.domain.event import Topic
from shared.domain.versions import is_known
from shared.ports.queue import CommandQueue

log = structlog.get_logger()

ATTEMPTS = 3
"""Looks of one cancelling at an entry that others keep changing."""


@dataclass(frozen=True, slots=True)
class OpenCommands:
    """Shows and ends the open commands of an enrollment, named by any of its ids. Raises Conflict when the
    name is ambiguous."""

    queue: CommandQueue
    targets: Targets
    reconciler: Reconciler
    wanted: WantedTopics

    async def of(self, name: str) -> list[Command]:
        """The open commands in queue order, none of an unknown enrollment. A command that renews the device's
        certificate comes without its property list, by which anyone could become the device."""
        target = await self.targets.one(name)
        entries = await self.reconciler.current(await self.queue.open_entries(target.key))
        open_entries = [entry for entry in entries if entry.state.is_open]
        commands = await self.queue.commands({entry.command_hash for entry in open_entries})
        return [
            replace(command, plist=b"") if entry.collapse_key == RENEWAL_KEY else command
            for entry in open_entries
            if (command := commands.get(entry.command_hash)) is not None
        ]

    @property
    def _is_asked(self) -> bool:
        return Topic.COMMAND_CANCELLED in self.wanted.now

    async def clear(self, name: str) -> int:
        """End all open commands of an enrollment, those sent and not answered included."""
        target = await self.targets.one(name)
        ended = await self.queue.cancel([target.key], with_event=self._is_asked)
        log.info("queue_cleared", enrollment=target.key.id, commands=ended)
        return ended

    async def cancel(self, entry: QueueEntry) -> QueueEntry:
        """End one open command; its entry then. Only after the end, when it is handed out no more, is it
        known whether the device has had it. One that is cancelled already may be a repetition whose first
        answer was lost. Raises Conflict where it has ended otherwise, NotFound where it is gone."""
        name = f"command_uuid: {entry.command_uuid}"
        there: QueueEntry | None = entry
        for _ in range(ATTEMPTS):
            if there is None:
                raise NotFound(f"command_uuid: there is no command {entry.command_uuid} any more")
            if there.state is EntryState.CANCELLED:
                return there
            if not is_known(there.state):
                raise OfNewerVersion(f"{name} is {there.state}, of a newer version")
            if not there.state.is_open:
                raise Conflict(f"{name} has ended already: {there.state.value}")
            is_cancelled = await self.queue.cancel_one(
                entry.enrollment, entry.command_uuid, with_event=self._is_asked
            )
            there = (await self.queue.entries_of([entry.id])).get(entry.id)
            if is_cancelled and there is not None:
                log.info(
                    "command_cancelled",
                    enrollment=entry.enrollment,
                    command_uuid=entry.command_uuid,
                    handed_out=there.handed_by is not None,
                )
                return there
        raise Overtaken("others keep changing this command")
