"""A circuit breaker for something that did not answer in time."""

from datetime import timedelta

from shared.ports.clock import Clock

FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=30)


class Breaker:
    """Closed until the first `trip`: then nothing is tried for a pause, and after it one thing alone. Each
    further miss doubles the pause. An answer, however late, closes it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.pause = timedelta()
        self.is_probing = False
        self._due_at = 0.0

    @property
    def is_open(self) -> bool:
        return self.pause > timedelta()

    @property
    def refuses(self) -> bool:
        """True while nothing may be tried: within the pause, or while a probe is under way."""
        return self.is_open and (self.is_probing or self._clock.monotonic() < self._due_at)

    def probe(self) -> None:
        """One thing is tried: nothing else until it is answered, missed or given up."""
        self.is_probing = True

    def give_up_probe(self) -> None:
        """Its outcome will never be known; the next one may start."""
        self.is_probing = False

    def trip(self, longest: timedelta = LONGEST_PAUSE) -> bool:
        """Note that it did not answer. False within a pause: that was known."""
        if self.refuses and not self.is_probing:
            return False
        self.pause = min(max(self.pause * 2, FIRST_PAUSE), longest)
        self._due_at = self._clock.monotonic() + self.pause.total_seconds()
        self.is_probing = False
        return True

    def close(self) -> None:
        self.pause = timedelta()
        self.is_probing = False
