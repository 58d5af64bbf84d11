"""Commands, entries of queues, jobs and expiry (owner: commands; checkin moves the state of entries)."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.domain.command import Command, EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.job import Job, JobPart, Progress


@dataclass(frozen=True, slots=True)
class Report:
    """A device's answer to a command: ends or defers its entry, on the conditions of rule 5. An entry of
    generation None counts as of this one."""

    enrollment: str
    command_uuid: str
    generation: str | None
    state: EntryState
    event_id: str


@dataclass(frozen=True, slots=True)
class SendClaim:
    """An entry to send, on condition that it is open and of this generation, or of none. `counts`: the send
    before counts as unanswered, on condition that it is the one seen and nothing was answered since."""

    entry: QueueEntry
    generation: str | None
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for the next entry of one queue, of this generation or of none. `with_resting`: also one
    that its device answered NotNow. `reported`: the CommandUUID on which the device reports, whose entry it
    has received; it is passed over, and so are the ids `but_not`."""

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


@dataclass(frozen=True, slots=True)
class Rival:
    """An open entry with a collapse key. `can_lose`: it was never sent, or moved back."""

    enrollment: str
    command_uuid: str
    collapse_key: str
    order: str
    can_lose: bool


class CommandQueue(Protocol):
    # for the command API
    async def store(self, commands: Sequence[Command], at: datetime) -> None:
        """Store commands or, where they are stored already, touch them (rule 13)."""

    async def insert(self, entries: Sequence[QueueEntry]) -> list[QueueEntry | None]:
        """Insert entries. Per entry: None if it was inserted now, else the one that is there."""

    async def put(
        self,
        commands: Sequence[Command],
        entries: Sequence[QueueEntry],
        rivals: Sequence[Rival],
        at: datetime,
    ) -> tuple[list[QueueEntry | None], int]:
        """`store`, `insert` and, for the rivals that were read, `supersede`, in this order and as one write
        where the store can. Where an entry is there already, no rival needs to end. Returns what `insert`
        does, and the number of ended rivals."""

    async def stamp(self, entry: QueueEntry, generation: str | None) -> None:
        """Give an entry another generation, on condition that it is open."""

    async def requeue(self, entry: QueueEntry, seen: QueueEntry) -> bool:
        """Queue again in the place of `seen`, on condition that this final state is unchanged."""

    async def drop(self, entry: QueueEntry) -> QueueEntry | None:
        """End an entry as DROPPED_REENROLLED while it is open and has the generation seen; the entry after
        that."""

    async def open_entries(self, enrollment: EnrollmentKey) -> list[QueueEntry]:
        """All open entries of an enrollment, of any generation, in queue order."""

    async def cancel(
        self, enrollments: Sequence[EnrollmentKey], *, with_event: bool = False
    ) -> int:
        """End all their open entries as CANCELLED; the number of them. `with_event`: each has an event,
        and is `unpublished` from then on."""

    async def cancel_devices(self, devices: Collection[str], *, with_event: bool = False) -> int:
        """`cancel` for all channels of these devices."""

    async def cancel_one(
        self,
        enrollment: str,
        command_uuid: str,
        order: str | None = None,
        *,
        with_event: bool = False,
    ) -> bool:
        """End an open entry (of this order, where one is given) as CANCELLED. False: there is no such one."""

    async def entries_of(self, ids: Collection[str]) -> dict[str, QueueEntry]:
        """Entries by id, open and finished."""

    async def rivals(self, entries: Sequence[QueueEntry]) -> list[Rival]:
        """The open entries of the same enrollments and collapse keys, also those that were sent. `entries`
        have a collapse key and may be stored or not."""

    async def supersede(self, entries: Sequence[QueueEntry]) -> int:
        """End as SUPERSEDED the entries that the newest one of the same enrollment and collapse key replaces:
        the older ones that are open and were never sent, or moved back. The same write names its command.
        `entries` are stored and have a collapse key. Returns the number of ended entries."""

    async def count_open(self, enrollment: EnrollmentKey) -> int:
        """The number of open entries. It costs as much as reading them: not for every request."""

    async def accepted_in(self, window: EntryWindow, limit: int | None = None) -> list[QueueEntry]:
        """Entries, open and finished, accepted in a closed window of time; in no order. With a limit, only
        the last accepted ones."""

    async def has_due(self, enrollments: Sequence[EnrollmentKey], at: datetime) -> set[str]:
        """The ids of these enrollments that have an open entry which may be sent now."""

    def accepted_between(self, since: datetime, until: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Pages of open entries accepted in a closed window of time (for push sweep and janitor)."""

    def beginning_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[QueueEntry]]:
        """Pages of open entries whose `not_before` is in a closed window of time (for the push sweep)."""

    # for check-in
    async def report(self, reports: Sequence[Report], at: datetime) -> int:
        """Apply reports, each on condition that its entry is open, of this generation, and sent since it
        was queued; that resets the unanswered attempts. A report on an entry that ended otherwise is kept
        there as the late answer; any other, such as a repetition, changes nothing. Returns the number of
        closed entries."""

    async def open_of_devices(
        self, devices: Collection[str]
    ) -> dict[str, Collection[QueueEntry] | None]:
        """device -> open entries of all its channels, fit for `mark_sent`, in queue order; None: too many,
        ask for the next one. The cost does not depend on the length of a queue."""

    async def next_of(self, wanted: Sequence[Wanted], at: datetime) -> list[QueueEntry | None]:
        """Per queue the first entry, in queue order, that may be sent now. Of more than 32 whose `not_before`
        has come, the earliest come first. The cost does not depend on entries that rest, begin later, or are
        of another generation."""

    async def mark_sent(self, claims: Sequence[SendClaim], by: str, at: datetime) -> set[str]:
        """Mark as sent by `by`, each on its condition; the ids of the marked entries that had not expired by
        the store's own clock."""

    async def move_back(self, entries: Sequence[QueueEntry]) -> set[str]:
        """Put entries behind all others of their queues and count their last sends as unanswered, each on
        condition that this is still the last send and nothing was answered since; the ids of those that
        moved. An entry with a collapse key can then be superseded again, at once where a newer one waits."""

    async def end_generation(self, device: str, generation: str) -> int:
        """End the open entries of the generation that an Authenticate replaced, or of none."""

    async def commands(self, hashes: Collection[str]) -> dict[str, Command]:
        """The stored commands. One that cannot be decrypted says so, and fails no other."""


class StoredCommands(Protocol):
    """The commands themselves, for the janitor (rule 13)."""

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        """hash -> `touched` of commands not touched since `before`, of hashes that begin so (lower-case
        hex)."""

    async def in_use(self, hashes: Collection[str]) -> set[str]:
        """The hashes of these commands that have an entry, open or finished, or a job that runs."""

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        """Delete commands (hash -> `touched`), each while `touched` is as read; the number of deletions."""


class Jobs(Protocol):
    """A job is there once `add` has returned; parts that no job names leave by themselves."""

    async def add_parts(self, parts: Sequence[JobPart], at: datetime) -> None:
        """Store parts, before their job. Safe to repeat."""

    async def add(self, job: Job) -> None:
        """Store a job, whose parts are stored. Safe to repeat."""

    async def get(self, id: str) -> Job | None: ...

    async def newest(self, before: str | None, limit: int) -> list[Job]:
        """The newest jobs whose id sorts before `before`, newest first."""

    async def running(self) -> list[Job]:
        """Jobs that are not finished, oldest first."""

    async def part(self, job: str, number: int) -> JobPart | None: ...

    async def results(
        self, job: str, numbers: Sequence[int], *, refusals: bool = True
    ) -> list[JobPart]:
        """These parts, in order, without their targets, and without refusals where they are not wanted."""

    async def finish_part(self, part: JobPart) -> None:
        """Keep the results of a part. Of two workers that did it, one's results stay."""

    async def take(self, job: Job, owner: str) -> bool:
        """Change the owner, on condition that `owner` and `heartbeats` are as in `job`, and that it runs."""

    async def raise_heartbeat(self, job: str, owner: str, progress: Progress) -> bool:
        """Report that its owner is alive, and the progress. False: it has another owner, or is finished."""

    async def give_up(self, owner: str) -> None:
        """Release the jobs of this owner, so that others take them at once."""

    async def finish(
        self, job: str, progress: Progress, at: datetime, error: str | None = None
    ) -> None:
        """End a job, with this error if it failed; one that has ended stays as it is."""


class Expiries(Protocol):
    def overdue(self, at: datetime) -> AsyncIterator[list[QueueEntry]]: ...

    async def expire(self, entries: Sequence[QueueEntry], at: datetime) -> dict[str, QueueEntry]:
        """End entries as EXPIRED, each on condition that it is open, of an order seen, and overdue; the
        entries after that, by id. The ended ones are `unpublished` from then on."""

    def unpublished(self, before: datetime) -> AsyncIterator[list[QueueEntry]]:
        """Pages of entries that ended in one of ANNOUNCED_STATES before a time, and whose event
        is not safe."""

    async def is_unpublished(self, entry: QueueEntry) -> bool:
        """True where it is `unpublished`, and not queued again."""

    async def published(self, entries: Sequence[QueueEntry]) -> None:
        """Note that their events are safe."""
