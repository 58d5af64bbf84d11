"""What may stand where a new entry is to go, and what may change beside it; both are rare.

Promises: the same command under the same CommandUUID again is a safe retry while it is open and its
time is not over, and for the retry window where the device ended it; after that, or when it was ended
otherwise, it is queued anew (docs/rules.md, rule 5); an entry that was written beside an Authenticate
follows its device into the new generation (rule 4). Nothing that is over is taken for open, and what
expired or was superseded is told to subscribers though its entry is used again.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from services.commands.queue.guesses import Guesses
from services.commands.queue.reconcile import Settling
from services.commands.queue.submission import Submission
from services.commands.queue.targets import Targets
from shared.domain.command import ANNOUNCED_STATES, QueueEntry, order_behind
from shared.domain.enrollment import Enrollment
from shared.domain.errors import MdmError, OfNewerVersion, Overtaken
from shared.domain.names import is_there
from shared.domain.versions import is_known
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue

log = structlog.get_logger()

ATTEMPTS = 5
"""How often one request looks again when others change its entry at the same time."""

TellEnd = Callable[[QueueEntry], Awaitable[None]]
"""Called before the entry of a command whose end must be published is used again; raises Unavailable."""


@dataclass(frozen=True, slots=True)
class QueueingRules:
    """What the operator decides."""

    retry_window: timedelta = timedelta(hours=1)
    accept_unknown_devices: bool = False
    max_open: int = 10_000


class Collisions:
    """Settles the submissions whose entry needs more than to be inserted. A `devices` of its methods
    was read after the entry."""

    def __init__(
        self,
        queue: CommandQueue,
        targets: Targets,
        settling: Settling,
        tell_end: TellEnd,
        clock: Clock,
        rules: QueueingRules,
    ) -> None:
        self._queue = queue
        self._targets = targets
        self._settling = settling
        self._tell_end = tell_end
        self._clock = clock
        self._rules = rules
        self._guesses = Guesses(clock)

    async def supersede(self, entries: Sequence[QueueEntry]) -> None:
        """End what the newest of these entries, and others of their collapse keys, make needless."""
        with_key = [entry for entry in entries if entry.collapse_key is not None]
        if with_key and (ended := await self._queue.supersede(with_key)):
            log.info("commands_superseded", count=ended)

    async def put_behind_rivals(self, submissions: Sequence[Submission]) -> None:
        """Before they are stored: each is the newest of its collapse key, whichever clocks made the orders
        of those that are open."""
        with_key = [each for each in submissions if each.entry.collapse_key is not None]
        if not with_key:
            return
        highest = await self._queue.highest_orders([each.entry for each in with_key])
        for each in with_key:
            key = each.entry.enrollment, each.entry.collapse_key or ""
            order = order_behind(each.entry.order, highest.get(key, ""))
            each.entry = replace(each.entry, order=order)
            highest[key] = order

    def stands(self, entry: QueueEntry, devices: Mapping[str, Enrollment]) -> bool:
        """Whether an entry of ours needs nothing more: its device is there, in that generation."""
        device = devices.get(entry.device)
        if not is_there(device) and not self._rules.accept_unknown_devices:
            return False
        return entry.generation == (device.generation if device else None)

    async def adjust(self, submission: Submission, devices: Mapping[str, Enrollment]) -> None:
        """Our entry was written beside an Authenticate, or beside a DELETE of the device."""
        try:
            await self._follow(submission, devices)
        except MdmError as exc:
            submission.outcome = exc

    async def _follow(self, submission: Submission, devices: Mapping[str, Enrollment]) -> None:
        entry = submission.entry
        device = devices.get(entry.device)
        if not is_there(device) and not self._rules.accept_unknown_devices:
            # Again: where it has spoken since, another client may have been answered for this very entry.
            device = (await self._targets.devices({entry.device})).get(entry.device)
            if not is_there(device):
                await self._queue.cancel_one(entry.enrollment, entry.command_uuid, entry.order)
                raise submission.unknown()
        generation = device.generation if device else None
        if generation != entry.generation:
            await self._queue.stamp(entry, generation)
        await self.supersede([entry])
        submission.outcome = True

    async def meet(
        self, submission: Submission, existing: QueueEntry, devices: Mapping[str, Enrollment]
    ) -> None:
        """Its CommandUUID stands in that queue already. `devices` was read after `existing`."""
        try:
            for _ in range(ATTEMPTS):
                submission.outcome = await self._answer(submission, existing, devices)
                if submission.outcome is not None:
                    return
                # Somebody was faster: look at what is there now, and then at the generation again.
                [there] = await self._queue.insert([submission.entry])
                devices = await self._targets.devices({submission.entry.device})
                if there is None:
                    return await self._follow(submission, devices)
                existing = there
            raise Overtaken("others keep changing this command")
        except MdmError as exc:
            submission.outcome = exc

    async def _answer(
        self, submission: Submission, existing: QueueEntry, devices: Mapping[str, Enrollment]
    ) -> bool | None:
        """The outcome beside this entry, None where it has changed since."""
        uuid = submission.entry.command_uuid
        self._guesses.refuse_many(uuid, submission.named)
        if existing.command_hash != submission.entry.command_hash:
            self._guesses.note(uuid)
            raise submission.conflict()
        device = devices.get(existing.device)
        generation = device.generation if device else None
        there = await self._settling.present(existing, generation)
        if there is None:
            return None
        existing = there
        if not is_known(existing.state):
            raise OfNewerVersion(
                f"command_uuid: {uuid} is {existing.state} there, of a newer version"
            )
        if existing.state.is_open or self._is_fresh(existing, submission.since):
            submission.entry = existing
            return False
        accepted_at = submission.accepted(self._clock.now())
        entry = replace(submission.entry, generation=generation, accepted_at=accepted_at)
        submission.entry = entry
        if existing.state in ANNOUNCED_STATES:
            await self._tell_end(existing)
        if not await self._queue.requeue(entry, existing):
            return None
        await self._follow(submission, await self._targets.devices({entry.device}))
        return True

    def _is_fresh(self, existing: QueueEntry, since: datetime | None) -> bool:
        """Whether the device ended it so soon after its acceptance that this can only be a retry."""
        if existing.accepted_at is None:
            return False
        if since is not None and existing.accepted_at >= since:
            return True
        if not existing.state.is_device_final:
            return False
        return self._clock.now() - existing.accepted_at <= self._rules.retry_window
