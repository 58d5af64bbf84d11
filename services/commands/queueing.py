"""Commands are accepted: stored, given a place in a queue, and answered.

Promises: an answer means that the command is durable and will be offered to its device, in the
generation in which the device is now (docs/rules.md, rule 4); the same command under the same
CommandUUID again is a safe retry while it is open, and for the retry window where the device ended
it; after that, or when it was ended otherwise, it is queued anew (rule 5); another command under that
CommandUUID is refused; the newest command of a collapse key ends the older ones that no device has
had. Requests that arrive together share every step.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from services.commands.limits import OpenLimit
from services.commands.precedence import (
    PIECE_LIMIT,
    PIECES_IN_FLIGHT,
    Precedence,
    Step,
    at_once,
)
from services.commands.submissions import Queued, Submission
from services.commands.targets import Target, Targets, is_stale, is_there
from services.commands.touches import LONGEST_FLUSH, Touches
from shared.apple.command_advice import Advice, Recipient
from shared.apple.command_plist import PreparedCommand
from shared.batching import Cohorts
from shared.domain.command import Place
from shared.domain.enrollment import Enrollment
from shared.domain.errors import BadRequest, Conflict, Fault, MdmError, Overtaken, Unavailable
from shared.ports.clock import Clock, Ids
from shared.ports.pushes import PushWishes
from shared.ports.queue import CommandQueue
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

COHORT_LIMIT = 64
IN_FLIGHT = 1
ATTEMPTS = 5
"""How often one request looks again when others change its place at the same time."""

Advise = Callable[[PreparedCommand, Recipient], Advice]
"""What a client should know before its command goes to this recipient."""


@dataclass(frozen=True, slots=True)
class QueueingRules:
    """What the operator decides."""

    retry_window: timedelta = timedelta(hours=1)
    accept_unknown_devices: bool = False
    max_open: int = 10_000


class Queueing:
    """Takes commands into queues."""

    def __init__(  # noqa: PLR0913 - every port is one argument
        self,
        queue: CommandQueue,
        targets: Targets,
        wishes: PushWishes,
        clock: Clock,
        ids: Ids,
        metrics: Metrics,
        rules: QueueingRules,
        advise: Advise,
    ) -> None:
        self._queue = queue
        self._targets = targets
        self._wishes = wishes
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._rules = rules
        self._advise_on = advise
        self._limit = OpenLimit(queue, clock, rules.max_open)
        self._touches = Touches(queue, clock)
        self._cohorts: Cohorts[Submission, Queued] = Cohorts(self._flush, COHORT_LIMIT, IN_FLIGHT)
        self._precedence = Precedence()
        self._pieces = Cohorts(self._flush_piece, PIECE_LIMIT, PIECES_IN_FLIGHT)

    async def enqueue(self, prepared: PreparedCommand) -> Queued:
        """Queue a command for its one target.

        Raises NotFound for an unknown device, Conflict for an ambiguous one and for a CommandUUID
        that names another command there, BadRequest for one that no such channel takes or whose
        time is over, TooManyRequests when too many of its commands are open."""
        self.check_expiry(prepared)
        with self._precedence.first():
            return await self._cohorts.submit(
                Submission(prepared, prepared.target, self._ids.new())
            )

    async def enqueue_for(
        self, prepared: PreparedCommand, targets: Sequence[str], since: datetime
    ) -> list[Queued | MdmError]:
        """Queue a command for some of its targets; per target what came of it.

        May be repeated: what was accepted since `since` is not queued anew, whatever became of it.
        Raises Unavailable when it must be repeated."""
        since = since.replace(microsecond=since.microsecond // 1000 * 1000)  # as the store keeps it
        results = await asyncio.gather(
            *(
                self._pieces.submit(Submission(prepared, target, self._ids.new(), since))
                for target in targets
            ),
            return_exceptions=True,
        )
        outcomes: list[Queued | MdmError] = []
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, MdmError):
                raise result
            if isinstance(result, Unavailable):
                raise result
            outcomes.append(result)
        return outcomes

    def check_expiry(self, prepared: PreparedCommand) -> None:
        """Raises BadRequest for a command that could never be handed out."""
        terms, now = prepared.terms, self._clock.now()
        expiry = terms.expiry(now)
        path = "ttl" if terms.expires_at is None else "expires_at"
        if expiry is not None and expiry <= max(now, terms.not_before or now):
            expected = "a time that is still to come, and after not_before"
            raise BadRequest(f"{path}: expected {expected}", [Fault(path, expected)])

    async def drain(self) -> None:
        """Finish what is under way."""
        await self._cohorts.drain()
        await self._pieces.drain()

    # --- one cohort

    async def _flush(
        self, submissions: list[Submission], between: Step = at_once
    ) -> Sequence[Queued | Exception]:
        """All the steps; `between` them may wait for others."""
        self._metrics.cohort_size.observe(len(submissions))
        going = await self._limit.admitted(await self._resolve(submissions))
        if going:
            await between()
            await self._place(going, between)
        return [submission.settled() for submission in submissions]

    async def _flush_piece(self, submissions: list[Submission]) -> Sequence[Queued | Exception]:
        await self._precedence.give_way()
        return await self._flush(submissions, self._precedence.give_way)

    async def _resolve(self, submissions: list[Submission]) -> list[Submission]:
        """Give each its place, or its refusal; those with a place."""
        targets = await self._targets.resolve({s.target for s in submissions})
        for submission in submissions:
            target = targets[submission.target]
            if isinstance(target, Conflict):
                submission.outcome = target
            elif not target.is_known and not self._rules.accept_unknown_devices:
                submission.outcome = submission.unknown()
            elif (refusal := self._advise(submission, target)) is not None:
                submission.outcome = refusal
            else:
                submission.place = submission.place_at(target, self._clock.now())
        return [submission for submission in submissions if submission.outcome is None]

    def _advise(self, submission: Submission, target: Target) -> BadRequest | None:
        advice = self._advise_on(submission.prepared, Recipient.of(target.key, target.inventory))
        submission.warnings = advice.warnings
        if advice.refusal is None:
            return None
        return BadRequest(
            advice.refusal, [Fault("request_type", "a command that user channels take")]
        )

    async def _place(self, going: list[Submission], between: Step) -> None:
        touched_at = self._clock.monotonic()
        await self._touches.store(going)
        there = await self._queue.insert([s.place for s in going])
        await between()
        # After the places: a device that enrolled anew in between has a new generation here.
        devices, _ = await asyncio.gather(
            self._targets.devices({s.place.device for s in going}),
            self._supersede([s.place for s in going]),
        )
        async with asyncio.TaskGroup() as rare:
            for submission, existing in zip(going, there, strict=True):
                if existing is not None:
                    rare.create_task(self._meet(submission, existing, devices))
                elif self._stands(submission.place, devices):
                    submission.outcome = True
                else:
                    rare.create_task(self._adjust(submission, devices))
        if self._clock.monotonic() - touched_at > LONGEST_FLUSH.total_seconds():
            raise Overtaken("the process was stopped while it queued the command")
        self._tell(going)

    async def _supersede(self, places: Sequence[Place]) -> None:
        with_key = [place for place in places if place.collapse_key is not None]
        if with_key and (ended := await self._queue.supersede(with_key)):
            log.info("commands_superseded", count=ended)

    def _tell(self, going: list[Submission]) -> None:
        queued = sum(1 for submission in going if submission.outcome is True)
        self._metrics.commands_accepted.inc(queued)
        now = self._clock.now()
        # A retry asks for a push too: the first answer may have been lost with its wish.
        waiting = {
            s.place.enrollment for s in going if isinstance(s.outcome, bool) and s.place.is_due(now)
        }
        if waiting:
            self._wishes.wish(waiting)

    # --- what is rare

    def _stands(self, place: Place, devices: Mapping[str, Enrollment]) -> bool:
        """Whether a place of ours needs nothing more: its device is there, in that generation."""
        device = devices.get(place.device)
        if not is_there(device) and not self._rules.accept_unknown_devices:
            return False
        return place.generation == (device.generation if device else None)

    async def _adjust(self, submission: Submission, devices: Mapping[str, Enrollment]) -> None:
        """Our place was written beside an Authenticate, or beside a DELETE of the device."""
        try:
            await self._follow(submission, devices)
        except MdmError as exc:
            submission.outcome = exc

    async def _follow(self, submission: Submission, devices: Mapping[str, Enrollment]) -> None:
        place = submission.place
        device = devices.get(place.device)
        if not is_there(device) and not self._rules.accept_unknown_devices:
            await self._queue.cancel_one(place.enrollment, place.command_uuid)
            raise submission.unknown()
        generation = device.generation if device else None
        if generation != place.generation:
            await self._queue.stamp(place, generation)
        await self._supersede([place])
        submission.outcome = True

    async def _meet(
        self, submission: Submission, existing: Place, devices: Mapping[str, Enrollment]
    ) -> None:
        """Its CommandUUID stands in that queue already. `devices` was read after `existing`."""
        try:
            for _ in range(ATTEMPTS):
                submission.outcome = await self._answer(submission, existing, devices)
                if submission.outcome is not None:
                    return
                # Somebody was faster: look at what is there now, and then at the generation again.
                [there] = await self._queue.insert([submission.place])
                devices = await self._targets.devices({submission.place.device})
                if there is None:
                    return await self._follow(submission, devices)
                existing = there
            raise Overtaken("others keep changing this command")
        except MdmError as exc:
            submission.outcome = exc

    async def _answer(
        self, submission: Submission, existing: Place, devices: Mapping[str, Enrollment]
    ) -> bool | None:
        """The outcome beside this place, None where it has changed since."""
        if existing.command_hash != submission.place.command_hash:
            uuid = submission.place.command_uuid
            raise Conflict(f"command_uuid: {uuid} names another command of this device")
        device = devices.get(existing.device)
        generation = device.generation if device else None
        if existing.state.is_open and is_stale(existing, generation):
            dropped = await self._queue.drop(existing)
            if dropped is None:
                return None
            existing = dropped
        if existing.state.is_open or self._is_fresh(existing, submission.since):
            submission.place = existing
            return False
        accepted_at = submission.accepted(self._clock.now())
        place = replace(submission.place, generation=generation, accepted_at=accepted_at)
        submission.place = place
        if not await self._queue.requeue(place, existing):
            return None
        await self._follow(submission, await self._targets.devices({place.device}))
        return True

    def _is_fresh(self, existing: Place, since: datetime | None) -> bool:
        """Whether the device ended it so soon after its acceptance that this can only be a retry."""
        if existing.accepted_at is None:
            return False
        if since is not None and existing.accepted_at >= since:
            return True
        if not existing.state.is_device_final:
            return False
        return self._clock.now() - existing.accepted_at <= self._rules.retry_window
