"""One command for many devices: stored first, then queued for one device after the other.

Promises: a job that was answered is durable, and is carried on by some process until each of its
targets has an entry or a reason why not; a crash, or two processes at once, queue nothing twice, since
a command that was accepted for a target since the job began is not queued again; single commands go between,
because a job's targets come in small pieces through the same batches; a store that is away, or a key
that is not here, is waited for; a job that can never be carried on fails, and no other with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

import structlog
from structlog.contextvars import bind_contextvars

from services.commands.history.long_poll import first, settle
from services.commands.jobs.tally import Tally, short
from services.commands.queue.priority import PIECE_LIMIT, PIECES_IN_FLIGHT
from services.commands.queue.service import LONGEST_FLUSH, QueueService
from shared.apple.request.plist import PreparedCommand, stored_keys
from shared.chunks import chunked
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import CannotDecrypt, MdmError, NotFound, Overtaken, Unavailable
from shared.domain.job import PART_SIZE, Job, JobPart
from shared.ports.clock import Clock, Ids
from shared.ports.queue import CommandQueue, Jobs
from shared.telemetry.metrics import Metrics
from shared.times import to_milliseconds

log = structlog.get_logger()

HEARTBEAT = timedelta(seconds=1)
STALE_AFTER = timedelta(seconds=15)
"""A running job without a heartbeat for so long has no worker."""
PACE = Pace(every=timedelta(seconds=5), after_failure=timedelta(seconds=5))
STEPS = Pace(every=HEARTBEAT, after_failure=HEARTBEAT)
"""The pause of one job after a failed step."""
READ_TOGETHER = 32


class JobWorker:
    """Takes jobs and works on them; `run` never ends by itself. `is_alone`: no other process works on this
    store."""

    def __init__(
        self,
        jobs: Jobs,
        queue: CommandQueue,
        queue_service: QueueService,
        clock: Clock,
        ids: Ids,
        metrics: Metrics,
        is_alone: bool = False,
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._queue_service = queue_service
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._is_alone = is_alone
        self._owner = ids.new()
        self._waiting_work: asyncio.Queue[tuple[Job, PreparedCommand | None]] = asyncio.Queue()
        self._working: dict[str, asyncio.Task[None]] = {}
        self._busy: set[str] = set()
        self._ended: dict[str, asyncio.Future[bool | None]] = {}
        self._seen: dict[str, tuple[str | None, int, float]] = {}
        """Owner and heartbeats of each running job, and since when they are so by our clock."""
        self._is_stopping = False

    # --- for the API

    async def start(self, prepared: PreparedCommand, caller: str) -> Job:
        """Store a job; it is worked on from here on. Raises BadRequest for one whose time is over,
        Unavailable where it must be repeated."""
        self._queue_service.check_expiry(prepared)
        job, touched_at = self._job(prepared, caller), self._clock.monotonic()
        await self._queue.store([prepared.command], self._clock.now())
        parts = [
            JobPart(job.id, number, tuple(targets))
            for number, targets in enumerate(chunked(prepared.targets, PART_SIZE))
        ]
        await self._jobs.add_parts(parts, job.created_at)
        await self._jobs.add(job)
        if self._clock.monotonic() - touched_at > LONGEST_FLUSH.total_seconds():
            raise Overtaken("the process was stopped while it stored the job")
        log.info("job_started", job=job.id, command_uuid=job.command_uuid, total=job.total)
        self._ended[job.id] = asyncio.get_running_loop().create_future()
        self._waiting_work.put_nowait((job, replace(prepared, terms=job.terms)))
        return job

    def _job(self, prepared: PreparedCommand, caller: str) -> Job:
        at = to_milliseconds(self._clock.now())
        return Job(
            id=self._ids.new(),
            command_uuid=prepared.command.uuid,
            command_hash=prepared.command.hash,
            request_type=prepared.command.request_type,
            terms=replace(prepared.terms, expires_at=prepared.terms.expiry(at), ttl=None),
            says_apple=prepared.says_apple,
            caller=caller,
            total=len(prepared.targets),
            created_at=at,
            owner=self._owner,
        )

    async def ended(self, job: str, within: timedelta, gone: Callable[[], Awaitable[None]]) -> None:
        """Returns once this process has done all it can for a job that it started, at the latest when the
        time is over, the client is `gone`, or the process ends."""
        ended = self._ended.get(job)
        if ended is not None and not self._is_stopping:
            await first(ended, self._clock.sleep(within), gone())

    # --- the work

    async def run(self, loops: Loops) -> None:
        """Work on jobs, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(
                loops.keep_doing("jobs", self._adopt, PACE, waits="jobs_not_looked_at")
            )
            while True:
                job, prepared = await self._waiting_work.get()
                if not self._is_stopping and job.id not in self._working:
                    work = group.create_task(self._work(job, prepared, loops))
                    self._working[job.id] = work

    def stop(self) -> None:
        """The process ends: calls stop waiting for jobs, and no piece of work is begun."""
        self._is_stopping = True
        for ended in self._ended.values():
            settle(ended, None)

    async def drain(self) -> None:
        """Finish the pieces under way, and let other processes carry on at once."""
        self.stop()
        for job, work in self._working.items():
            if job not in self._busy:  # it rests after a failure
                work.cancel()
        if self._working:
            await asyncio.wait(self._working.values())
        try:
            await self._jobs.give_up(self._owner)
        except Unavailable as exc:
            log.info("jobs_left_silently", error=str(exc))

    async def _work(self, job: Job, prepared: PreparedCommand | None, loops: Loops) -> None:
        bind_contextvars(job=job.id)  # names it in all that is logged from here on
        try:
            await loops.until_done("job", partial(self._step, job, prepared), STEPS, "job_waits")
        finally:
            self._working.pop(job.id, None)
            if ended := self._ended.pop(job.id, None):
                settle(ended, True)

    async def _step(self, job: Job, prepared: PreparedCommand | None) -> None:
        """Carry it on, or end it for an error that no repetition mends. All other errors are waited out, by
        this job alone: a store that is away, a key that an operator may bring back, a bug."""
        if self._is_stopping:
            return
        self._busy.add(job.id)
        try:
            await self._carry_on(job, prepared)
        except Unavailable:
            raise
        except MdmError as exc:
            error = short(str(exc))
            known, _ = await self._so_far(job)
            refused = job.total - known.queued - known.already_queued
            progress = replace(known.progress, refused=refused)
            await self._jobs.finish(job.id, progress, to_milliseconds(self._clock.now()), error)
            self._metrics.jobs_failed.inc()
            log.error("job_failed", error=error, queued=progress.queued, refused=refused)
        finally:
            self._busy.discard(job.id)

    async def _carry_on(self, job: Job, prepared: PreparedCommand | None) -> None:
        """Do the parts that are not done. Returns early when the job has another owner."""
        tally, open_parts = await self._so_far(job)
        if open_parts:
            piece = _Piece(
                job, prepared or await self._prepared(job), tally, self._clock.monotonic()
            )
            for number in open_parts:
                part = await self._jobs.part(job.id, number)
                if part is not None and not part.is_done and not await self._do_part(part, piece):
                    return
        whole, left = await self._so_far(job)
        if left:
            raise NotFound(
                f"{len(left)} of the {job.parts} parts of its targets are not stored any more"
            )
        await self._jobs.finish(job.id, whole.progress, to_milliseconds(self._clock.now()))
        log.info("job_finished", queued=whole.queued, refused=whole.refused)

    async def _so_far(self, job: Job) -> tuple[Tally, list[int]]:
        """The sum of the stored parts, and the numbers of those that are not done."""
        tally, done = Tally(), set()
        for numbers in chunked(range(job.parts), READ_TOGETHER):
            for part in await self._jobs.results(job.id, numbers, refusals=False):
                if part.is_done:
                    tally.add(part.progress)
                    done.add(part.number)
        return tally, [number for number in range(job.parts) if number not in done]

    async def _prepared(self, job: Job) -> PreparedCommand:
        """The command of a job that another process began. Raises NotFound, BadRequest, CannotDecrypt."""
        stored = (await self._queue.commands({job.command_hash})).get(job.command_hash)
        if stored is None:
            raise NotFound("its command is not stored any more")
        if stored.unreadable is not None:  # the job waits for a process that can read it
            raise CannotDecrypt(stored.unreadable)
        return PreparedCommand(
            targets=(),
            command=stored,
            response={},
            is_bulk=True,
            terms=job.terms,
            keys=stored_keys(stored),
            says_apple=job.says_apple,
        )

    async def _do_part(self, part: JobPart, piece: "_Piece") -> bool:
        """Queue for the targets of one part. False: the job is not ours any more, or we end."""
        tally = Tally()
        chunks = chunked(part.targets, PIECE_LIMIT)

        async def work() -> bool:
            for targets in chunks:
                if self._is_stopping or not await self._raise_heartbeat(piece, tally):
                    return False
                since = piece.job.created_at
                outcomes = await self._queue_service.enqueue_for(piece.prepared, targets, since)
                tally.count(targets, outcomes, since)
            return True

        # Not in a group: an error of one piece must not cut the others short.
        ends = await asyncio.gather(
            *(work() for _ in range(PIECES_IN_FLIGHT)), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        if not all(ends):
            return False
        await self._jobs.finish_part(tally.result(part))
        piece.tally.add(tally.progress)
        return True

    async def _raise_heartbeat(self, piece: "_Piece", part: Tally) -> bool:
        """Report now and then that we live. False: the job has another owner now."""
        if self._clock.monotonic() - piece.heartbeat_at < HEARTBEAT.total_seconds():
            return True
        piece.heartbeat_at = self._clock.monotonic()
        now = Tally()
        now.add(piece.tally.progress)
        now.add(part.progress)
        return await self._jobs.raise_heartbeat(piece.job.id, self._owner, now.progress)

    # --- jobs whose process is gone

    async def _adopt(self) -> None:
        """Take the jobs without a worker. One of ours among them was stored without our knowledge."""
        for job in self._left(await self._jobs.running(), self._clock.monotonic()):
            is_at_work = job.owner == self._owner and job.id in self._working
            if not self._is_stopping and not is_at_work and await self._jobs.take(job, self._owner):
                log.info("job_adopted", job=job.id)
                self._waiting_work.put_nowait((job, None))

    def _left(self, running: Sequence[Job], now: float) -> list[Job]:
        """The jobs whose owner is gone or ourselves, or whose heartbeat does not move. Silence is measured by
        our own clock, so that no other machine's clock decides."""
        before, self._seen = self._seen, {}
        for job in running:
            *seen, since = before.get(job.id, (None, -1, now))
            is_same = seen == [job.owner, job.heartbeats]
            self._seen[job.id] = job.owner, job.heartbeats, since if is_same else now
        return [
            job
            for job in running
            if self._is_alone
            or job.owner in (None, self._owner)
            or now - self._seen[job.id][2] >= STALE_AFTER.total_seconds()
        ]


@dataclass(slots=True)
class _Piece:
    """One pass over a job."""

    job: Job
    prepared: PreparedCommand
    tally: Tally
    heartbeat_at: float
