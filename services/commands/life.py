"""What stands in a queue, and how a client ends it.

Promises: a reader sees every open command of the device's present generation whose time is not over,
and ends the others for good before it leaves them out (docs/rules.md, rule 4); after the answer to a
clearing nothing that was open is handed out.
"""

import structlog

from services.commands.settling import Settling
from services.commands.targets import Targets
from shared.domain.command import Command
from shared.ports.queue import CommandQueue

log = structlog.get_logger()


class QueueLife:
    """Reads and clears queues by any id of an enrollment."""

    def __init__(self, queue: CommandQueue, targets: Targets, settling: Settling) -> None:
        self._queue = queue
        self._targets = targets
        self._settling = settling

    async def open_commands(self, name: str) -> list[Command]:
        """The open commands of an enrollment in queue order, none of an unknown one.

        Raises Conflict when the name is ambiguous."""
        target = await self._targets.one(name)
        places = await self._settling.settled(await self._queue.open_places(target.key))
        open_places = [place for place in places if place.state.is_open]
        commands = await self._queue.commands({place.command_hash for place in open_places})
        return [commands[p.command_hash] for p in open_places if p.command_hash in commands]

    async def clear(self, name: str) -> int:
        """End all open commands of an enrollment, those handed out and not answered included."""
        target = await self._targets.one(name)
        ended = await self._queue.cancel([target.key])
        log.info("queue_cleared", enrollment=target.key.id, commands=ended)
        return ended
