"""Events on the broker, the journal of events and its writers, and refused messages (owner: checkin)."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Protocol

from shared.domain.command import QueueEntry
from shared.domain.enrollment import Refusal
from shared.domain.event import Event
from shared.ports.enrollments import Mark


class EventPublisher(Protocol):
    @property
    def is_live(self) -> bool:
        """False while the whole broker takes nothing: a caller with much to publish stops for now."""

    @property
    def away(self) -> frozenset[int]:
        """Partitions that take nothing for now though the broker answers: their events fail at once. One
        leaves this set when its next probe is due, and the next event published to it is that probe; so
        omit these from a pass, but begin with all partitions in the next one."""

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        """Per event, True where the broker took it within the deadline. It never raises for a broken
        broker.

        `settled` is called once for each event that is safe, at the broker's confirm or (in-process broker)
        the consumer's ack, maybe before `publish` returns; not for an event that is lost."""


class Received(Protocol):
    """An event as a consumer gets it."""

    @property
    def event_id(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def created_at(self) -> int | None:
        """Its time (nanoseconds); None: only the journal has it."""

    @property
    def size(self) -> int:
        """Bytes of the body, in memory or not."""

    @property
    def held(self) -> int:
        """The bytes that this object keeps in memory for its consumer."""

    @property
    def body(self) -> bytes | None:
        """The webhook's JSON, the same bytes every time; None: only the journal has it."""

    def drop_body(self) -> bool:
        """Forget a body that the journal has too; False where there was none."""

    async def ack(self) -> None:
        """Ack it; on a lost channel this does nothing, and the event comes again."""

    async def dead_letter(self, reason: str) -> None:
        """Publish it to the queue of dead letters, confirmed, then ack it."""


class OpenPartition(Protocol):
    @property
    def is_lost(self) -> bool:
        """True once the channel is gone: acks have no effect any more."""

    async def close(self) -> None:
        """Close the channel of the partition; events that are not acked go to the next consumer."""


class PartitionConsumer(Protocol):
    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        """Become the consumer of a partition: `on_event` is called for its events, in order."""


class Refusals(Protocol):
    async def add(self, refusals: Mapping[str, Sequence[Refusal]]) -> None:
        """Add to the refusals of these devices, as `latest_refusals` does. It never makes a record, and does
        not change a removed one; a repetition changes nothing. Raises Unavailable, and TooLarge for a record
        that cannot grow: then others may lack theirs too."""


@dataclass(frozen=True, slots=True)
class Journaled:
    """An event in the journal. `size`: the bytes of its body; None where an earlier version wrote it.
    `topic` and `device`: None where they were not read."""

    id: str
    created_at: int
    size: int | None = None
    topic: str | None = None
    device: str | None = None


class Appended(IntEnum):
    """The outcome of an append; false where it is not known that the event is in the journal."""

    UNKNOWN = 0
    STORED = 1
    THERE = 2
    """An event of this id was there, and stays as it is."""


class Journal(Protocol):
    @property
    def term(self) -> object:
        """Changes when another server answers the store's reads and writes (rule 8)."""

    async def append(self, events: Sequence[Event]) -> list[Appended]:
        """Store events. Never answer 200 where the outcome is unknown. Raises Refused where the store cannot
        hold one of them; the others may be stored, and all may be appended again."""

    async def read(self, ids: Collection[str]) -> dict[str, Event]: ...

    async def stored(self, ids: Collection[str]) -> dict[str, int]:
        """The times (`created_at`) of those that are stored."""

    async def of_device(self, device: str, since: int, upto: int, limit: int) -> list[Journaled]:
        """The first `limit` events of a device with since <= created_at <= upto, of all writers, by time;
        without their bodies."""

    async def between(
        self, since: datetime, before: datetime, limit: int
    ) -> tuple[list[Journaled], datetime]:
        """The first `limit` events with since <= time < before (in whole milliseconds), and all others of the
        last one's millisecond; by time. With their topics and devices, without their bodies. Also the time at
        which the next page begins, `since` where there are none."""

    async def answers(self, entry: QueueEntry, since: int, upto: int) -> list[Event]:
        """The reports of its device on a command with since <= created_at <= upto, by time."""

    async def of_writer(self, writer: str, above: int, limit: int) -> list[tuple[int, Mark]]:
        """Number and mark of the first `limit` events of a writer above a number, by number."""


@dataclass(frozen=True, slots=True)
class WriterRecord:
    """One process start. Up to `watermark` every event is done (rule 6). `leases`: times it was taken
    over."""

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
