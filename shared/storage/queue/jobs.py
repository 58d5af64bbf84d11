"""Collections `jobs` and `job_parts`: one command for many devices. Owner: commands.

A job has `running` exactly while it runs, so that index holds no history. Parts are stored before their
job, and leave by their age, also where the job was never stored."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from shared.chunks import chunked
from shared.domain.job import Job, JobPart, JobState, Progress, WarningCount, part_id
from shared.domain.versions import known
from shared.storage.database import Database, Document
from shared.storage.indexes import Index
from shared.storage.reads import find_by_id
from shared.storage.records import fields_of, given, record

NAME = "jobs"
PARTS = "job_parts"

PARTS_STAY = timedelta(days=2)
"""Parts stay longer than their finished job, since they are older than its end."""

INSERTED_TOGETHER = 10
"""Parts in one write; each has up to 50 KB."""


def indexes(retention: timedelta) -> tuple[Index, ...]:
    """`retention`: how long finished jobs stay."""
    return (
        Index(NAME, [("running", 1)], sparse=True),
        Index(NAME, [("finished_at", 1)], sparse=True, expire_after=retention),
        Index(PARTS, [("created_at", 1)], expire_after=retention + PARTS_STAY),
    )


class MongoJobs:
    """Implements `shared.ports.queue.Jobs`."""

    def __init__(self, database: Database) -> None:
        self._jobs = database.collection(NAME)
        self._parts = database.collection(PARTS)

    async def add_parts(self, parts: Sequence[JobPart], at: datetime) -> None:
        for chunk in chunked(parts, INSERTED_TOGETHER):
            await self._parts.insert_many(
                [
                    {
                        "_id": part.id,
                        "job": part.job,
                        "number": part.number,
                        "targets": list(part.targets),
                        "done": False,
                        "created_at": at,
                    }
                    for part in chunk
                ]
            )

    async def add(self, job: Job) -> None:
        document = fields_of(job)
        del document["progress"], document["error"]
        document |= {"terms": given(document["terms"]), **_progress_fields(job.progress)}
        if job.state is JobState.RUNNING:
            del document["finished_at"]
            document["running"] = True
        await self._jobs.insert_one(document)

    async def get(self, id: str) -> Job | None:
        found = await self._jobs.find_one({"_id": id})
        return _job(found) if found else None

    async def newest(self, before: str | None, limit: int) -> list[Job]:
        # This reads all kept jobs, which are few.
        query = {} if before is None else {"_id": {"$lt": before}}
        return [_job(d) for d in await self._jobs.find(query, sort=[("_id", -1)], limit=limit)]

    async def running(self) -> list[Job]:
        found = map(_job, await self._jobs.find({"running": True}))
        # A job in a state of a newer version is left to that version.
        running = [job for job in found if job.state is JobState.RUNNING]
        return sorted(running, key=lambda job: job.id)

    async def part(self, job: str, number: int) -> JobPart | None:
        found = await self._parts.find_one({"_id": part_id(job, number)})
        return _part(found) if found else None

    async def results(
        self, job: str, numbers: Sequence[int], *, refusals: bool = True
    ) -> list[JobPart]:
        ids = [part_id(job, number) for number in numbers]
        fields = {"targets": 0} if refusals else {"targets": 0, "refusals": 0}
        found = await find_by_id(self._parts, ids, fields)
        return sorted(map(_part, found.values()), key=lambda part: part.number)

    async def finish_part(self, part: JobPart) -> None:
        refusals = [fields_of(each) for each in part.refusals]
        await self._parts.update_one(
            {"_id": part.id, "done": False},
            {"$set": {"done": True, "refusals": refusals, **_progress_fields(part.progress)}},
        )

    async def take(self, job: Job, owner: str) -> bool:
        return 1 == await self._jobs.update_one(
            {"_id": job.id, "running": True, "owner": job.owner, "beats": job.heartbeats},
            {"$set": {"owner": owner}, "$inc": {"beats": 1}},
        )

    async def raise_heartbeat(self, job: str, owner: str, progress: Progress) -> bool:
        return 1 == await self._jobs.update_one(
            {"_id": job, "running": True, "owner": owner},
            {"$set": _progress_fields(progress), "$inc": {"beats": 1}},
        )

    async def give_up(self, owner: str) -> None:
        await self._jobs.update_many(
            {"running": True, "owner": owner}, {"$set": {"owner": None}, "$inc": {"beats": 1}}
        )

    async def finish(
        self, job: str, progress: Progress, at: datetime, error: str | None = None
    ) -> None:
        ended: Document = {
            "state": JobState.FINISHED.value,
            "finished_at": at,
            **_progress_fields(progress),
        }
        if error is not None:
            ended["error"] = error
        await self._jobs.update_one(
            {"_id": job, "running": True}, {"$set": ended, "$unset": {"running": ""}}
        )


def _progress_fields(progress: Progress) -> Document:
    return {
        "queued": progress.queued,
        "already_queued": progress.already_queued,
        "refused": progress.refused,
        # Not keyed by text: a text may have dots, which field names must not.
        "warnings": [
            {"text": text, "count": each.count, "targets": list(each.targets)}
            for text, each in progress.warnings.items()
        ],
    }


def _progress(document: Document) -> Progress:
    warnings = {
        each["text"]: WarningCount(each["count"], tuple(each["targets"]))
        for each in document.get("warnings", ())
    }
    return record(Progress, document, warnings=warnings)


def _job(document: Document) -> Job:
    # A failed job is stored as finished, with its error: the version before cannot read another state.
    state = JobState.FAILED if "error" in document else known(JobState, document["state"])
    return record(Job, document, state=state, progress=_progress(document))


def _part(document: Document) -> JobPart:
    return record(JobPart, document, progress=_progress(document))
