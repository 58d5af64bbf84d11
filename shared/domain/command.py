"""Commands, and their places in the queues of enrollments."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

NORMAL_PRIORITY = 5
"""Priority of a command without one of its own; lower numbers are handed out first."""


@dataclass(frozen=True, slots=True)
class Command:
    """One stored command: immutable, one document however many enrollments get it.

    `hash` is the SHA-256 (hex) of `plist`, which contains CommandUUID and is delivered byte for byte.
    """

    hash: str
    uuid: str
    request_type: str
    plist: bytes = field(repr=False)


class PlaceState(StrEnum):
    """Where a command stands in one queue. The first three are open, the others are final."""

    QUEUED = "queued"
    SENT = "sent"
    NOT_NOW = "not_now"
    ACKNOWLEDGED = "acknowledged"
    ERROR = "error"
    FORMAT_ERROR = "format_error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    DROPPED_REENROLLED = "dropped_reenrolled"

    @property
    def is_open(self) -> bool:
        return self in OPEN_STATES

    @property
    def is_device_final(self) -> bool:
        """True for the final states that the device itself reported."""
        return self in DEVICE_FINAL_STATES


OPEN_STATES = frozenset({PlaceState.QUEUED, PlaceState.SENT, PlaceState.NOT_NOW})
DEVICE_FINAL_STATES = frozenset(
    {PlaceState.ACKNOWLEDGED, PlaceState.ERROR, PlaceState.FORMAT_ERROR}
)


@dataclass(frozen=True, slots=True)
class Place:
    """One command's place in the queue of one enrollment.

    `order` is a UUIDv7 made when the command was accepted; (priority, order) is the queue's order.
    `generation` is that of the device (docs/rules.md, rule 4), None for a device that never
    authenticated. `handed_by` names the hand-out that last gave it to the device since it was
    queued, None before.
    """

    enrollment: str
    device: str
    command_uuid: str
    command_hash: str
    request_type: str
    generation: str | None
    order: str
    priority: int = NORMAL_PRIORITY
    state: PlaceState = PlaceState.QUEUED
    handed_by: str | None = None
    attempts: int = 0
    accepted_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def id(self) -> str:
        return place_id(self.enrollment, self.command_uuid)


def place_id(enrollment: str, command_uuid: str) -> str:
    """The unique name of a place; the length in front keeps two different pairs apart."""
    return f"{len(enrollment)}:{enrollment}:{command_uuid}"
