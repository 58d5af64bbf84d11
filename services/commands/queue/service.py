"""Accept commands: store them, and put them into queues.

Promises: an answer means that the command is durable and will be sent to its device, in the present
generation of the device (docs/rules.md, rule 4). The same command under the same CommandUUID is a safe retry
while it is open, and for the retry window if the device ended it; otherwise it is queued again (rule 5).
Another command under that CommandUUID is refused. The newest command of a collapse key ends the older ones
that were never sent. A process stores and touches a command shortly before its entry, so that the janitor
keeps it (rule 13). Requests that arrive together share every step.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from services.commands.queue.limits import OpenLimit
from services.commands.queue.priority import (
    PIECE_LIMIT,
    PIECES_IN_FLIGHT,
    Priority,
    Step,
    no_wait,
)
from services.commands.queue.requeue import EntryResolver
from services.commands.queue.submission import Queued, QueueOutcome, Submission
from services.commands.queue.targets import Targets
from shared.apple.request.advice import Advice, Recipient
from shared.apple.request.plist import PreparedCommand
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.command import Command
from shared.domain.errors import (
    BadRequest,
    Conflict,
    Fault,
    MdmError,
    Overtaken,
    Unavailable,
    unfit,
)
from shared.ports.clock import Ids
from shared.ports.pushes import PushRequests
from shared.ports.queue import CommandQueue
from shared.telemetry.metrics import Metrics
from shared.times import to_milliseconds

BATCH_LIMIT = 64
IN_FLIGHT = 1
LONGEST_FLUSH = timedelta(hours=1)
"""Between the touch of a command and its entry or job. The janitor deletes commands that were not touched
for a day, so a process that was stopped for so long must not accept."""

Advise = Callable[[PreparedCommand, Recipient], Advice]
"""Advice for a client before its command goes to this recipient."""


class QueueService:
    def __init__(
        self,
        queue: CommandQueue,
        targets: Targets,
        push_requests: PushRequests,
        ids: Ids,
        metrics: Metrics,
        advise: Advise,
        resolver: EntryResolver,
        priority: Priority,
    ) -> None:
        self._queue = queue
        self._targets = targets
        self._push_requests = push_requests
        self._clock = clock = resolver.clock
        self._ids = ids
        self._metrics = metrics
        self._advise = advise
        self._resolver = resolver
        self._limit = OpenLimit(queue, clock, resolver.rules.max_open)
        self._touched = TouchedCommands()
        self._batches: BatchExecutor[Submission, Queued] = BatchExecutor(
            self._flush, BATCH_LIMIT, IN_FLIGHT
        )
        self._priority = priority
        self._pieces = BatchExecutor(self._flush_piece, PIECE_LIMIT, PIECES_IN_FLIGHT)

    async def enqueue(self, prepared: PreparedCommand) -> Queued:
        """Queue a command for its one target.

        Raises NotFound for an unknown device, Conflict for an ambiguous one and for a CommandUUID
        that names another command there, BadRequest for one that no such channel takes or whose
        time is over, TooManyRequests when too many of its commands are open."""
        self.check_expiry(prepared)
        submission = Submission(prepared, prepared.target, self._ids.new())
        with self._priority.interactive():
            return await self._batches.submit(submission)

    async def enqueue_for(
        self, prepared: PreparedCommand, targets: Sequence[str], since: datetime
    ) -> list[Queued | MdmError]:
        """Queue a command for some of its targets; the outcome of each.

        It may be repeated: what was accepted after `since` is not queued again. Raises Unavailable when it
        must be repeated."""
        since = to_milliseconds(since)
        results = await asyncio.gather(
            *(
                self._pieces.submit(Submission(prepared, target, self._ids.new(), since))
                for target in targets
            ),
            return_exceptions=True,
        )
        outcomes: list[Queued | MdmError] = []
        for result in results:
            if isinstance(result, Unavailable):
                raise result
            if isinstance(result, BaseException) and not isinstance(result, MdmError):
                raise result
            outcomes.append(result)
        return outcomes

    def check_expiry(self, prepared: PreparedCommand) -> None:
        """Raises BadRequest for a command that could never be sent."""
        terms, now = prepared.terms, self._clock.now()
        expiry = terms.expiry(now)
        path = "ttl" if terms.expires_at is None else "expires_at"
        if expiry is not None and expiry <= max(now, terms.not_before or now):
            raise unfit(path, "a time that is still to come, and after not_before")

    async def drain(self) -> None:
        await self._batches.drain()
        await self._pieces.drain()

    # --- one batch

    async def _flush(
        self, submissions: list[Submission], between: Step = no_wait
    ) -> Sequence[Queued | Exception]:
        """Run all steps, and `between` after each."""
        self._metrics.batch_size.observe(len(submissions))
        going = await self._resolve(submissions)
        refusals = await self._limit.check([submission.entry for submission in going])
        for submission, refusal in zip(going, refusals, strict=True):
            submission.outcome = refusal
        if going := [submission for submission in going if submission.outcome is None]:
            await between()
            await self._queue_up(going, between)
        return [submission.result() for submission in submissions]

    async def _flush_piece(self, submissions: list[Submission]) -> Sequence[Queued | Exception]:
        await self._priority.yield_to_interactive()
        return await self._flush(submissions, self._priority.yield_to_interactive)

    async def _resolve(self, submissions: list[Submission]) -> list[Submission]:
        """Make each entry, or set the refusal; returns the submissions with an entry."""
        targets = await self._targets.resolve({s.target for s in submissions})
        for submission in submissions:
            target = targets[submission.target]
            if isinstance(target, Conflict):
                submission.outcome = target
                continue
            if not target.is_known and not self._resolver.rules.accept_unknown_devices:
                submission.outcome = submission.unknown()
                continue
            recipient = Recipient.of(target.key, target.inventory)
            advice = self._advise(submission.prepared, recipient)
            submission.warnings = advice.warnings
            if advice.refusal is None:
                submission.entry = submission.entry_at(target, self._clock.now())
            else:
                fault = Fault("request_type", "a command that user channels take")
                submission.outcome = BadRequest(advice.refusal, [fault])
        return [submission for submission in submissions if submission.outcome is None]

    async def _queue_up(self, going: list[Submission], between: Step) -> None:
        touched_at = self._clock.monotonic()
        rivals = await self._resolver.put_behind_rivals(going)
        commands = self._touched.missing_of(going, touched_at)
        entries = [submission.entry for submission in going]
        there, ended = await self._queue.put(commands, entries, rivals, self._clock.now())
        self._touched.note(going, commands, touched_at)
        await between()
        # After the entries: a device that enrolled again in between has a new generation here.
        devices, _ = await asyncio.gather(
            self._targets.devices({entry.device for entry in entries}),
            self._resolver.supersede(entries, ended),
        )
        async with asyncio.TaskGroup() as rare:
            for submission, existing in zip(going, there, strict=True):
                if existing is None and self._resolver.is_current(submission.entry, devices):
                    submission.outcome = QueueOutcome.QUEUED
                else:
                    rare.create_task(self._resolver.resolve(submission, existing, devices))
        if self._clock.monotonic() - touched_at > LONGEST_FLUSH.total_seconds():
            raise Overtaken("the process was stopped while it queued the command")
        self._request_pushes(going)

    def _request_pushes(self, going: list[Submission]) -> None:
        queued = sum(1 for submission in going if submission.outcome is QueueOutcome.QUEUED)
        self._metrics.commands_accepted.inc(queued)
        now = self._clock.now()
        # A retry asks for a push too: the first answer may have been lost with its push request.
        waiting = {
            s.entry.enrollment
            for s in going
            if isinstance(s.outcome, QueueOutcome) and s.entry.is_due(now)
        }
        if waiting:
            self._push_requests.add(waiting)


TOUCHED_FOR = timedelta(minutes=10)
"""A command for many devices counts as touched for so long."""
MOST_TOUCHED = 100


class TouchedCommands:
    """The commands for many devices that were stored lately: one, which may be large, is not stored again for
    each piece of them. Times are those of the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._touched: BoundedCache[str, float] = BoundedCache(MOST_TOUCHED)

    def missing_of(self, submissions: Sequence[Submission], now: float) -> list[Command]:
        """The commands to store with these submissions."""
        missing: dict[str, Command] = {}
        for submission in submissions:
            command = submission.prepared.command
            touched = None if submission.since is None else self._touched.get(command.hash)
            if touched is None or now - touched >= TOUCHED_FOR.total_seconds():
                missing[command.hash] = command
        return list(missing.values())

    def note(self, submissions: Sequence[Submission], stored: Sequence[Command], at: float) -> None:
        hashes = {command.hash for command in stored}
        for submission in submissions:
            if submission.since is not None and submission.prepared.command.hash in hashes:
                self._touched.put(submission.prepared.command.hash, at)
