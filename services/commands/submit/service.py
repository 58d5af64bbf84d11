"""Answer a client that queues a command: at once, once its device has answered, or of a job.

Promises: an answer says yes only of what is durable; whoever asks to wait gets the plain answer at the
end of the time, marked `timed_out`, and at once when the process ends; what goes wrong after the command
was queued takes nothing away from the plain answer.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog
from fastapi import Request

from services.commands.history.long_poll import Waiting, read_wait, until_gone
from services.commands.history.lookup import CommandLookup, View
from services.commands.jobs.schemas import JobView
from services.commands.jobs.worker import JobWork
from services.commands.queue.limits import SizeLimits
from services.commands.queue.service import QueueService
from services.commands.queue.submission import Queued
from shared.apple.request.plist import PreparedCommand
from shared.domain.command import QueueEntry
from shared.domain.errors import Unavailable
from shared.domain.job import JobState
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe

log = structlog.get_logger()

JOB_PATIENCE = timedelta(seconds=10)
"""The answer waits so long for the end of a job, unless its client says."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Calls that wait for a command to end. `longest` is what a client may ask for."""

    waiting: Waiting
    lookup: CommandLookup
    longest: timedelta

    async def view(self, request: Request, name: str, command_uuid: str) -> View:
        """One command as it stands; where the request has `?wait=`, once it is final or the time is
        over. Raises NotFound, Conflict, TooManyRequests."""
        within = read_wait(request, self.longest)
        if within is None:
            return await self.lookup.one(name, command_uuid)
        with self.waiting.slot(request.state.caller.name):
            entry = await self.lookup.entry(name, command_uuid)
            if not entry.state.is_final:
                await self.final(request, entry, within)
        return await self.lookup.one(name, command_uuid)

    async def final(self, request: Request, entry: QueueEntry, within: timedelta) -> View | None:
        """The command once it is final, None when it was not in time, or cannot be read."""
        ended = await self.waiting.final(entry.id, within, partial(until_gone, request))
        if ended is None:
            return None
        try:
            return await self.lookup.view(ended)
        except Unavailable as exc:
            log.warning("answer_not_shown", command_uuid=entry.command_uuid, error=str(exc))
            return None


@dataclass(frozen=True, slots=True)
class Posting:
    """Answers the requests that queue commands."""

    queue_service: QueueService
    waits: Waits
    work: JobWork
    jobs: JobView
    sizes: SizeLimits

    async def queue(self, request: Request, prepared: PreparedCommand) -> JsonAnswer:
        """Queue a command for its target or targets."""
        describe(request, prepared.targets, prepared.command.request_type)
        self.sizes.check(prepared.command)
        within = read_wait(request, self.waits.longest)
        if within is None:
            return await self._answer(request, prepared, within)
        with self.waits.waiting.slot(request.state.caller.name):
            return await self._answer(request, prepared, within)

    async def _answer(
        self, request: Request, prepared: PreparedCommand, within: timedelta | None
    ) -> JsonAnswer:
        if prepared.is_bulk:
            return await self._job(request, prepared, within or JOB_PATIENCE)
        queued = await self.queue_service.enqueue(prepared)
        answer = _single(prepared, queued)
        if within is not None:
            view = await self.waits.final(request, queued.entry, within)
            if view is None:
                answer["timed_out"] = True
            else:
                answer["command"] = view.shown_to(request.state.caller)
        return JsonAnswer(answer, 201 if queued.is_new else 200)

    async def _job(
        self, request: Request, prepared: PreparedCommand, within: timedelta
    ) -> JsonAnswer:
        started = await self.work.start(prepared, request.state.caller.name)
        await self.work.ended(started.id, within, until_gone(request))
        try:
            job, shown = await self.jobs.current(started)
        except Unavailable as exc:
            log.warning("job_not_shown", job=started.id, error=str(exc))
            job, shown = started, self.jobs.brief(started)
        content = {"payload": prepared.response, "job": shown}
        return JsonAnswer(content, 202 if job.state is JobState.RUNNING else 201)


def _single(prepared: PreparedCommand, queued: Queued) -> dict[str, object]:
    answer: dict[str, object] = {"payload": prepared.response}
    if queued.warnings:
        answer["warnings"] = list(queued.warnings)
    return answer
