"""Counts of what should not happen often, by key: each in a window of time that its first count begins."""

from datetime import timedelta

from shared.concurrency.bounded_cache import BoundedCache
from shared.ports.clock import Clock


class CountingWindow:
    """Promise: of `most_keys` keys at most, the key that was used longest ago is forgotten first."""

    def __init__(self, clock: Clock, length: timedelta, most_keys: int) -> None:
        self._clock = clock
        self._length = length.total_seconds()
        self._counts: BoundedCache[str, tuple[float, int]] = BoundedCache(most_keys)

    def add(self, key: str) -> int:
        """Count one more; the count of the key's window."""
        since, count = self._current(key)
        self._counts.put(key, (since, count + 1))
        return count + 1

    def count(self, key: str) -> int:
        return self._current(key)[1]

    def left(self, key: str) -> timedelta:
        """The time until the key's window ends."""
        since = self._current(key)[0]
        return timedelta(seconds=since + self._length - self._clock.monotonic())

    def _current(self, key: str) -> tuple[float, int]:
        now, found = self._clock.monotonic(), self._counts.get(key)
        return found if found is not None and now - found[0] < self._length else (now, 0)
