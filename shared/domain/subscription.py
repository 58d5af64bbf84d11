"""Who wants to hear of events, and what is still owed to them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

CONFIG_SUBSCRIPTION = "config"
"""The id of the subscription that MDM_WEBHOOK_URL makes."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One receiver of events. The URL may hold credentials, so it never shows in a repr."""

    id: str
    url: str = field(repr=False)


class DeliveryState(StrEnum):
    PENDING = "pending"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Lane:
    """Deliveries of one device to one subscription, strictly in order."""

    subscription: str
    device: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that a subscriber has not taken yet; exists only while pending or given up on.

    `number` is its order within the lane (docs/rules.md, rule 11). `attempts` counts those made.
    """

    lane: Lane
    event_id: str
    number: int
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    next_attempt_at: datetime | None = None
    last_error: str | None = None

    @property
    def id(self) -> str:
        return f"{self.lane.subscription}:{self.event_id}"
