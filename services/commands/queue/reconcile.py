"""End entries that are over before a reader sees them.

Promises: an open entry of a past generation ends, and one whose time is over ends as expired, in the store;
the reader sees the entry as it is then (docs/rules.md, rule 4). An entry that one reader saw ended never
comes back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.commands.queue.targets import Targets, is_stale
from shared.domain.command import QueueEntry
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue, Expiries


@dataclass(frozen=True, slots=True)
class Reconciler:
    queue: CommandQueue
    expiries: Expiries
    targets: Targets
    clock: Clock

    async def current(self, entries: Sequence[QueueEntry]) -> list[QueueEntry]:
        """These entries as they are now, in the order given; without those that are gone."""
        devices = {entry.device for entry in entries if entry.state.is_open}
        if not devices:
            return list(entries)
        # The generation after the entries, never before: an entry that was queued after a new Authenticate
        # would be compared with the generation before it.
        known = await self.targets.devices(devices)
        found = []
        for entry in entries:
            device = known.get(entry.device)
            there = await self.current_one(entry, device.generation if device else None)
            if there is not None:
                found.append(there)
        return found

    async def current_one(self, entry: QueueEntry, generation: str | None) -> QueueEntry | None:
        """One entry as it is now; None if it is gone. `generation` is that of its device, read after the
        entry."""
        if not entry.state.is_open:
            return entry
        if is_stale(entry, generation):
            return await self.queue.drop(entry)
        if entry.is_expired(at := self.clock.now()):
            return (await self.expiries.expire([entry], at)).get(entry.id)
        return entry
