"""The command queue in memory.

Each operation on one document is atomic, and between two documents others get their turn, as on a real
store. What a caller may rely on is in the port's docstrings; the contract suite holds both to them.
"""

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from shared.domain.command import Command, EntryState, LateAnswer, QueueEntry, entry_id
from shared.domain.enrollment import EnrollmentKey
from shared.ports.queue import EntryWindow, Report, Rival, SendClaim, Wanted
from tests.support.fakes.jobs import FakeJobs

Hook = Callable[[str], Awaitable[None]]
"""Called with an operation's name before it touches anything: a test's barrier or fault."""


FORGOTTEN: dict[str, Any] = {
    "first_handed_at": None,
    "unanswered": 0,
    "is_counted": False,
    "moved": None,
}
"""The attempts of an entry when its device has answered."""

PAGE = 2
FEW = 8
"""Open entries of a device that are read at once."""


async def undisturbed(operation: str) -> None:
    """Let others have their turn, as any round trip to a store does."""
    await asyncio.sleep(0)


@dataclass(slots=True)
class _Stored:
    command: Command
    touched: datetime


def in_queue_order(entries: Collection[QueueEntry]) -> list[QueueEntry]:
    return sorted(entries, key=lambda entry: entry.queue_order)


def _is_seen(entry: QueueEntry, seen: QueueEntry) -> bool:
    """Its send is the one that was seen, and nothing was answered since."""
    return entry.state is EntryState.SENT and entry.handed_by == seen.handed_by


def _pages(entries: list[QueueEntry]) -> Iterator[list[QueueEntry]]:
    """Small ones, and one that is empty at the end."""
    for start in range(0, len(entries) + 1, PAGE):
        yield entries[start : start + PAGE]


