"""Jobs in memory."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from shared.domain.errors import StoreUnavailable
from shared.domain.job import Job, JobPart, JobState, Progress, part_id


class FakeJobs:
    """`is_away` makes every call fail; `loses_answers` makes those that add fail when they are done."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.parts: dict[str, JobPart] = {}
        self.is_away = False
        self.loses_answers = False

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # let others come between, as the network does
        if self.is_away:
            raise StoreUnavailable("away")

    async def add_parts(self, parts: Sequence[JobPart], at: datetime) -> None:
        await self._answer()
        for part in parts:
            self.parts.setdefault(part.id, part)

    async def add(self, job: Job) -> None:
        await self._answer()
        self.jobs.setdefault(job.id, job)
        if self.loses_answers:
            raise StoreUnavailable("the answer was lost")

    async def get(self, id: str) -> Job | None:
        await self._answer()
        return self.jobs.get(id)

    async def newest(self, before: str | None, limit: int) -> list[Job]:
        await self._answer()
        found = [job for job in self.jobs.values() if before is None or job.id < before]
        return sorted(found, key=lambda job: job.id, reverse=True)[:limit]

    async def running(self) -> list[Job]:
        await self._answer()
        found = [job for job in self.jobs.values() if job.state is JobState.RUNNING]
        return sorted(found, key=lambda job: job.id)

    async def part(self, job: str, number: int) -> JobPart | None:
        await self._answer()
        return self.parts.get(part_id(job, number))

    async def results(
        self, job: str, numbers: Sequence[int], *, refusals: bool = True
    ) -> list[JobPart]:
        await self._answer()
        found = [self.parts.get(part_id(job, number)) for number in sorted(numbers)]
        results = [replace(part, targets=()) for part in found if part is not None]
        return results if refusals else [replace(part, refusals=()) for part in results]

    async def finish_part(self, part: JobPart) -> None:
        await self._answer()
        there = self.parts.get(part.id)
        if there is not None and not there.is_done:
            self.parts[part.id] = replace(
                there, is_done=True, progress=part.progress, refusals=part.refusals
            )

    async def take(self, job: Job, owner: str) -> bool:
        await self._answer()
        there = self._running(job.id)
        if there is None or (there.owner, there.heartbeats) != (job.owner, job.heartbeats):
            return False
        self.jobs[job.id] = replace(there, owner=owner, heartbeats=there.heartbeats + 1)
        return True

    async def raise_heartbeat(self, job: str, owner: str, progress: Progress) -> bool:
        await self._answer()
        there = self._running(job)
        if there is None or there.owner != owner:
            return False
        self.jobs[job] = replace(there, heartbeats=there.heartbeats + 1, progress=progress)
        return True

    async def give_up(self, owner: str) -> None:
        await self._answer()
        for job in list(self.jobs.values()):
            if job.state is JobState.RUNNING and job.owner == owner:
                self.jobs[job.id] = replace(job, owner=None, heartbeats=job.heartbeats + 1)

    async def finish(
        self, job: str, progress: Progress, at: datetime, error: str | None = None
    ) -> None:
        await self._answer()
        there = self._running(job)
        if there is not None:
            state = JobState.FINISHED if error is None else JobState.FAILED
            self.jobs[job] = replace(
                there, state=state, progress=progress, finished_at=at, error=error
            )

    def _running(self, job: str) -> Job | None:
        there = self.jobs.get(job)
        return there if there is not None and there.state is JobState.RUNNING else None
