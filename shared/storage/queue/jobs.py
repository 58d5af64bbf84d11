"""Collections `jobs` and `job_parts`: one command for many devices. Owner: commands.

A job has `running` exactly while it runs, so the index of those holds no history. A part is named by its
job and number, so parts are read by `_id` and need no index but that of their age: they are stored
before their job, and those of a job that never came must leave too.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from shared.chunks import chunked
from shared.domain.command import Terms
from shared.domain.job import Job, JobPart, JobState, Progress, Refusal, WarningCount, part_id
from shared.domain.versions import known
from shared.storage.database import Database, Document
from shared.storage.indexes import Index

NAME = "jobs"
PARTS = "job_parts"

PARTS_STAY = timedelta(days=2)
"""Longer than a finished job: its parts are older than its end."""

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
            await self._parts.insert_many([_part_document(part, at) for part in chunk])

    async def add(self, job: Job) -> None:
        await self._jobs.insert_one(_job_document(job))

    async def get(self, id: str) -> Job | None:
        found = await self._jobs.find_one({"_id": id})
        return _job(found) if found else None

    async def newest(self, before: str | None, limit: int) -> list[Job]:
        # Reads all jobs that are kept, which are few beside everything else.
        query = {} if before is None else {"_id": {"$lt": before}}
        return [_job(d) for d in await self._jobs.find(query, sort=[("_id", -1)], limit=limit)]

    async def running(self) -> list[Job]:
        found = map(_job, await self._jobs.find({"running": True}))
        # One in a state of a newer version is left to that version.
        running = [job for job in found if job.state is JobState.RUNNING]
        return sorted(running, key=lambda job: job.id)

    async def part(self, job: str, number: int) -> JobPart | None:
        found = await self._parts.find_one({"_id": part_id(job, number)})
        return _part(found) if found else None

    async def part_results(self, job: str, numbers: Sequence[int]) -> list[JobPart]:
        return await self._read_parts(job, numbers, {"targets": 0})

    async def part_progress(self, job: str, numbers: Sequence[int]) -> list[JobPart]:
        return await self._read_parts(job, numbers, {"targets": 0, "refusals": 0})

    async def _read_parts(
        self, job: str, numbers: Sequence[int], fields: dict[str, int]
    ) -> list[JobPart]:
        ids = [part_id(job, number) for number in numbers]
        found = await self._parts.find({"_id": {"$in": ids}}, fields) if ids else []
        return sorted(map(_part, found), key=lambda part: part.number)

    async def finish_part(self, part: JobPart) -> None:
        refusals = [{"target": each.target, "error": each.error} for each in part.refusals]
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
        # Not a document by text: a text may have dots in it, which names of fields must not.
        "warnings": [
            {"text": text, "count": each.count, "targets": list(each.targets)}
            for text, each in progress.warnings.items()
        ],
    }


def _progress(document: Document) -> Progress:
    return Progress(
        queued=document.get("queued", 0),
        already_queued=document.get("already_queued", 0),
        refused=document.get("refused", 0),
        warnings={
            each["text"]: WarningCount(each["count"], tuple(each["targets"]))
            for each in document.get("warnings", ())
        },
    )


def _job_document(job: Job) -> Document:
    document: Document = {
        "_id": job.id,
        "command_uuid": job.command_uuid,
        "command": job.command_hash,
        "request_type": job.request_type,
        "terms": _terms_document(job.terms),
        "says_apple": job.says_apple,
        "caller": job.caller,
        "total": job.total,
        "created_at": job.created_at,
        "state": job.state.value,
        "owner": job.owner,
        "beats": job.heartbeats,
        **_progress_fields(job.progress),
    }
    if job.state is JobState.RUNNING:
        document["running"] = True
    else:
        document["finished_at"] = job.finished_at
    return document


def _state(document: Document) -> JobState:
    """One that failed is stored as finished, with its error: the version before cannot read another state."""
    return JobState.FAILED if "error" in document else known(JobState, document["state"])


def _terms_document(terms: Terms) -> Document:
    kept: dict[str, Any] = {
        "priority": terms.priority,
        "expires_at": terms.expires_at,
        "not_before": terms.not_before,
        "collapse_key": terms.collapse_key,
    }
    return {name: value for name, value in kept.items() if value is not None}


def _job(document: Document) -> Job:
    terms = document["terms"]
    return Job(
        id=document["_id"],
        command_uuid=document["command_uuid"],
        command_hash=document["command"],
        request_type=document["request_type"],
        terms=Terms(
            priority=terms.get("priority"),
            expires_at=terms.get("expires_at"),
            not_before=terms.get("not_before"),
            collapse_key=terms.get("collapse_key"),
        ),
        says_apple=document["says_apple"],
        caller=document["caller"],
        total=document["total"],
        created_at=document["created_at"],
        state=_state(document),
        owner=document["owner"],
        heartbeats=document["beats"],
        progress=_progress(document),
        finished_at=document.get("finished_at"),
        error=document.get("error"),
    )


def _part_document(part: JobPart, at: datetime) -> Document:
    return {
        "_id": part.id,
        "job": part.job,
        "number": part.number,
        "targets": list(part.targets),
        "done": False,
        "created_at": at,
    }


def _part(document: Document) -> JobPart:
    return JobPart(
        job=document["job"],
        number=document["number"],
        targets=tuple(document.get("targets", ())),
        is_done=document["done"],
        progress=_progress(document),
        refusals=tuple(
            Refusal(each["target"], each["error"]) for each in document.get("refusals", ())
        ),
    )
