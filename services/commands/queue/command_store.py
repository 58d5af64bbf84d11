"""Stores commands before they get an entry, so that the janitor lets them be (docs/rules.md, rule 13).

Promise: what gets an entry was stored and touched by this process a little before. A command
for many devices, which may be large, is not sent to the store again for each piece of them.
"""

from collections.abc import Sequence
from datetime import timedelta

from services.commands.queue.submission import Submission
from shared.domain.command import Command
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue

TOUCHED_FOR = timedelta(minutes=10)
"""How long a command for many devices counts as touched."""
MOST_KNOWN = 100

LONGEST_FLUSH = timedelta(hours=1)
"""From here to having an entry. The janitor deletes what nobody touched for a day; a process that was
stopped for so long must not say yes."""


class Touches:
    """Remembers what was touched for many devices."""

    def __init__(self, queue: CommandQueue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._touched: dict[str, float] = {}

    async def store(self, submissions: Sequence[Submission]) -> None:
        """Store their commands, or see that they are stored."""
        now = self._clock.monotonic()
        wanted: dict[str, Command] = {}
        for submission in submissions:
            command = submission.prepared.command
            if submission.since is None or not self._is_touched(command, now):
                wanted[command.hash] = command
        if not wanted:
            return
        await self._queue.store(list(wanted.values()), self._clock.now())
        if len(self._touched) > MOST_KNOWN:
            self._touched.clear()
        for submission in submissions:
            if submission.since is not None and submission.prepared.command.hash in wanted:
                self._touched[submission.prepared.command.hash] = now

    def _is_touched(self, command: Command, now: float) -> bool:
        touched = self._touched.get(command.hash)
        return touched is not None and now - touched < TOUCHED_FOR.total_seconds()
