"""What stands in a queue, and how a client ends it.

Promises: a reader sees every open command of the device's present generation, and ends what is left
of past ones for good before it leaves them out (docs/rules.md, rule 4), so that what one reader saw
as ended never comes back; after the answer to a clearing nothing that was open is handed out.
"""

import structlog

from services.commands.targets import Targets, is_stale
from shared.domain.command import Command, Place
from shared.ports.queue import CommandQueue

log = structlog.get_logger()


class QueueLife:
    """Reads and clears queues by any id of an enrollment."""

    def __init__(self, queue: CommandQueue, targets: Targets) -> None:
        self._queue = queue
        self._targets = targets

    async def open_commands(self, name: str) -> list[Command]:
        """The open commands of an enrollment in queue order, none of an unknown one.

        Raises Conflict when the name is ambiguous."""
        target = await self._targets.one(name)
        places = await self._queue.open_places(target.key)
        if not places:
            return []
        # The generation after the places, never before: else a place that was queued after a new
        # Authenticate would be held against the generation before it.
        device = (await self._targets.devices({target.key.device})).get(target.key.device)
        places = await self.without_stale(places, device.generation if device else None)
        commands = await self._queue.commands({place.command_hash for place in places})
        return [commands[p.command_hash] for p in places if p.command_hash in commands]

    async def without_stale(self, places: list[Place], generation: str | None) -> list[Place]:
        """End those of a past generation; all that are open then, in the order given."""
        open_places = []
        for place in places:
            there: Place | None = place
            if is_stale(place, generation):
                there = await self._queue.drop(place)
            if there is not None and there.state.is_open:
                open_places.append(there)
        return open_places

    async def clear(self, name: str) -> int:
        """End all open commands of an enrollment, those handed out and not answered included."""
        target = await self._targets.one(name)
        ended = await self._queue.cancel([target.key])
        log.info("queue_cleared", enrollment=target.key.id, commands=ended)
        return ended
