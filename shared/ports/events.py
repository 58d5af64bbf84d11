"""Events on the broker."""

from collections.abc import Callable, Sequence
from typing import Protocol

from shared.domain.event import Event


class EventPublisher(Protocol):
    @property
    def is_live(self) -> bool:
        """False while the broker as a whole takes nothing: who has much to publish stops for now."""

    @property
    def away(self) -> frozenset[int]:
        """The partitions that take nothing for now though the broker is there: their events are told so
        at once. A partition leaves this set when its next probe is due, and an event published then is
        that probe; so leave these out of a pass, but begin with all partitions in the next one."""

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        """Publish events, started together; per event whether the broker took it within the deadline.

        Never raises for a broken broker. `settled` is called once for each event when the promise
        passed to somebody else: at the broker's confirm, or (in-process broker) at the consumer's ack.
        It may be called before `publish` returns, and is not called for an event that is lost."""


class Received(Protocol):
    """An event as a consumer gets it."""

    @property
    def event_id(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def size(self) -> int:
        """Bytes of the body, in memory or not."""

    @property
    def held(self) -> int:
        """How many bytes this object keeps in memory for its consumer."""

    @property
    def body(self) -> bytes | None:
        """The webhook's JSON, the same bytes every time; None: only the journal has it."""

    def drop_body(self) -> bool:
        """Forget a body that the journal has too; whether there was one."""

    async def ack(self) -> None:
        """Acked; on a lost channel it does nothing, the event comes again."""

    async def dead_letter(self, reason: str) -> None:
        """Put it aside for an operator (queue `dead_lettered`), confirmed, then acked."""


class OpenPartition(Protocol):
    @property
    def is_lost(self) -> bool:
        """True once the channel is gone: acks have no effect any more."""

    async def close(self) -> None:
        """Give the partition up by closing its channel; what is not acked goes to the next consumer."""


class PartitionConsumer(Protocol):
    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        """Become the consumer of a partition: `on_event` is called for its events, in order."""
