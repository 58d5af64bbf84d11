"""Journal, writers and members in memory, and a broker that the test controls."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum

from shared.domain.command import QueueEntry
from shared.domain.errors import CannotDecrypt, TooLarge
from shared.domain.event import Event, Topic
from shared.ports.enrollments import Mark
from shared.ports.events import Appended, Journaled, WriterRecord
from shared.times import from_nanoseconds, nanoseconds, to_milliseconds
from tests.support.fakes.queue import Hook, undisturbed

MOST_BYTES = 16_000_000


class FakeJournal:
    """`Journal` on a dictionary."""

    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.events: dict[str, Event] = {}
        self.term: object = "first"
        self.unreadable: set[str] = set()
        """Ids of events whose key is missing."""

    async def append(self, events: Sequence[Event]) -> list[Appended]:
        await self.before("append")
        if any(len(event.raw_payload) > MOST_BYTES for event in events):
            raise TooLarge("the document is too large for the store")
        there = [event.id in self.events for event in events]
        for event in events:
            self.events.setdefault(event.id, event)
        return [Appended.THERE if is_there else Appended.STORED for is_there in there]

    async def read(self, ids: Collection[str]) -> dict[str, Event]:
        await self.before("read")
        if not self.unreadable.isdisjoint(ids):
            raise CannotDecrypt("no key")
        return {i: self.events[i] for i in ids if i in self.events}

    async def stored(self, ids: Collection[str]) -> dict[str, int]:
        await self.before("stored")
        return {i: self.events[i].created_at for i in ids if i in self.events}

    async def of_device(self, device: str, since: int, upto: int, limit: int) -> list[Journaled]:
        await self.before("of_device")
        found = [
            event
            for event in self.events.values()
            if event.key.device == device and since <= event.created_at <= upto
        ]
        found.sort(key=lambda event: event.created_at)
        return [Journaled(e.id, e.created_at, len(e.raw_payload)) for e in found[:limit]]

    async def between(
        self, since: datetime, before: datetime, limit: int
    ) -> tuple[list[Journaled], datetime]:
        await self.before("between")
        low, high = nanoseconds(to_milliseconds(since)), nanoseconds(to_milliseconds(before))
        found = [event for event in self.events.values() if low <= event.created_at < high]
        found.sort(key=lambda event: event.created_at)
        if not found:
            return [], since
        end = found[:limit][-1].created_at // 10**6 * 10**6 + 10**6
        return [
            Journaled(e.id, e.created_at, len(e.raw_payload), e.topic.value, e.key.device)
            for e in found
            if e.created_at < end
        ], from_nanoseconds(end)

    async def answers(self, entry: QueueEntry, since: int, upto: int) -> list[Event]:
        await self.before("answers")
        named = (Topic.CONNECT, entry.enrollment, entry.command_uuid)
        found = [
            event
            for event in self.events.values()
            if (event.topic, event.key.id, event.command_uuid) == named
            and since <= event.created_at <= upto
        ]
        return sorted(found, key=lambda event: event.created_at)

    async def of_writer(self, writer: str, above: int, limit: int) -> list[tuple[int, Mark]]:
        await self.before("of_writer")
        found = [e for e in self.events.values() if e.writer == writer and e.number > above]
        found.sort(key=lambda event: event.number)
        return [(e.number, Mark(e.key.device, e.created_at)) for e in found[:limit]]


class FakeWriters:
    """`Writers` on a dictionary."""

    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.records: dict[str, WriterRecord] = {}

    async def register(self, writer: str) -> None:
        await self.before("register")
        self.records.setdefault(writer, WriterRecord(writer, 0, 0))

    async def raise_heartbeat(self, writer: str, watermark: int) -> None:
        await self.before("raise_heartbeat")
        record = self.records.get(writer, WriterRecord(writer, 0, 0))
        self.records[writer] = replace(
            record,
            heartbeat=record.heartbeat + 1,
            watermark=max(record.watermark, watermark),
        )

    async def all(self) -> list[WriterRecord]:
        await self.before("all")
        return [self.records[writer] for writer in sorted(self.records)]

    async def lease(self, record: WriterRecord) -> bool:
        await self.before("lease")
        now = self.records.get(record.id)
        if now is None or (now.heartbeat, now.leases) != (record.heartbeat, record.leases):
            return False
        self.records[record.id] = replace(now, leases=now.leases + 1)
        return True

    async def advance(self, writer: str, watermark: int) -> None:
        await self.before("advance")
        record = self.records.get(writer)
        if record is not None:
            self.records[writer] = replace(record, watermark=max(record.watermark, watermark))

    async def remove(self, writer: str) -> None:
        await self.before("remove")
        self.records.pop(writer, None)


class FakeMembers:
    """`Members` on dictionaries."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}

    async def raise_heartbeat(self, role: str, member: str) -> None:
        of_role = self.counts.setdefault(role, {})
        of_role[member] = of_role.get(member, 0) + 1

    async def heartbeats(self, role: str) -> dict[str, int]:
        return dict(self.counts.get(role, {}))

    async def leave(self, role: str, member: str) -> None:
        self.counts.get(role, {}).pop(member, None)


class Confirm(Enum):
    """What becomes of a publish."""

    CONFIRMED = "confirmed"
    LOST = "not taken"
    TAKEN_UNCONFIRMED = "taken, the confirm lost"


class FakePublisher:
    """`EventPublisher`: `outcome` decides on each publish; `published` is what the broker has. Events of
    a partition in `away` fail at once, all while `is_live` is False."""

    def __init__(self, outcome: Callable[[Event], Confirm] = lambda _: Confirm.CONFIRMED) -> None:
        self.outcome = outcome
        self.before: Hook = undisturbed
        self.published: list[Event] = []
        self.is_live = True
        self.away: frozenset[int] = frozenset()

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        await self.before("publish")
        confirmed = []
        for event in events:
            is_refused = not self.is_live or event.key.partition in self.away
            outcome = Confirm.LOST if is_refused else self.outcome(event)
            if outcome is not Confirm.LOST:
                self.published.append(event)
            confirmed.append(outcome is Confirm.CONFIRMED)
            if confirmed[-1] and settled is not None:
                settled(event)
        return confirmed

    def firsts(self, device: str) -> list[str]:
        """Ids of a device's events in the order of their first publication."""
        return list(dict.fromkeys(e.id for e in self.published if e.key.device == device))
