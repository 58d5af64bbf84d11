"""The concrete parts that services are built on: one store, one broker, real time.

Opened by `services.__main__` before anything is built and closed after everything has drained.
"""

from dataclasses import dataclass
from typing import Protocol

from shared.ports import (
    Clock,
    EventPublisher,
    Ids,
    PartitionConsumer,
    PushWishes,
    WishConsumer,
)
from shared.storage.mongo import Mongo
from shared.telemetry.metrics import Metrics


class Broker(Protocol):
    """A connection to RabbitMQ, or the in-process broker."""

    @property
    def healthy(self) -> bool:
        """False while publishing would fail or wait."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """What `services.<name>.app.build` gets; tests fill it with fakes of the ports."""

    mongo: Mongo
    broker: Broker
    publisher: EventPublisher
    partitions: PartitionConsumer
    wishes: PushWishes
    wish_consumer: WishConsumer
    clock: Clock
    ids: Ids
    metrics: Metrics
    is_alone: bool = False
    """In-process broker: no other process serves this store, so every earlier writer is dead."""
