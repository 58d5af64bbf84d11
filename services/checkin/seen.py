"""When each enrollment was last seen: kept in memory, written in batches (rule 15)."""

from datetime import datetime, timedelta

from shared.domain.errors import Unavailable
from shared.pacing import Loops, Pace
from shared.ports.clock import Clock
from shared.ports.enrollments import Enrollments

PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=5))
BATCH = 200


class LastSeen:
    """Collects the latest time of each enrollment; what a crash loses, the next contact brings."""

    def __init__(self, enrollments: Enrollments, clock: Clock) -> None:
        self._enrollments = enrollments
        self._clock = clock
        self._times: dict[str, datetime] = {}

    def note(self, enrollment: str, at: datetime) -> None:
        self._times[enrollment] = at

    async def run(self, loops: Loops) -> None:
        """Write what was noted, every few seconds, until cancelled."""
        await loops.keep_doing("last_seen", self.flush, PACE, waits="last_seen_waits")

    async def flush(self) -> None:
        """Write what was noted up to now; what cannot be written is kept, unless newer was noted."""
        noted, self._times = self._times, {}
        times = list(noted.items())
        for start in range(0, len(times), BATCH):
            try:
                await self._enrollments.seen(dict(times[start : start + BATCH]))
            except Unavailable:
                self._times = dict(times[start:]) | self._times
                raise
