"""The pauses of devices whose backlog cannot be published.

Promise: a device whose backlog cannot be published (an event is of a newer version, say, or the broker
refuses it) is tried less and less often, and after all others; however many such devices there are, no
other waits. A new message of the device changes nothing of that: it is behind what cannot be published."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from shared.domain.enrollment import Waiting
from shared.ports.clock import Clock

FIRST_PAUSE = timedelta(seconds=2)
LONGEST_PAUSE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Pause:
    length: timedelta
    until: float


class Backoff:
    """The devices that failed, each with its pause."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pauses: dict[str, _Pause] = {}

    def due(self, waiting: Mapping[str, Waiting]) -> list[str]:
        """The devices to try now: those that did not fail, the longest waiting one first, then the others by
        the end of their pause. Who waits no longer is forgotten."""
        self._pauses = {device: self._pauses[device] for device in self._pauses.keys() & waiting}
        now = self._clock.monotonic()
        fresh = [device for device in waiting if device not in self._pauses]
        failed = [device for device, pause in self._pauses.items() if pause.until <= now]
        return [
            *sorted(fresh, key=lambda device: waiting[device].since or 0),
            *sorted(failed, key=lambda device: self._pauses[device].until),
        ]

    def failed(self, device: str) -> None:
        """Twice as long a pause as the last time."""
        before = self._pauses.get(device)
        length = FIRST_PAUSE if before is None else min(before.length * 2, LONGEST_PAUSE)
        self._pauses[device] = _Pause(length, self._clock.monotonic() + length.total_seconds())

    def succeeded(self, device: str) -> None:
        self._pauses.pop(device, None)
