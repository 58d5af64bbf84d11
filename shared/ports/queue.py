"""Commands, their entries in queues, jobs and expiry (owner: commands; checkin moves the state of
entries)."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.command import Command, EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.job import Job, JobPart, Progress


@dataclass(frozen=True, slots=True)
class Report:
    """A device's answer to a command: closes or rests its entry, on rule 5's conditions (an entry of
    generation None counts as of this one)."""

    enrollment: str
    command_uuid: str
    generation: str | None
    state: EntryState
    event_id: str


@dataclass(frozen=True, slots=True)
class SendClaim:
    """One entry to hand to its device, on condition that it is open and of this generation, or was
    queued before the device was known (generation None). `counts`: the send before was in vain and counts
    as unanswered; then on condition, too, that it is the one seen and nothing was answered since."""

    entry: QueueEntry
    generation: str | None
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for in one queue: an entry to send to this enrollment in this generation (None: or
    queued before the device was known). `with_resting`: also one that its device answered NotNow.
    `reported`: the CommandUUID on which the device reports, whose entry it has had; it is passed over, and
    so are those of the ids `but_not`."""

    enrollment: str
    device: str
    generation: str | None
    with_resting: bool
    reported: str | None = None
    but_not: frozenset[str] = frozenset()

    def passes_over(self, entry: QueueEntry) -> bool:
        is_reported = entry.command_uuid == self.reported and entry.handed_by is not None
        return is_reported or entry.id in self.but_not


@dataclass(frozen=True, slots=True)
class EntryWindow:
    """Accepted from `since` to `until`, both included. None: no such condition."""

    since: datetime
    until: datetime
    enrollment: str | None = None
    request_type: str | None = None
    states: frozenset[EntryState] | None = None


