"""Subscriptions to events, and the deliveries that are due to them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.domain.event import OWN_PREFIX

CONFIG_SUBSCRIPTION = "config"
"""The id of the subscription that MDM_WEBHOOK_URL makes."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A receiver of MicroMDM's topics and `extra_topics`. The URL may hold credentials: no repr has it."""

    id: str
    url: str = field(repr=False)
    extra_topics: frozenset[str] = frozenset()

    def wants(self, topic: str) -> bool:
        """False for a topic that only a newer version knows, unless it was asked for."""
        return not topic.startswith(OWN_PREFIX) or topic in self.extra_topics


class DeliveryState(StrEnum):
    PENDING = "pending"
    DEAD_LETTERED = "given_up"


@dataclass(frozen=True, slots=True)
class DeliveryQueueKey:
    """Deliveries of one device to one subscription, strictly in order. `aside` names an event that has a
    separate delivery queue: the subscriber refused it, so the others of the device do not wait for it."""

    subscription: str
    device: str
    aside: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that a subscriber has not taken yet; exists only while pending or dead-lettered.

    `number` is its order within the queue (docs/rules.md, rule 11). `size` is that of its body, as nearly
    as it is known. `topic` is unknown where a former version stored it."""

    queue: DeliveryQueueKey
    event_id: str
    number: int
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    size: int | None = None
    topic: str | None = None

    @property
    def id(self) -> str:
        return f"{self.queue.subscription}:{self.event_id}"
