"""Find the running jobs without a worker: those whose heartbeat does not move.

Promise: silence is measured by the clock of whoever looks, so no other machine's clock decides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from shared.domain.job import Job

STALE_AFTER = timedelta(seconds=15)
"""Without a heartbeat; by the clock of whoever looks."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """A job of somebody else, as it was when it last changed."""

    owner: str | None
    heartbeats: int
    at: float


class JobSights:
    """The looks of one process at running jobs. `is_alone`: no other process works on them."""

    def __init__(self, owner: str, is_alone: bool) -> None:
        self._owner = owner
        self._is_alone = is_alone
        self._sights: dict[str, _Sight] = {}

    def left(self, running: Iterable[Job], now: float) -> list[Job]:
        """The jobs without a worker; ours are among them."""
        jobs = list(running)
        self._sights = {job.id: self._sight(job, now) for job in jobs}
        return [job for job in jobs if self._is_left(job, now)]

    def _sight(self, job: Job, now: float) -> _Sight:
        before = self._sights.get(job.id)
        if before is not None and (before.owner, before.heartbeats) == (job.owner, job.heartbeats):
            return before
        return _Sight(job.owner, job.heartbeats, now)

    def _is_left(self, job: Job, now: float) -> bool:
        if job.owner in (None, self._owner) or self._is_alone:
            return True
        return now - self._sights[job.id].at >= STALE_AFTER.total_seconds()
