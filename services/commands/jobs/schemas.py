"""Jobs in the API: how far they are, and the targets they were refused for, in pages.

Promise: pages of refusals are of finished parts only, in the order of the targets, so that a page does not
change while the job goes on.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

from shared.chunks import chunked
from shared.domain.errors import unfit
from shared.domain.job import Job, JobState, RefusedTarget
from shared.ports.queue import Jobs
from shared.times import rfc3339, rfc3339_or_null
from shared.web.api.openapi import TIME, UDID, UUID, NoText, about, like, one_of
from shared.web.api.requests import MOST_OF_PAGE, PageSize, unlike

READ_TOGETHER = 8
JOB_ID = "0198f1d2-9b00-7c55-8f3a-52f1f6f0a0b7"
_CURSOR = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)
_EXPECTED = "the `next_cursor` of an answer before"


def _cursor(given: str) -> str:
    if len(given) > 64 or not given.isprintable():
        raise unlike(_EXPECTED)
    return given


class Page(BaseModel):
    """A part of something long: so many after the cursor, from the start without one."""

    limit: PageSize = 100
    cursor: Annotated[
        str | None, AfterValidator(_cursor), about("`next_cursor` of the page before.")
    ] = None


LARGEST_PAGE = Page(limit=MOST_OF_PAGE)

Count = Annotated[int, Field(ge=0)]


class JobWarning(TypedDict):
    text: Annotated[str, like("the device must be supervised")]
    count: Annotated[Count, like(1)]
    udids: Annotated[list[str], like([UDID])]


class JobOut(TypedDict):
    id: Annotated[str, like(JOB_ID)]
    command_uuid: Annotated[str, like(UUID)]
    request_type: Annotated[str, like("DeviceInformation")]
    caller: Annotated[str, like("api-key")]
    state: Annotated[str, one_of(JobState), like("finished")]
    total: Annotated[Count, about("Targets.", 3)]
    queued: Annotated[Count, about("Targets in whose queues it is by this job.", 2)]
    already_queued: Annotated[Count, about("Targets that had it from an earlier request.", 0)]
    refused_total: Annotated[Count, like(1)]
    warnings: Annotated[
        list[JobWarning], about("Each with the number of its targets, and the first few of them.")
    ]
    created_at: Annotated[str, like(TIME)]
    finished_at: Annotated[str | None, like("2026-01-02T03:04:06Z")]
    error: Annotated[NoText, about("Why it failed; `refused_total` has all others then.")]


class RefusedTargetOut(TypedDict):
    udid: Annotated[str, like("nobody")]
    error: Annotated[str, like("udid: no device or user nobody is enrolled")]


class JobDetails(JobOut):
    refused: list[RefusedTargetOut]
    next_cursor: NoText


class JobPage(TypedDict):
    jobs: list[JobOut]
    next_cursor: NoText


async def job_page(jobs: Jobs, page: Page) -> JobPage:
    """Jobs, newest first, without their refusals."""
    found = await jobs.newest(page.cursor or None, page.limit + 1)
    shown = found[: page.limit]
    more = shown[-1].id if len(found) > page.limit else None
    return {"jobs": [job_out(job) for job in shown], "next_cursor": more}


def job_out(job: Job) -> JobOut:
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
        "warnings": [
            {"text": text, "count": each.count, "udids": list(each.targets)}
            for text, each in job.progress.warnings.items()
        ],
        "created_at": rfc3339(job.created_at),
        "finished_at": rfc3339_or_null(job.finished_at),
        "error": job.error,
    }


async def job_with_refusals(jobs: Jobs, job: Job, page: Page = LARGEST_PAGE) -> JobDetails:
    """A job with a page of its refusals. Raises BadRequest for a cursor that is none of ours."""
    refusals, more = await _refusals(jobs, job, page)
    shown: list[RefusedTargetOut] = [{"udid": r.target, "error": r.error} for r in refusals]
    return {**job_out(job), "refused": shown, "next_cursor": more}


async def _refusals(jobs: Jobs, job: Job, page: Page) -> tuple[list[RefusedTarget], str | None]:
    """`cursor` is a part, and an index in it."""
    first = index = 0
    if page.cursor:
        match = _CURSOR.fullmatch(page.cursor)
        if match is None:
            raise unfit("cursor", _EXPECTED)
        first, index = int(match[1]), int(match[2])
    found: list[RefusedTarget] = []
    for numbers in chunked(range(first, job.parts), READ_TOGETHER):
        for part in await jobs.results(job.id, numbers):
            skipped = index if part.number == first else 0
            room = page.limit - len(found)
            rest = part.refusals[skipped:]
            if len(rest) > room:
                return found + list(rest[:room]), f"{part.number}.{skipped + room}"
            found += rest
    return found, None
