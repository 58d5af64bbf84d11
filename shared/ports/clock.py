"""Time and names."""

from datetime import datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall clock for what is stored and shown, monotonic clock for durations."""

    def now(self) -> datetime:
        """The time in UTC, with a timezone."""

    def time_ns(self) -> int:
        """The time in nanoseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds of a clock that never goes back."""

    async def sleep(self, duration: timedelta) -> None: ...


class Ids(Protocol):
    def new(self) -> str:
        """A UUIDv7 as text: later ids of one process sort after earlier ones."""
