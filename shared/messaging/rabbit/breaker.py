"""A circuit breaker for something that did not answer in time.

Promises: after a miss nothing is tried for a pause, then one thing alone; each further miss doubles the
pause, up to LONGEST_PAUSE; an answer, however late, ends it.
"""

from datetime import timedelta

from shared.ports.clock import Clock

FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=30)


class Breaker:
    """Closed until the first `trip`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pause = timedelta()
        self._due_at = 0.0
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        return self._pause > timedelta()

    @property
    def is_probing(self) -> bool:
        return self._is_probing

    @property
    def refuses(self) -> bool:
        """True while nothing may be tried: within the pause, or while a probe is under way."""
        return self.is_open and (self._is_probing or self._clock.monotonic() < self._due_at)

    def probe(self) -> None:
        """One thing is tried: nothing else until it is answered, missed or given up."""
        self._is_probing = True

    def give_up_probe(self) -> None:
        """Nobody will know what became of the probe; the next one may start."""
        self._is_probing = False

    def trip(self) -> bool:
        """It did not answer. False within a pause: that was known."""
        if self.refuses and not self._is_probing:
            return False
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._due_at = self._clock.monotonic() + self._pause.total_seconds()
        self._is_probing = False
        return True

    def close(self) -> None:
        self._pause = timedelta()
        self._is_probing = False
