"""The journal of events, and who writes it (owner: checkin)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.domain.command import QueueEntry
from shared.domain.event import Event
from shared.ports.enrollments import Mark


@dataclass(frozen=True, slots=True)
class Journaled:
    """An event in the journal. `size`: the bytes of its body; None where an earlier version wrote it."""

    id: str
    created_at: int
    size: int | None


class Journal(Protocol):
    @property
    def term(self) -> object:
        """Changes when another server answers the store's reads and writes (rule 8)."""

    async def append(self, events: Sequence[Event]) -> list[bool]:
        """Store events. False, per event: its outcome is unknown; never answer 200. Raises Refused where the
        store cannot hold one of them; the others may be stored, and all may be appended again."""

    async def read(self, ids: Collection[str]) -> dict[str, Event]: ...

    async def stored(self, ids: Collection[str]) -> set[str]:
        """Which of these events are in the journal."""

    async def of_device(self, device: str, since: int, upto: int, limit: int) -> list[Journaled]:
        """The first `limit` events of a device with since <= created_at <= upto, whoever wrote them,
        by time; without their bodies."""

    async def answers(self, entry: QueueEntry, since: int, upto: int) -> list[Event]:
        """What its device said of a command with since <= created_at <= upto, by time."""

    async def of_writer(self, writer: str, above: int, limit: int) -> list[tuple[int, Mark]]:
        """Number and mark of the first `limit` events of a writer above a number, by number."""


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """One process start. `watermark`: up to this number every event is done (rule 6);
    `leases` counts how often it was taken over."""

    id: str
    watermark: int
    heartbeat: int
    leases: int = 0


class Writers(Protocol):
    async def register(self, writer: str) -> None: ...

    async def raise_heartbeat(self, writer: str, watermark: int) -> None:
        """Count the heartbeat up and raise the watermark; makes the record if it is gone."""

    async def all(self) -> list[WriterRecord]:
        """By start, earliest first."""

    async def lease(self, record: WriterRecord) -> bool:
        """Take a stale writer over, on condition that nothing changed since `record` was read."""

    async def advance(self, writer: str, watermark: int) -> None:
        """Raise the watermark (never lower it)."""

    async def remove(self, writer: str) -> None:
        """Forget a writer whose events are all done."""
