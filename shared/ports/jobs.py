"""Commands for many devices, and commands whose time is over (owner: commands)."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from shared.domain.command import QueueEntry
from shared.domain.job import Job, JobPart, Progress


class Jobs(Protocol):
    """A job is there once `add` has returned; parts that no job names leave by themselves."""

    async def add_parts(self, parts: Sequence[JobPart], at: datetime) -> None:
        """Store parts, before their job. Safe to repeat."""

    async def add(self, job: Job) -> None:
        """Store a job, whose parts are stored. Safe to repeat."""

    async def get(self, id: str) -> Job | None: ...

    async def newest(self, before: str | None, limit: int) -> list[Job]:
        """The newest jobs, newest first; those whose id sorts before `before`."""

    async def running(self) -> list[Job]:
        """Jobs that are not finished, oldest first."""

    async def part(self, job: str, number: int) -> JobPart | None:
        """One part with everything."""

    async def part_results(self, job: str, numbers: Sequence[int]) -> list[JobPart]:
        """These parts, in order, without their targets."""

    async def part_progress(self, job: str, numbers: Sequence[int]) -> list[JobPart]:
        """These parts, in order, without their targets and refusals."""

    async def finish_part(self, part: JobPart) -> None:
        """Keep what became of a part's targets. Two who did it keep one of their results."""

    async def take(self, job: Job, owner: str) -> bool:
        """Make somebody the owner, on condition that `owner` and `heartbeats` are as in `job`, and that it
        runs."""

    async def raise_heartbeat(self, job: str, owner: str, progress: Progress) -> bool:
        """Say that its owner lives, and how far it is. False: it is not the owner any more, or the
        job is finished."""

    async def give_up(self, owner: str) -> None:
        """Nobody works on this owner's jobs from here on, so that others take them at once."""

    async def finish(
        self, job: str, progress: Progress, at: datetime, error: str | None = None
    ) -> None:
        """All parts are done, or it failed with this error. On condition that it runs: a second time
        changes nothing."""


class Expiries(Protocol):
    def overdue(self, at: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Open entries whose time is over, a page at a time."""

    async def expire(self, entries: Sequence[QueueEntry], at: datetime) -> dict[str, QueueEntry]:
        """End entries as EXPIRED, each on condition that it is open, of an order seen, and overdue by
        then; what is there then, by id. What ended so is `unpublished` from then on."""

    def unpublished(self, before: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Entries that expired, or were superseded, before a time and whose event is not safe yet, a page
        at a time."""

    async def is_unpublished(self, entry: QueueEntry) -> bool:
        """Whether this entry expired or was superseded, was not queued anew since, and its event is not
        safe yet."""

    async def published(self, entries: Sequence[QueueEntry]) -> None:
        """Their events are safe."""