class CommandQueue(Protocol):
    # for the command API
    async def store(self, commands: Sequence[Command], at: datetime) -> None:
        """Store commands or, where they are stored already, touch them (rule 13)."""

    async def insert(self, entries: Sequence[QueueEntry]) -> list[QueueEntry | None]:
        """Insert entries. Per entry: None if it was inserted now, else the one that is there."""

    async def stamp(self, entry: QueueEntry, generation: str | None) -> None:
        """Give an entry another generation, on condition that it is open."""

    async def requeue(self, entry: QueueEntry, seen: QueueEntry) -> bool:
        """Queue anew in the place of `seen`, on condition that this final state is unchanged."""

    async def drop(self, entry: QueueEntry) -> QueueEntry | None:
        """End an entry of a past generation as DROPPED_REENROLLED, on condition that it is open and of
        the generation seen; returns what is there then."""

    async def open_entries(self, enrollment: EnrollmentKey) -> list[QueueEntry]:
        """All open entries of an enrollment, of any generation, in queue order."""

    async def cancel(self, enrollments: Sequence[EnrollmentKey]) -> int:
        """End all open entries of these enrollments as CANCELLED; how many there were."""

    async def cancel_devices(self, devices: Collection[str]) -> int:
        """End all open entries of all channels of these devices as CANCELLED; how many there were."""

    async def cancel_one(
        self, enrollment: str, command_uuid: str, order: str | None = None
    ) -> bool:
        """End an open entry (of this order, where one is given) as CANCELLED. False: there is no such one."""

    async def entries_of(self, ids: Collection[str]) -> dict[str, QueueEntry]:
        """Entries by id, open and finished."""

    async def highest_orders(self, entries: Sequence[QueueEntry]) -> dict[tuple[str, str], str]:
        """(enrollment, collapse key) -> the highest order among its open entries, also those that were
        sent. `entries` have a collapse key and may be stored or not."""

    async def supersede(self, entries: Sequence[QueueEntry]) -> int:
        """End as SUPERSEDED what the newest entry of the same enrollment and collapse key makes
        needless: the older ones that are open and were never sent, or moved back. The same write
        says by which command. `entries` are stored and have a collapse key. Returns how many it ended."""

    async def count_open(self, enrollment: EnrollmentKey) -> int:
        """How many open entries there are. Costs as much as reading them: not for every request."""

    async def accepted_in(self, window: EntryWindow, limit: int | None = None) -> list[QueueEntry]:
        """Entries, open and finished, that were accepted in a closed window of time; in no order. With
        a limit only that many, those that were accepted last."""

    async def has_due(self, enrollments: Sequence[EnrollmentKey], at: datetime) -> set[str]:
        """Which of these enrollments (ids) have an open entry that may be sent at this time."""

    def accepted_between(self, since: datetime, until: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Open entries accepted in a closed window of time (for the push sweep and the janitor), a page at a
        time."""

    def beginning_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[QueueEntry]]:
        """Open entries whose `not_before` is in a closed window of time (for the push sweep), a page at a
        time."""

    # for check-in
    async def report(self, reports: Sequence[Report], at: datetime) -> int:
        """Apply reports, each on condition that its entry is open, of this generation, and sent
        since it was queued. One that finds another final state is kept there as the late answer;
        any other changes nothing, such as a repetition of the report that closed the entry.
        One that counts forgets the unanswered attempts. Returns how many places it closed."""

    async def open_of_devices(self, devices: Collection[str]) -> dict[str, list[QueueEntry] | None]:
        """device -> open entries of all its channels, in queue order, fit for `mark_sent`. None: they are
        too many to be read; ask for the next one. The cost depends on no queue's length."""

    async def next_of(self, wanted: Sequence[Wanted], at: datetime) -> list[QueueEntry | None]:
        """Per queue the first place, in queue order, that may be sent at this time. Of more than 32
        whose `not_before` has come, those that began first come first. The cost does not depend on what
        rests, begins later, or is of another generation."""

    async def mark_sent(self, claims: Sequence[SendClaim], by: str, at: datetime) -> set[str]:
        """Mark as sent by `by`, each on its condition; the ids of the entries that were, and whose time
        was not over then by the store's own clock."""

    async def move_back(self, entries: Sequence[QueueEntry]) -> set[str]:
        """Put entries behind all others of their queues and count their last sends as unanswered, each on
        condition that this one is the last still and nothing was answered since; the ids of those that moved.
        From now on one with a collapse key can be superseded again; it is at once where a newer one waits."""

    async def end_generation(self, device: str, generation: str) -> int:
        """End the open entries of the generation that an Authenticate replaced, and those that were
        queued before the device was known (generation None)."""

    async def commands(self, hashes: Collection[str]) -> dict[str, Command]:
        """Those that are stored. One that cannot be opened says so, and fails no other."""


class StoredCommands(Protocol):
    """The commands themselves, for the janitor (rule 13)."""

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        """hash -> `touched` of the stored commands whose hash begins with `prefix` (lower-case hex)
        and which nobody has touched since `before`."""

    async def in_use(self, hashes: Collection[str]) -> set[str]:
        """Which of these commands have an entry, open or finished."""

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        """Delete stored commands (hash -> `touched` as read), each on condition that `touched` is
        still the one given; how many were."""


class Jobs(Protocol):
    """A job is there once `add` has returned; parts that no job names leave by themselves."""

    async def add_parts(self, parts: Sequence[JobPart], at: datetime) -> None:
        """Store parts, before their job. Safe to repeat."""

    async def add(self, job: Job) -> None:
        """Store a job, whose parts are stored. Safe to repeat."""

    async def get(self, id: str) -> Job | None: ...

    async def newest(self, before: str | None, limit: int) -> list[Job]:
        """The newest jobs, newest first; those whose id sorts before `before`."""

    async def running(self) -> list[Job]:
        """Jobs that are not finished, oldest first."""

    async def part(self, job: str, number: int) -> JobPart | None:
        """One part with everything."""

    async def part_results(self, job: str, numbers: Sequence[int]) -> list[JobPart]:
        """These parts, in order, without their targets."""

    async def part_progress(self, job: str, numbers: Sequence[int]) -> list[JobPart]:
        """These parts, in order, without their targets and refusals."""

    async def finish_part(self, part: JobPart) -> None:
        """Keep what became of a part's targets. Two who did it keep one of their results."""

    async def take(self, job: Job, owner: str) -> bool:
        """Make somebody the owner, on condition that `owner` and `heartbeats` are as in `job`, and that it
        runs."""

    async def raise_heartbeat(self, job: str, owner: str, progress: Progress) -> bool:
        """Say that its owner lives, and how far it is. False: it is not the owner any more, or the
        job is finished."""

    async def give_up(self, owner: str) -> None:
        """Nobody works on this owner's jobs from here on, so that others take them at once."""

    async def finish(
        self, job: str, progress: Progress, at: datetime, error: str | None = None
    ) -> None:
        """All parts are done, or it failed with this error. On condition that it runs: a second time
        changes nothing."""


class Expiries(Protocol):
    def overdue(self, at: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Open entries whose time is over, a page at a time."""

    async def expire(self, entries: Sequence[QueueEntry], at: datetime) -> dict[str, QueueEntry]:
        """End entries as EXPIRED, each on condition that it is open, of an order seen, and overdue by
        then; what is there then, by id. What ended so is `unpublished` from then on."""

    def unpublished(self, before: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Entries that expired, or were superseded, before a time and whose event is not safe yet, a page
        at a time."""

    async def is_unpublished(self, entry: QueueEntry) -> bool:
        """Whether this entry expired or was superseded, was not queued anew since, and its event is not
        safe yet."""

    async def published(self, entries: Sequence[QueueEntry]) -> None:
        """Their events are safe."""
