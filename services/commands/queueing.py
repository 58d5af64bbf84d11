"""Commands are accepted: stored, given a place in a queue, and answered.

Promises: an answer means that the command is durable and will be offered to its device, in the
generation in which the device is now (docs/rules.md, rule 4); the same command under the same
CommandUUID again is a safe retry while it is open, and for the retry window where the device ended
it; after that, or when it was ended otherwise, it is queued anew (rule 5); another command under that
CommandUUID is refused. Requests that arrive together share every step.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from services.commands.targets import Target, Targets, is_stale, is_there
from shared.apple.command_plist import PreparedCommand
from shared.batching import Cohorts
from shared.domain.command import Place
from shared.domain.enrollment import Enrollment
from shared.domain.errors import Conflict, MdmError, NotFound, Overtaken
from shared.ports.clock import Clock, Ids
from shared.ports.pushes import PushWishes
from shared.ports.queue import CommandQueue
from shared.telemetry.metrics import Metrics

COHORT_LIMIT = 64
IN_FLIGHT = 1

ATTEMPTS = 5
"""How often one request looks again when others change its place at the same time."""

LONGEST_FLUSH = timedelta(hours=1)
"""From storing a command to having its place. The janitor deletes what nobody touched for a day
(rule 13); a process that was stopped for so long must not say yes."""


@dataclass(frozen=True, slots=True)
class QueueingRules:
    """What the operator decides."""

    retry_window: timedelta = timedelta(hours=1)
    accept_unknown_devices: bool = False


@dataclass(slots=True, eq=False)
class _Submission:
    """One request on its way. `outcome`: True queued (anew), False it stood there already."""

    prepared: PreparedCommand
    order: str
    place: Place = field(init=False)
    outcome: bool | MdmError | None = None


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
    ) -> None:
        self._queue = queue
        self._targets = targets
        self._wishes = wishes
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._rules = rules
        self._cohorts: Cohorts[_Submission, bool] = Cohorts(self._flush, COHORT_LIMIT, IN_FLIGHT)

    async def enqueue(self, prepared: PreparedCommand) -> bool:
        """Queue a command. True: it is queued now; False: it was, this is a retry.

        Raises NotFound for an unknown device, Conflict for an ambiguous one and for a CommandUUID
        that names another command there."""
        return await self._cohorts.submit(_Submission(prepared, self._ids.new()))

    async def drain(self) -> None:
        """Finish what is under way."""
        await self._cohorts.drain()

    # --- one cohort

    async def _flush(self, submissions: list[_Submission]) -> Sequence[bool | Exception]:
        self._metrics.cohort_size.observe(len(submissions))
        going = await self._resolve(submissions)
        if going:
            await self._place(going)
        return [_settled(submission) for submission in submissions]

    async def _resolve(self, submissions: list[_Submission]) -> list[_Submission]:
        """Give each its place, or its refusal; those with a place."""
        targets = await self._targets.resolve({s.prepared.target for s in submissions})
        for submission in submissions:
            target = targets[submission.prepared.target]
            if isinstance(target, Conflict):
                submission.outcome = target
            elif not target.is_known and not self._rules.accept_unknown_devices:
                submission.outcome = _unknown(submission)
            else:
                submission.place = self._place_of(submission, target)
        return [submission for submission in submissions if submission.outcome is None]

    def _place_of(self, submission: _Submission, target: Target) -> Place:
        command = submission.prepared.command
        return Place(
            enrollment=target.key.id,
            device=target.key.device,
            command_uuid=command.uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation=target.generation,
            order=submission.order,
            accepted_at=self._clock.now(),
        )

    async def _place(self, going: list[_Submission]) -> None:
        touched_at = self._clock.monotonic()
        await self._queue.store([s.prepared.command for s in going], self._clock.now())
        there = await self._queue.insert([s.place for s in going])
        # After the places: a device that enrolled anew in between has a new generation here.
        devices = await self._targets.devices({s.place.device for s in going})
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

    def _tell(self, going: list[_Submission]) -> None:
        queued = sum(1 for submission in going if submission.outcome is True)
        self._metrics.commands_accepted.inc(queued)
        # A retry asks for a push too: the first answer may have been lost with its wish.
        waiting = {s.place.enrollment for s in going if isinstance(s.outcome, bool)}
        if waiting:
            self._wishes.wish(waiting)

    # --- what is rare

    def _stands(self, place: Place, devices: Mapping[str, Enrollment]) -> bool:
        """Whether a place of ours needs nothing more: its device is there, in that generation."""
        device = devices.get(place.device)
        if not is_there(device) and not self._rules.accept_unknown_devices:
            return False
        return place.generation == (device.generation if device else None)

    async def _adjust(self, submission: _Submission, devices: Mapping[str, Enrollment]) -> None:
        """Our place was written beside an Authenticate, or beside a DELETE of the device."""
        try:
            await self._follow(submission, devices)
        except MdmError as exc:
            submission.outcome = exc

    async def _follow(self, submission: _Submission, devices: Mapping[str, Enrollment]) -> None:
        place = submission.place
        device = devices.get(place.device)
        if not is_there(device) and not self._rules.accept_unknown_devices:
            await self._queue.cancel_one(place.enrollment, place.command_uuid)
            raise _unknown(submission)
        generation = device.generation if device else None
        if generation != place.generation:
            await self._queue.stamp(place, generation)
        submission.outcome = True

    async def _meet(
        self, submission: _Submission, existing: Place, devices: Mapping[str, Enrollment]
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
        self, submission: _Submission, existing: Place, devices: Mapping[str, Enrollment]
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
        if existing.state.is_open or self._is_fresh(existing):
            return False
        place = replace(submission.place, generation=generation, accepted_at=self._clock.now())
        submission.place = place
        if not await self._queue.requeue(place, existing):
            return None
        await self._follow(submission, await self._targets.devices({place.device}))
        return True

    def _is_fresh(self, existing: Place) -> bool:
        """Whether the device ended it so soon after its acceptance that this can only be a retry."""
        if not existing.state.is_device_final or existing.accepted_at is None:
            return False
        return self._clock.now() - existing.accepted_at <= self._rules.retry_window


def _unknown(submission: _Submission) -> NotFound:
    return NotFound(f"udid: no device or user {submission.prepared.target} is enrolled")


def _settled(submission: _Submission) -> bool | Exception:
    if submission.outcome is None:
        raise AssertionError("a submission without an outcome")
    return submission.outcome
