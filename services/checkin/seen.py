"""When each enrollment was last seen: kept in memory, written in batches (rule 15)."""

from datetime import datetime, timedelta

import structlog

from shared.domain.errors import Unavailable
from shared.ports import Clock, Enrollments

log = structlog.get_logger()

PAUSE = timedelta(seconds=5)
BATCH = 200


class LastSeen:
    """Collects the latest time of each enrollment; what a crash loses, the next contact brings."""

    def __init__(self, enrollments: Enrollments, clock: Clock) -> None:
        self._enrollments = enrollments
        self._clock = clock
        self._times: dict[str, datetime] = {}

    def note(self, enrollment: str, at: datetime) -> None:
        self._times[enrollment] = at

    async def run(self) -> None:
        """Write what was noted, every few seconds, until cancelled."""
        while True:
            await self._clock.sleep(PAUSE)
            try:
                await self.flush()
            except Unavailable as exc:
                log.warning("last_seen_waits", reason=str(exc))

    async def flush(self) -> None:
        while self._times:
            batch = dict(list(self._times.items())[:BATCH])
            await self._enrollments.seen(batch)
            for enrollment, at in batch.items():
                if self._times.get(enrollment) == at:
                    del self._times[enrollment]
