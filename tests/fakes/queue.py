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

from shared.domain.command import Command, LateAnswer, Place, PlaceState
from shared.domain.enrollment import EnrollmentKey
from shared.ports.queue import HandOut, PlaceWindow, Report, Wanted

Hook = Callable[[str], Awaitable[None]]
"""Called with an operation's name before it touches anything: a test's barrier or fault."""


FORGOTTEN: dict[str, Any] = {
    "first_handed_at": None,
    "unanswered": 0,
    "is_counted": False,
    "moved": None,
}
"""The attempts of a place when its device has answered."""

PAGE = 2
FEW = 8
"""Open places of a device that are read at once."""


async def undisturbed(operation: str) -> None:
    """Let others have their turn, as any round trip to a store does."""
    await asyncio.sleep(0)


@dataclass(slots=True)
class _Stored:
    command: Command
    touched: datetime


def in_queue_order(places: Collection[Place]) -> list[Place]:
    return sorted(places, key=lambda place: place.queue_order)


def _is_seen(place: Place, seen: Place) -> bool:
    """Its hand-out is the one that was seen, and nothing was answered since."""
    return place.state is PlaceState.SENT and place.handed_by == seen.handed_by


def _pages(places: list[Place]) -> Iterator[list[Place]]:
    """Small ones, and one that is empty at the end."""
    for start in range(0, len(places) + 1, PAGE):
        yield places[start : start + PAGE]


