"""Resolve a submission whose CommandUUID is already in the queue, or whose device enrolled again meanwhile.

Promises: the same command under the same CommandUUID is a safe retry while it is open, and for the retry
window if the device ended it; otherwise it is queued again (docs/rules.md, rule 5). An entry that was
written beside an Authenticate follows its device into the new generation (rule 4). An expired entry is
never taken for open, and the event of an expired or superseded command is published although its entry is
used again. A client that names another client's CommandUUID and guesses its command, such as a PIN, has ten
guesses an hour; then every repetition is refused, right guesses too. Each process counts for itself, in
bounded memory."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from services.commands.queue.reconcile import Reconciler
from services.commands.queue.submission import QueueOutcome, Submission
from services.commands.queue.targets import Targets
from shared.concurrency.counting_window import CountingWindow
from shared.domain.command import ANNOUNCED_STATES, QueueEntry, order_behind
from shared.domain.enrollment import EnrollmentSummary
from shared.domain.errors import MdmError, OfNewerVersion, Overtaken, TooManyRequests
from shared.domain.names import is_there
from shared.domain.versions import is_known
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue, Rival

log = structlog.get_logger()

ATTEMPTS = 5
"""Looks of one request at an entry that others keep changing."""

PublishEnd = Callable[[QueueEntry], Awaitable[None]]
"""Called before the entry of a command whose end must be published is used again; raises Unavailable."""


@dataclass(frozen=True, slots=True)
class QueueRules:
    retry_window: timedelta = timedelta(hours=1)
    accept_unknown_devices: bool = False
    max_open: int = 10_000


class EntryResolver:
    """Resolves the submissions whose entry needs more than an insert. The `devices` of its methods were read
    after the entry."""

    def __init__(
        self,
        queue: CommandQueue,
        targets: Targets,
        reconciler: Reconciler,
        publish_end: PublishEnd,
        clock: Clock,
        rules: QueueRules,
    ) -> None:
        self._queue = queue
        self._targets = targets
        self._reconciler = reconciler
        self._publish_end = publish_end
        self.clock = clock
        self.rules = rules
        self._guesses = Guesses(clock)

    async def supersede(self, entries: Sequence[QueueEntry], ended: int = 0) -> None:
        """End the older open entries of the same collapse keys; so many ended already."""
        with_key = [entry for entry in entries if entry.collapse_key is not None]
        if with_key and (count := ended + await self._queue.supersede(with_key)):
            log.info("commands_superseded", count=count)

    async def put_behind_rivals(self, submissions: Sequence[Submission]) -> list[Rival]:
        """Before they are stored, make each the newest of its collapse key, although other clocks made the
        orders of the open ones, which are returned."""
        with_key = [each for each in submissions if each.entry.collapse_key is not None]
        if not with_key:
            return []
        rivals = await self._queue.rivals([each.entry for each in with_key])
        highest: dict[tuple[str, str], str] = {}
        for rival in rivals:
            key = rival.enrollment, rival.collapse_key
            highest[key] = max(rival.order, highest.get(key, ""))
        for each in with_key:
            key = each.entry.enrollment, each.entry.collapse_key or ""
            order = order_behind(each.entry.order, highest.get(key, ""))
            if order != each.entry.order:
                each.entry = replace(each.entry, order=order)
            highest[key] = order
        return rivals

    def is_current(self, entry: QueueEntry, devices: Mapping[str, EnrollmentSummary]) -> bool:
        """True if the entry needs nothing more: its device is there, in that generation."""
        device = devices.get(entry.device)
        if not is_there(device) and not self.rules.accept_unknown_devices:
            return False
        return entry.generation == (device.generation if device else None)

    async def resolve(
        self,
        submission: Submission,
        existing: QueueEntry | None,
        devices: Mapping[str, EnrollmentSummary],
    ) -> None:
        """Decide about a CommandUUID that the queue has already; without an `existing` entry, adapt the one
        that was written beside an Authenticate, or beside a DELETE of the device."""
        try:
            for _ in range(ATTEMPTS):
                if existing is None:
                    break
                submission.outcome = await self._decide(submission, existing, devices)
                if submission.outcome is not QueueOutcome.CHANGED:
                    return
                # Another process was faster: read the entry, and then the generation again.
                [existing] = await self._queue.insert([submission.entry])
                devices = await self._targets.devices({submission.entry.device})
            if existing is not None:
                raise Overtaken("others keep changing this command")
            await self._follow(submission, devices)
        except MdmError as exc:
            submission.outcome = exc

    async def _follow(
        self, submission: Submission, devices: Mapping[str, EnrollmentSummary]
    ) -> None:
        entry = submission.entry
        device = devices.get(entry.device)
        if not is_there(device) and not self.rules.accept_unknown_devices:
            # Read again: if the device spoke since, another client may have been answered for this entry.
            device = (await self._targets.devices({entry.device})).get(entry.device)
            if not is_there(device):
                await self._queue.cancel_one(entry.enrollment, entry.command_uuid, entry.order)
                raise submission.unknown()
        generation = device.generation if device else None
        if generation != entry.generation:
            await self._queue.stamp(entry, generation)
        await self.supersede([entry])
        submission.outcome = QueueOutcome.QUEUED

    async def _decide(
        self, submission: Submission, existing: QueueEntry, devices: Mapping[str, EnrollmentSummary]
    ) -> QueueOutcome:
        """The outcome beside this entry. Raises the refusal."""
        uuid = submission.entry.command_uuid
        self._guesses.refuse_many(uuid, submission.named)
        if existing.command_hash != submission.entry.command_hash:
            self._guesses.note(uuid)
            raise submission.conflict()
        device = devices.get(existing.device)
        generation = device.generation if device else None
        there = await self._reconciler.current_one(existing, generation)
        if there is None:
            return QueueOutcome.CHANGED
        if not is_known(there.state):
            raise OfNewerVersion(f"command_uuid: {uuid} is {there.state} there, of a newer version")
        if there.state.is_open or self._is_fresh(there, submission.since):
            submission.entry = there
            return QueueOutcome.RETRY
        accepted_at = submission.accepted(self.clock.now())
        entry = replace(submission.entry, generation=generation, accepted_at=accepted_at)
        submission.entry = entry
        if there.state in ANNOUNCED_STATES:
            await self._publish_end(there)
        if not await self._queue.requeue(entry, there):
            return QueueOutcome.CHANGED
        await self._follow(submission, await self._targets.devices({entry.device}))
        return QueueOutcome.QUEUED

    def _is_fresh(self, existing: QueueEntry, since: datetime | None) -> bool:
        """True if the device ended it so soon after its acceptance that this can only be a retry."""
        if (at := existing.accepted_at) is None:
            return False
        is_recent = self.clock.now() - at <= self.rules.retry_window
        return (since is not None and at >= since) or (is_recent and existing.state.is_device_final)


MOST = 10
WINDOW = timedelta(hours=1)
REMEMBERED = 16_384
"""CommandUUIDs; the one that was named longest ago is dropped first."""


class Guesses:
    def __init__(self, clock: Clock) -> None:
        self._mismatches = CountingWindow(clock, WINDOW, REMEMBERED)

    def refuse_many(self, command_uuid: str, named: str) -> None:
        """Raises TooManyRequests while there were too many mismatches; called before any comparison.
        `named`: how the client names it."""
        if self._mismatches.count(command_uuid) >= MOST:
            message = f"{named} was used with too many other commands"
            raise TooManyRequests(message, self._mismatches.left(command_uuid))

    def note(self, command_uuid: str) -> None:
        """Count one mismatch."""
        if self._mismatches.add(command_uuid) == MOST:
            log.warning("command_guesses_throttled", command_uuid=command_uuid)
