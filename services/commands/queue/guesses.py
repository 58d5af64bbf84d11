"""Repetitions of a command that say something else than the command which has that CommandUUID.

Promise: who names somebody else's CommandUUID and guesses what its command says, a PIN for one, has ten
guesses an hour; then nothing about it is answered, right guesses included. Memory is bounded, and each
process counts for itself.
"""

from dataclasses import dataclass
from datetime import timedelta

import structlog

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.errors import TooManyRequests
from shared.ports.clock import Clock

log = structlog.get_logger()

MOST = 10
WINDOW = timedelta(hours=1)
REMEMBERED = 16_384
"""CommandUUIDs; the one that was named longest ago is forgotten first."""


@dataclass(slots=True)
class _Mismatches:
    since: float
    count: int = 0


class Guesses:
    """Counts mismatches by CommandUUID."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mismatches: BoundedCache[str, _Mismatches] = BoundedCache(REMEMBERED)

    def refuse_many(self, command_uuid: str, named: str) -> None:
        """Raises TooManyRequests while there were too many mismatches; called before any comparison.
        `named`: how the client names it."""
        found = self._current(command_uuid)
        if found is not None and found.count >= MOST:
            left = WINDOW - timedelta(seconds=self._clock.monotonic() - found.since)
            message = f"{named} was used with too many other commands"
            raise TooManyRequests(message, left)

    def note(self, command_uuid: str) -> None:
        """Count one mismatch."""
        found = self._current(command_uuid) or _Mismatches(self._clock.monotonic())
        found.count += 1
        self._mismatches.put(command_uuid, found)
        if found.count == MOST:
            log.warning("command_guesses_throttled", command_uuid=command_uuid)

    def _current(self, command_uuid: str) -> _Mismatches | None:
        found = self._mismatches.get(command_uuid)
        if found is None or self._clock.monotonic() - found.since >= WINDOW.total_seconds():
            return None
        return found
