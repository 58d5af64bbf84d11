"""Jobs as JSON: how far they are, and whom they did not queue for, in pages.

Promise: pages of refusals are of finished parts only, in the order of the targets, so that a page that
was read stays as it is while the job goes on.
"""

import re
from dataclasses import dataclass
from typing import Any

from shared.domain.errors import NotFound, unfit
from shared.domain.job import Job, Progress, RefusedTarget
from shared.ports.queue import Jobs
from shared.times import rfc3339, rfc3339_or_null

Shown = dict[str, Any]

MOST = 1000
"""Refusals, or jobs, in one answer."""
USUAL = 100
READ_TOGETHER = 8
_CURSOR = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    """What to show of something long: so many after the cursor, from the start without one."""

    limit: int = USUAL
    cursor: str | None = None


class JobView:
    """Reads and shows jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def current(self, job: Job) -> tuple[Job, Shown]:
        """A job as it is now, with its first refusals."""
        now = await self._jobs.get(job.id) or job
        return now, await self._whole(now, Page(MOST))

    async def one(self, id: str, page: Page) -> Shown:
        """A job with a page of its refusals. Raises NotFound, and BadRequest for a cursor that
        nobody gave."""
        job = await self._jobs.get(id)
        if job is None:
            raise NotFound(f"job: there is no job {id}")
        return await self._whole(job, page)

    async def newest(self, page: Page) -> Shown:
        """Jobs, newest first, without their refusals."""
        found = await self._jobs.newest(page.cursor, page.limit + 1)
        shown = found[: page.limit]
        more = shown[-1].id if len(found) > page.limit else None
        return {"jobs": [self.brief(job) for job in shown], "next_cursor": more}

    def brief(self, job: Job) -> Shown:
        """All but the refusals; the counts are as of the job's last heartbeat."""
        return {
            "id": job.id,
            "command_uuid": job.command_uuid,
            "request_type": job.request_type,
            "caller": job.caller,
            "state": job.state.value,
            "total": job.total,
            "queued": job.progress.queued,
            "already_queued": job.progress.already_queued,
            "refused_total": job.progress.refused,
            "warnings": _warnings(job.progress),
            "created_at": rfc3339(job.created_at),
            "finished_at": rfc3339_or_null(job.finished_at),
            "error": job.error,
        }

    async def _whole(self, job: Job, page: Page) -> Shown:
        refusals, more = await self._refusals(job, page)
        shown = [{"udid": each.target, "error": each.error} for each in refusals]
        return {**self.brief(job), "refused": shown, "next_cursor": more}

    async def _refusals(self, job: Job, page: Page) -> tuple[list[RefusedTarget], str | None]:
        first, index = _position(page.cursor)
        found: list[RefusedTarget] = []
        for start in range(first, job.parts, READ_TOGETHER):
            numbers = range(start, min(start + READ_TOGETHER, job.parts))
            for part in await self._jobs.part_results(job.id, numbers):
                skipped = index if part.number == first else 0
                room = page.limit - len(found)
                rest = part.refusals[skipped:]
                if len(rest) > room:
                    return found + list(rest[:room]), f"{part.number}.{skipped + room}"
                found += rest
        return found, None


def _position(cursor: str | None) -> tuple[int, int]:
    """Part, and index in it."""
    if cursor is None:
        return 0, 0
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        expected = "the `next_cursor` of an answer before"
        raise unfit("cursor", expected)
    return int(match[1]), int(match[2])


def _warnings(progress: Progress) -> list[Shown]:
    return [
        {"text": text, "count": each.count, "udids": list(each.targets)}
        for text, each in progress.warnings.items()
    ]