class FakeCommandQueue:
    """`CommandQueue`, `StoredCommands` and `Expiries` on dictionaries."""

    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.places: dict[str, Place] = {}
        self.unsafe: set[str] = set()
        """ids of the places whose end is not announced."""
        self.unreadable: set[str] = set()
        """uuids of the commands that cannot be opened."""
        self.now: datetime | None = None
        """The time of the store, where it is another one than that of whoever asks."""
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

    async def insert(self, places: Sequence[Place]) -> list[Place | None]:
        await self.before("insert")
        there: list[Place | None] = []
        for place in places:
            existing = self.places.get(place.id)
            there.append(existing)
            if existing is None:
                self.places[place.id] = place
            await asyncio.sleep(0)
        return there

    async def stamp(self, place: Place, generation: str | None) -> None:
        await self.before("stamp")
        current = self.places.get(place.id)
        if current is not None and current.state.is_open and current.order == place.order:
            self.places[place.id] = replace(current, generation=generation)

    async def requeue(self, place: Place, seen: Place) -> bool:
        await self.before("requeue")
        current = self.places.get(place.id)
        if current is None or current.state.is_open:
            return False
        if (current.state, current.order) != (seen.state, seen.order):
            return False
        self.places[place.id] = replace(
            place,
            state=PlaceState.QUEUED,
            handed_by=None,
            handed_at=None,
            attempts=0,
            answered_at=None,
            finished_at=None,
            late_answer=None,
            superseded_by=None,
            **FORGOTTEN,
        )
        self.unsafe.discard(place.id)
        return True

    async def drop(self, place: Place) -> Place | None:
        await self.before("drop")
        current = self.places.get(place.id)
        if current is None:
            return None
        if current.state.is_open and current.generation == place.generation:
            current = self._finish(current, PlaceState.DROPPED_REENROLLED, None)
        return current

    async def open_places(self, enrollment: EnrollmentKey) -> list[Place]:
        await self.before("open_places")
        return self._open(lambda place: place.enrollment == enrollment.id)

    async def cancel(self, enrollments: Sequence[EnrollmentKey]) -> int:
        await self.before("cancel")
        ids = {enrollment.id for enrollment in enrollments}
        return await self._end(lambda place: place.enrollment in ids, PlaceState.CANCELLED)

    async def cancel_devices(self, devices: Collection[str]) -> int:
        await self.before("cancel_devices")
        return await self._end(lambda place: place.device in devices, PlaceState.CANCELLED)

    async def cancel_one(
        self, enrollment: str, command_uuid: str, order: str | None = None
    ) -> bool:
        await self.before("cancel_one")
        named = (enrollment, command_uuid)
        ended = await self._end(
            lambda place: (
                (place.enrollment, place.command_uuid) == named and order in (None, place.order)
            ),
            PlaceState.CANCELLED,
        )
        return ended == 1

    async def places_of(self, ids: Collection[str]) -> dict[str, Place]:
        await self.before("places_of")
        return {id_: self.places[id_] for id_ in ids if id_ in self.places}

    async def highest_orders(self, places: Sequence[Place]) -> dict[tuple[str, str], str]:
        await self.before("highest_orders")
        wanted = {(place.enrollment, place.collapse_key) for place in places}
        highest: dict[tuple[str, str], str] = {}
        for rival in self._open(lambda place: (place.enrollment, place.collapse_key) in wanted):
            key = rival.enrollment, rival.collapse_key or ""
            highest[key] = max(rival.order, highest.get(key, ""))
        return highest

    async def supersede(self, places: Sequence[Place]) -> int:
        await self.before("supersede")
        ended = 0
        for place in places:
            rivals = self._open(
                lambda p, place=place: (  # type: ignore[misc]  # bound now
                    (p.enrollment, p.collapse_key) == (place.enrollment, place.collapse_key)
                )
            )
            newest = max(rivals, key=lambda rival: rival.order, default=place)
            for rival in rivals:
                was_given = rival.handed_by is not None and rival.moved is None
                if rival.order < newest.order and not was_given:
                    by = replace(rival, superseded_by=newest.command_uuid)
                    self._finish(by, PlaceState.SUPERSEDED, None)
                    self.unsafe.add(rival.id)
                    ended += 1
        return ended

    async def count_open(self, enrollment: EnrollmentKey) -> int:
        await self.before("count_open")
        return len(self._open(lambda place: place.enrollment == enrollment.id))

    async def accepted_in(self, window: PlaceWindow, limit: int | None = None) -> list[Place]:
        await self.before("accepted_in")
        found = [
            place
            for place in self.places.values()
            if place.accepted_at is not None
            and window.since <= place.accepted_at <= window.until
            and window.enrollment in (None, place.enrollment)
            and window.request_type in (None, place.request_type)
            and (window.states is None or place.state in window.states)
        ]
        if limit is None:
            return found
        newest = sorted(found, key=lambda place: str(place.accepted_at), reverse=True)
        return newest[:limit]

    async def has_due(self, enrollments: Sequence[EnrollmentKey], at: datetime) -> set[str]:
        await self.before("has_due")
        ids = {enrollment.id for enrollment in enrollments}
        due = self._open(lambda place: place.enrollment in ids and place.is_due(at))
        return {place.enrollment for place in due}

    async def accepted_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[Place]]:
        await self.before("accepted_between")
        found = self._open(
            lambda place: place.accepted_at is not None and since <= place.accepted_at <= until
        )
        for page in _pages(found):
            yield page

    async def beginning_between(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[list[Place]]:
        await self.before("beginning_between")
        found = self._open(
            lambda place: place.not_before is not None and since <= place.not_before <= until
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
        """Whether it closed its place."""
        place = self._named(report.enrollment, report.command_uuid)
        if place is None:
            return False
        counts = (
            place.state.is_open
            and place.generation in (None, report.generation)
            and place.handed_by is not None
        )
        if not counts:
            if not place.state.is_open and place.state is not report.state:
                late = LateAnswer(report.state, report.event_id, at)
                self.places[place.id] = replace(place, late_answer=late)
        elif report.state.is_open:
            self.places[place.id] = replace(place, state=report.state, answered_at=at, **FORGOTTEN)
        else:
            self._finish(replace(place, answered_at=at, **FORGOTTEN), report.state, at)
            return True
        return False

    async def open_of_devices(self, devices: Collection[str]) -> dict[str, list[Place] | None]:
        await self.before("open_of_devices")
        found: dict[str, list[Place]] = {}
        for place in self._open(lambda place: place.device in devices):
            found.setdefault(place.device, []).append(place)
        return {device: those if len(those) <= FEW else None for device, those in found.items()}

    async def next_of(self, wanted: Sequence[Wanted], at: datetime) -> list[Place | None]:
        await self.before("next_of")
        return [self._next(each, at) for each in wanted]

    def _next(self, wanted: Wanted, at: datetime) -> Place | None:
        for place in self._open(lambda place: place.enrollment == wanted.enrollment):
            rests = place.state is PlaceState.NOT_NOW and not wanted.with_resting
            is_of_it = place.generation in (None, wanted.generation)
            if is_of_it and place.is_due(at) and not (rests or wanted.passes_over(place)):
                return place
        return None

    async def hand_out(self, handouts: Sequence[HandOut], by: str, at: datetime) -> set[str]:
        await self.before("hand_out")
        for handout in handouts:
            current = self.places.get(handout.place.id)
            if (
                current is not None
                and current.state.is_open
                and current.generation in (None, handout.generation)
                and (not handout.counts or _is_seen(current, handout.place))
                and (current.moved is not None) == (has_moved := handout.place.moved is not None)
            ):
                self.places[current.id] = replace(
                    current,
                    state=PlaceState.SENT,
                    handed_by=by,
                    handed_at=at,
                    attempts=current.attempts + 1,
                    first_handed_at=current.first_handed_at or at,
                    unanswered=current.unanswered + handout.counts,
                    is_counted=current.is_counted and not has_moved,
                    moved=(self.now or at) if has_moved else current.moved,
                )
            await asyncio.sleep(0)
        await self.before("hand_out: reads again")
        asked = {handout.place.id for handout in handouts}
        ours = self._open(lambda p: p.id in asked and p.handed_by == by)
        return {place.id for place in ours if not place.is_expired(self.now or at)}

    async def move_back(self, places: Sequence[Place]) -> set[str]:
        await self.before("move_back")
        moved = set()
        for place in places:
            current = self.places.get(place.id)
            if current is None or not _is_seen(current, place) or current.moved is not None:
                continue
            self.places[place.id] = replace(
                current,
                unanswered=current.unanswered + 1,
                is_counted=True,
                moved=self.now or current.handed_at,
            )
            if place.collapse_key is not None:
                await self.supersede([place])
            if self.places[place.id].state.is_open:
                moved.add(place.id)
            await asyncio.sleep(0)
        return moved

    async def end_generation(self, device: str, generation: str) -> int:
        await self.before("end_generation")
        return await self._end(
            lambda place: place.device == device and place.generation in (None, generation),
            PlaceState.DROPPED_REENROLLED,
        )

    async def commands(self, hashes: Collection[str]) -> dict[str, Command]:
        await self.before("commands")
        found = {h: self._stored[h].command for h in hashes if h in self._stored}
        encrypted = {h: command for h, command in found.items() if command.uuid in self.unreadable}
        return found | {
            h: replace(c, plist=b"", unreadable="encrypted") for h, c in encrypted.items()
        }

    # --- for the janitor

    async def overdue(self, at: datetime) -> AsyncIterator[list[Place]]:
        await self.before("overdue")
        found = self._open(lambda place: place.is_expired(at))
        for page in _pages(found):
            yield page

    async def expire(self, places: Sequence[Place], at: datetime) -> dict[str, Place]:
        await self.before("expire")
        for place in places:
            current = self.places.get(place.id)
            if current is None or not current.state.is_open or not current.is_expired(at):
                continue
            if current.order == place.order:
                self._finish(current, PlaceState.EXPIRED, at)
                self.unsafe.add(current.id)
            await asyncio.sleep(0)
        return {place.id: self.places[place.id] for place in places if place.id in self.places}

    async def unannounced(self, before: datetime) -> AsyncIterator[list[Place]]:
        await self.before("unannounced")
        found = [
            self.places[id_]
            for id_ in self.unsafe
            if (self.places[id_].finished_at or before) < before
        ]
        for page in _pages(found):
            yield page

    async def is_unannounced(self, place: Place) -> bool:
        await self.before("is_unannounced")
        current = self.places.get(place.id)
        is_there = current is not None and current.order == place.order
        return is_there and place.id in self.unsafe

    async def announced(self, places: Sequence[Place]) -> None:
        await self.before("announced")
        for place in places:
            current = self.places.get(place.id)
            if current is not None and current.order == place.order:
                self.unsafe.discard(place.id)

    async def untouched(self, prefix: str, before: datetime) -> dict[str, datetime]:
        await self.before("untouched")
        return {
            h: stored.touched
            for h, stored in self._stored.items()
            if h.startswith(prefix) and stored.touched < before
        }

    async def in_use(self, hashes: Collection[str]) -> set[str]:
        await self.before("in_use")
        return {p.command_hash for p in self.places.values() if p.command_hash in hashes}

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

    def _named(self, enrollment: str, command_uuid: str) -> Place | None:
        for place in self.places.values():
            if (place.enrollment, place.command_uuid) == (enrollment, command_uuid):
                return place
        return None

    def _open(self, match: Callable[[Place], bool]) -> list[Place]:
        return in_queue_order([p for p in self.places.values() if p.state.is_open and match(p)])

    def _finish(self, place: Place, state: PlaceState, at: datetime | None) -> Place:
        finished = replace(place, state=state, finished_at=at or place.accepted_at)
        self.places[place.id] = finished
        return finished

    async def _end(self, match: Callable[[Place], bool], state: PlaceState) -> int:
        ended = 0
        for place_id in [place.id for place in self._open(match)]:
            current = self.places.get(place_id)
            if current is not None and current.state.is_open and match(current):
                self._finish(current, state, None)
                ended += 1
            await asyncio.sleep(0)
        return ended
