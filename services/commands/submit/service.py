"""Answer a client that queues a command: at once, once its device has answered, or of a job.

Promises: an answer says yes only of what is durable; a client that asks to wait gets the plain answer at the
end of the time, marked `timed_out`, and at once when the process ends; what goes wrong after the command
was queued takes nothing away from the plain answer.
"""

import hashlib
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from services.commands.history.long_poll import LongPoll, read_wait
from services.commands.history.lookup import CommandLookup
from services.commands.history.schemas import CommandOut, shown_to
from services.commands.jobs.schemas import job_out, job_with_refusals
from services.commands.jobs.worker import JobWorker
from services.commands.queue.service import QueueService
from shared.apple.request.plist import PreparedCommand
from shared.domain.access import Caller
from shared.domain.command import QueueEntry
from shared.domain.errors import TooLarge, Unavailable, unfit
from shared.domain.job import JobState
from shared.ports.queue import Jobs

log = structlog.get_logger()

JOB_PATIENCE = timedelta(seconds=10)
"""The answer waits so long for the end of a job, unless its client says."""
SIZE_SETTING = "MDM_MAX_COMMAND_SIZE"
IDEMPOTENCY_KEY = "Idempotency-Key"
_NAMESPACE = uuid.UUID("5b0f6c3e-93d4-4c0e-8a7c-0d5e6a1f7b29").bytes
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")

Answer = tuple[dict[str, object], int]
"""The content, and the status."""
Gone = Callable[[], Awaitable[None]]
"""Returns when the client has closed its connection."""


@dataclass(frozen=True, slots=True)
class SubmitService:
    """Answers the requests that queue commands. `max_size`: most bytes of a command as a property list."""

    queue_service: QueueService
    lookup: CommandLookup
    poll: LongPoll
    worker: JobWorker
    jobs: Jobs
    max_size: int

    async def submit(
        self, prepared: PreparedCommand, caller: Caller, wait: str | None, gone: Gone
    ) -> Answer:
        """Queue a command for its target or targets; `wait` is the client's `?wait=`."""
        size = len(prepared.command.plist)
        if size > self.max_size:
            raise TooLarge(
                f"the command has {size} bytes as a property list, and at most "
                f"{self.max_size} are taken ({SIZE_SETTING})"
            )
        within = read_wait(wait, self.poll.longest)
        if within is None:
            return await self._answer(prepared, caller, None, gone)
        with self.poll.slot(caller.name):
            return await self._answer(prepared, caller, within, gone)

    async def _answer(
        self, prepared: PreparedCommand, caller: Caller, within: timedelta | None, gone: Gone
    ) -> Answer:
        content: dict[str, object] = {"payload": prepared.response}
        if prepared.is_bulk:
            started = await self.worker.start(prepared, caller.name)
            await self.worker.ended(started.id, within or JOB_PATIENCE, gone)
            try:
                job = await self.jobs.get(started.id) or started
                content["job"] = await job_with_refusals(self.jobs, job)
            except Unavailable as exc:
                log.warning("job_not_shown", job=started.id, error=str(exc))
                job, content["job"] = started, job_out(started)
            return content, 202 if job.state is JobState.RUNNING else 201
        queued = await self.queue_service.enqueue(prepared)
        if queued.warnings:
            content["warnings"] = list(queued.warnings)
        if within is not None:
            command = await self._final(queued.entry, within, gone)
            if command is None:
                content["timed_out"] = True
            else:
                content["command"] = shown_to(caller, command)
        return content, 201 if queued.is_new else 200

    async def _final(self, entry: QueueEntry, within: timedelta, gone: Gone) -> CommandOut | None:
        """The command once it is final, None when it was not in time, or cannot be read."""
        ended = await self.poll.final(entry.id, within, gone)
        try:
            return None if ended is None else await self.lookup.show(ended)
        except Unavailable as exc:
            log.warning("answer_not_shown", command_uuid=entry.command_uuid, error=str(exc))
            return None


def uuid_by_key(keys: Sequence[str], caller: str) -> str | None:
    """The CommandUUID of a request with this `Idempotency-Key`, None without one.

    The key becomes the CommandUUID, so what makes a repeated `command_uuid` safe (docs/rules.md, rule 5)
    makes the key safe, for as long and with nothing more to store: the same command again is answered as
    the first time, another one for the same device is a conflict. For another device it is another request,
    since each device has a queue of its own. The header is that of draft-ietf-httpapi-idempotency-key-header,
    with any printable text as its value. Raises BadRequest for a key that cannot be one."""
    if not keys:
        return None
    if len(keys) > 1 or not _PRINTABLE.fullmatch(keys[0]):
        raise unfit(IDEMPOTENCY_KEY, "once, 1 to 255 printable characters of ASCII")
    return uuid_of_key(keys[0], caller)


def uuid_of_key(key: str, caller: str) -> str:
    """A UUID of version 8 (RFC 9562), made of a hash of caller and key: the same for one key over all
    replicas and versions, never the same for two callers."""
    parts = (part.encode() for part in (caller, key))
    named = b"".join(len(part).to_bytes(4) + part for part in parts)
    digest = bytearray(hashlib.sha256(_NAMESPACE + named).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))