class FakeCommandQueue:
    """`CommandQueue`, `StoredCommands` and `Expiries` on dictionaries."""

    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.entries: dict[str, QueueEntry] = {}
        self.unsafe: set[str] = set()
        """ids of the entries whose end is not published."""
        self.unreadable: set[str] = set()
        """uuids of the commands that cannot be opened."""
        self.now: datetime | None = None
        """The time of the store, where it differs from the caller's."""
        self.jobs = FakeJobs()
        """Those of the same store."""
        self._stored: dict[str, _Stored] = {}

    # --- for the command API

    async def store(self, commands: Sequence[Command], at: datetime) -> None:
        await self.before("store")
        for command in commands:
            there = self._stored.get(command.hash)
            if there is None:
                self._stored[command.hash] = _Stored(command, at)
            else:
                there.touched = max(there.touched, at)
            await asyncio.sleep(0)

    async def insert(self, entries: Sequence[QueueEntry]) -> list[QueueEntry | None]:
        await self.before("insert")
        there: list[QueueEntry | None] = []
        for entry in entries:
            existing = self.entries.get(entry.id)
            there.append(existing)
            if existing is None:
                self.entries[entry.id] = entry
            await asyncio.sleep(0)
        return there

    async def stamp(self, entry: QueueEntry, generation: str | None) -> None:
        await self.before("stamp")
        current = self.entries.get(entry.id)
        if current is not None and current.state.is_open and current.order == entry.order:
            self.entries[entry.id] = replace(current, generation=generation)

    async def requeue(self, entry: QueueEntry, seen: QueueEntry) -> bool:
        await self.before("requeue")
        current = self.entries.get(entry.id)
        if current is None or current.state.is_open:
            return False
        if (current.state, current.order) != (seen.state, seen.order):
            return False
        self.entries[entry.id] = replace(
            entry,
            state=EntryState.QUEUED,
            handed_by=None,
            handed_at=None,
            attempts=0,
            answered_at=None,
            finished_at=None,
            late_answer=None,
            superseded_by=None,
            **FORGOTTEN,
        )
        self.unsafe.discard(entry.id)
        return True

    async def drop(self, entry: QueueEntry) -> QueueEntry | None:
        await self.before("drop")
        current = self.entries.get(entry.id)
        if current is None:
            return None
        if current.state.is_open and current.generation == entry.generation:
            current = self._finish(current, EntryState.DROPPED_REENROLLED, None)
        return current

    async def open_entries(self, enrollment: EnrollmentKey) -> list[QueueEntry]:
        await self.before("open_entries")
        return self._open(lambda entry: entry.enrollment == enrollment.id)

    async def cancel(
        self, enrollments: Sequence[EnrollmentKey], *, with_event: bool = False
    ) -> int:
        await self.before("cancel")
        ids = {enrollment.id for enrollment in enrollments}
        return await self._end(
            lambda each: each.enrollment in ids, EntryState.CANCELLED, with_event=with_event
        )

    async def cancel_devices(self, devices: Collection[str], *, with_event: bool = False) -> int:
        await self.before("cancel_devices")
        return await self._end(
            lambda each: each.device in devices, EntryState.CANCELLED, with_event=with_event
        )

    async def cancel_one(
        self,
        enrollment: str,
        command_uuid: str,
        order: str | None = None,
        *,
        with_event: bool = False,
    ) -> bool:
        await self.before("cancel_one")
        named = (enrollment, command_uuid)
        ended = await self._end(
            lambda entry: (
                (entry.enrollment, entry.command_uuid) == named and order in (None, entry.order)
            ),
            EntryState.CANCELLED,
            with_event=with_event,
        )
        return ended == 1

    async def entries_of(self, ids: Collection[str]) -> dict[str, QueueEntry]:
        await self.before("entries_of")
        return {id_: self.entries[id_] for id_ in ids if id_ in self.entries}

    async def put(
        self,
        commands: Sequence[Command],
        entries: Sequence[QueueEntry],
        rivals: Sequence[Rival],
        at: datetime,
    ) -> tuple[list[QueueEntry | None], int]:
        if commands:
            await self.store(commands, at)
        there = await self.insert(entries)
        if any(there) or not rivals:
            return there, 0
        await self.before("end")
        newest = {(each.enrollment, each.collapse_key): each for each in entries}
        ended = 0
        for rival in rivals:
            by = newest.get((rival.enrollment, rival.collapse_key))
            current = self.entries.get(entry_id(rival.enrollment, rival.command_uuid))
            if by is None or current is None or current.order != rival.order:
                continue
            if current.state.is_open and rival.order < by.order:
                ended += self._end_for(by, current)
        return there, ended

    async def rivals(self, entries: Sequence[QueueEntry]) -> list[Rival]:
        await self.before("rivals")
        return [
            Rival(
                each.enrollment,
                each.command_uuid,
                each.collapse_key,
                each.order,
                can_lose=each.handed_by is None or each.moved is not None,
            )
            for each in self._rivals(entries)
            if each.collapse_key is not None
        ]

    def _rivals(self, entries: Sequence[QueueEntry]) -> list[QueueEntry]:
        wanted = {(each.enrollment, each.collapse_key) for each in entries}
        return self._open(lambda each: (each.enrollment, each.collapse_key) in wanted)

    async def supersede(self, entries: Sequence[QueueEntry]) -> int:
        await self.before("supersede")
        ended = 0
        for entry in entries:
            rivals = self._rivals([entry])
            newest = max(rivals, key=lambda rival: rival.order, default=entry)
            ended += sum(
                self._end_for(newest, each) for each in rivals if each.order < newest.order
            )
        return ended

    def _end_for(self, newer: QueueEntry, older: QueueEntry) -> bool:
        if older.handed_by is not None and older.moved is None:
            return False
        by = replace(older, superseded_by=newer.command_uuid)
        self._finish(by, EntryState.SUPERSEDED, None)
        self.unsafe.add(older.id)
        return True

    async def count_open(self, enrollment: EnrollmentKey) -> int:
        await self.before("count_open")
        return len(self._open(lambda entry: entry.enrollment == enrollment.id))

    async def accepted_in(self, window: EntryWindow, limit: int | None = None) -> list[QueueEntry]:
        await self.before("accepted_in")
        found = [
            entry
            for entry in self.entries.values()
            if entry.accepted_at is not None
            and window.since <= entry.accepted_at <= window.until
            and window.enrollment in (None, entry.enrollment)
            and window.request_type in (None, entry.request_type)
            and (window.states is None or entry.state in window.states)
        ]
        if limit is None:
            return found
        newest = sorted(found, key=lambda entry: str(entry.accepted_at), reverse=True)
        return newest[:limit]

    async def has_due(self, enrollments: Sequence[EnrollmentKey], at: datetime) -> set[str]:
        await self.before("has_due")
        ids = {enrollment.id for enrollment in enrollments}
        due = self._open(lambda entry: entry.enrollment in ids and entry.is_due(at))
        return {entry.enrollment for entry in due}

    async def accepted_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[QueueEntry]]:
        await self.before("accepted_between")
        found = self._open(
            lambda entry: entry.accepted_at is not None and since <= entry.accepted_at <= until
        )
        for page in _pages(found):
            yield page

    async def beginning_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[QueueEntry]]:
        await self.before("beginning_between")
        found = self._open(
            lambda entry: entry.not_before is not None and since <= entry.not_before <= until
        )
        for page in _pages(found):
            yield page

    # --- for check-in

    async def report(self, reports: Sequence[Report], at: datetime) -> int:
        await self.before("report")
        closed = 0
        for report in reports:
            closed += self._report(report, at)
            await asyncio.sleep(0)
        return closed

    def _report(self, report: Report, at: datetime) -> bool:
        """Whether it closed its entry."""
        entry = self._named(report.enrollment, report.command_uuid)
        if entry is None:
            return False
        counts = (
            entry.state.is_open
            and entry.generation in (None, report.generation)
            and entry.handed_by is not None
        )
        if not counts:
            if not entry.state.is_open and entry.state is not report.state:
                late = LateAnswer(report.state, report.event_id, at)
                self.entries[entry.id] = replace(entry, late_answer=late)
        elif report.state.is_open:
            self.entries[entry.id] = replace(entry, state=report.state, answered_at=at, **FORGOTTEN)
        else:
            self._finish(replace(entry, answered_at=at, **FORGOTTEN), report.state, at)
            return True
        return False

    async def open_of_devices(
        self, devices: Collection[str]
    ) -> dict[str, Collection[QueueEntry] | None]:
        await self.before("open_of_devices")
        found: dict[str, list[QueueEntry]] = {}
        for entry in self._open(lambda entry: entry.device in devices):
            found.setdefault(entry.device, []).append(entry)
        return {device: those if len(those) <= FEW else None for device, those in found.items()}

    async def next_of(self, wanted: Sequence[Wanted], at: datetime) -> list[QueueEntry | None]:
        await self.before("next_of")
        return [self._next(each, at) for each in wanted]

    def _next(self, wanted: Wanted, at: datetime) -> QueueEntry | None:
        for entry in self._open(lambda entry: entry.enrollment == wanted.enrollment):
            rests = entry.state is EntryState.NOT_NOW and not wanted.with_resting
            is_of_it = entry.generation in (None, wanted.generation)
            if is_of_it and entry.is_due(at) and not (rests or wanted.passes_over(entry)):
                return entry
        return None

    async def mark_sent(self, claims: Sequence[SendClaim], by: str, at: datetime) -> set[str]:
        await self.before("mark_sent")
        for claim in claims:
            current = self.entries.get(claim.entry.id)
            if (
                current is not None
                and current.state.is_open
                and current.generation in (None, claim.generation)
                and (not claim.counts or _is_seen(current, claim.entry))
                and (current.moved is not None) == (has_moved := claim.entry.moved is not None)
            ):
                self.entries[current.id] = replace(
                    current,
                    state=EntryState.SENT,
                    handed_by=by,
                    handed_at=at,
                    attempts=current.attempts + 1,
                    first_handed_at=current.first_handed_at or at,
                    unanswered=current.unanswered + claim.counts,
                    is_counted=current.is_counted and not has_moved,
                    moved=(self.now or at) if has_moved else current.moved,
                )
            await asyncio.sleep(0)
        await self.before("hand_out: reads again")
        asked = {claim.entry.id for claim in claims}
        ours = self._open(lambda p: p.id in asked and p.handed_by == by)
        return {entry.id for entry in ours if not entry.is_expired(self.now or at)}

    async def move_back(self, entries: Sequence[QueueEntry]) -> set[str]:
        await self.before("move_back")
        moved = set()
        for entry in entries:
            current = self.entries.get(entry.id)
            if current is None or not _is_seen(current, entry) or current.moved is not None:
                continue
            self.entries[entry.id] = replace(
                current,
                unanswered=current.unanswered + 1,
                is_counted=True,
                moved=self.now or current.handed_at,
            )
            if entry.collapse_key is not None:
                await self.supersede([entry])
            if self.entries[entry.id].state.is_open:
                moved.add(entry.id)
            await asyncio.sleep(0)
        return moved

    async def end_generation(self, device: str, generation: str) -> int:
        await self.before("end_generation")
        return await self._end(
            lambda entry: entry.device == device and entry.generation in (None, generation),
            EntryState.DROPPED_REENROLLED,
        )

    async def commands(self, hashes: Collection[str]) -> dict[str, Command]:
        await self.before("commands")
        found = {h: self._stored[h].command for h in hashes if h in self._stored}
        encrypted = {h: command for h, command in found.items() if command.uuid in self.unreadable}
        return found | {
            h: replace(c, plist=b"", unreadable="encrypted") for h, c in encrypted.items()
        }

    # --- for the janitor

    async def overdue(self, at: datetime) -> AsyncIterator[list[QueueEntry]]:
        await self.before("overdue")
        found = self._open(lambda entry: entry.is_expired(at))
        for page in _pages(found):
            yield page

    async def expire(self, entries: Sequence[QueueEntry], at: datetime) -> dict[str, QueueEntry]:
        await self.before("expire")
        for entry in entries:
            current = self.entries.get(entry.id)
            if current is None or not current.state.is_open or not current.is_expired(at):
                continue
            if current.order == entry.order:
                self._finish(current, EntryState.EXPIRED, at)
                self.unsafe.add(current.id)
            await asyncio.sleep(0)
        return {entry.id: self.entries[entry.id] for entry in entries if entry.id in self.entries}

    async def unpublished(self, before: datetime) -> AsyncIterator[list[QueueEntry]]:
        await self.before("unpublished")
        found = [
            self.entries[id_]
            for id_ in self.unsafe
            if (self.entries[id_].finished_at or before) < before
        ]
        for page in _pages(found):
            yield page

    async def is_unpublished(self, entry: QueueEntry) -> bool:
        await self.before("is_unpublished")
        current = self.entries.get(entry.id)
        is_there = current is not None and current.order == entry.order
        return is_there and entry.id in self.unsafe

    async def published(self, entries: Sequence[QueueEntry]) -> None:
        await self.before("published")
        for entry in entries:
            current = self.entries.get(entry.id)
            if current is not None and current.order == entry.order:
                self.unsafe.discard(entry.id)

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        await self.before("untouched")
        return {
            h: stored.touched
            for h, stored in self._stored.items()
            if h.startswith(prefix) and stored.touched < before
        }

    async def in_use(self, hashes: Collection[str]) -> set[str]:
        await self.before("in_use")
        running = {job.command_hash for job in await self.jobs.running()}
        return (running | {p.command_hash for p in self.entries.values()}).intersection(hashes)

    async def forget(self, commands: Mapping[str, datetime]) -> int:
        await self.before("forget")
        forgotten = 0
        for command_hash, touched in commands.items():
            there = self._stored.get(command_hash)
            if there is not None and there.touched == touched:
                del self._stored[command_hash]
                forgotten += 1
            await asyncio.sleep(0)
        return forgotten

    # --- inside

    def _named(self, enrollment: str, command_uuid: str) -> QueueEntry | None:
        for entry in self.entries.values():
            if (entry.enrollment, entry.command_uuid) == (enrollment, command_uuid):
                return entry
        return None

    def _open(self, match: Callable[[QueueEntry], bool]) -> list[QueueEntry]:
        return in_queue_order([p for p in self.entries.values() if p.state.is_open and match(p)])

    def _finish(self, entry: QueueEntry, state: EntryState, at: datetime | None) -> QueueEntry:
        finished = replace(entry, state=state, finished_at=at or entry.accepted_at)
        self.entries[entry.id] = finished
        return finished

    async def _end(
        self, match: Callable[[QueueEntry], bool], state: EntryState, *, with_event: bool = False
    ) -> int:
        ended = 0
        for id_ in [entry.id for entry in self._open(match)]:
            current = self.entries.get(id_)
            if current is not None and current.state.is_open and match(current):
                self._finish(current, state, None)
                if with_event:
                    self.unsafe.add(id_)
                ended += 1
            await asyncio.sleep(0)
        return ended
