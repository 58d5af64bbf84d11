"""Commands, their entries in the queues of enrollments, and the terms on which clients queue them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from shared.domain.versions import is_known

NORMAL_PRIORITY = 5
"""Priority of a command that states none; from 0 to 9, lower numbers are sent first."""

RENEWAL_KEY = "renewal"
"""Collapse key of our own commands that renew a device's certificate, and of no other: those of clients
begin with `client:`, the server's with a request type. A reader of such a command could become the device."""


@dataclass(frozen=True, slots=True)
class Command:
    """One document however many enrollments get it. `hash` is the SHA-256 (hex) of `plist`, which contains
    CommandUUID and is delivered byte for byte. `unreadable` says why `plist` cannot be decrypted; it is
    empty then."""

    hash: str
    uuid: str
    request_type: str
    plist: bytes = field(repr=False)
    unreadable: str | None = None


class EntryState(StrEnum):
    """The state of a command in one queue. The first three are open, the others are final."""

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
    def is_final(self) -> bool:
        """A state that only a newer version knows is neither open nor final."""
        return is_known(self) and not self.is_open

    @property
    def is_device_final(self) -> bool:
        """True for the final states that the device itself reported."""
        return self in DEVICE_FINAL_STATES


OPEN_STATES = frozenset({EntryState.QUEUED, EntryState.SENT, EntryState.NOT_NOW})
DEVICE_FINAL_STATES = frozenset(
    {EntryState.ACKNOWLEDGED, EntryState.ERROR, EntryState.FORMAT_ERROR}
)

ANNOUNCED_STATES = frozenset({EntryState.EXPIRED, EntryState.SUPERSEDED, EntryState.CANCELLED})
"""Final states that no device asked for: each has an event; a cancelling only where a subscriber wants it."""

NEVER_MOVED = datetime.min.replace(tzinfo=UTC)
"""Before every time at which an entry moved back."""
MOVES_BACK_AFTER = 3
"""A command moves behind the others of its queue after so many unanswered attempts,"""
MOVES_BACK_NOT_BEFORE = timedelta(minutes=10)
"""and so long after the first of them at the earliest."""


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """A report of a device on a command that had ended already."""

    state: EntryState
    event_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One command's entry in the queue of one enrollment.

    `order` is a UUIDv7 made at acceptance; entries are sent by (priority, order), and after them those that
    `moved`, by that time. `generation` is that of the device (docs/rules.md, rule 4), None before its first
    Authenticate. `handed_by` names the last send since it was queued. It is not sent before `not_before`,
    nor from `expires_at` on. The newest entry of one enrollment and `collapse_key` wins; `superseded_by` is
    the CommandUUID of the one that ended this."""

    enrollment: str
    device: str
    command_uuid: str
    command_hash: str
    request_type: str
    generation: str | None
    order: str
    priority: int = NORMAL_PRIORITY
    state: EntryState = EntryState.QUEUED
    handed_by: str | None = None
    attempts: int = 0
    not_before: datetime | None = None
    expires_at: datetime | None = None
    collapse_key: str | None = None
    accepted_at: datetime | None = None
    handed_at: datetime | None = None
    """The time of the last send; `answered_at`: of the device's last report."""
    answered_at: datetime | None = None
    finished_at: datetime | None = None
    late_answer: LateAnswer | None = None
    superseded_by: str | None = None
    first_handed_at: datetime | None = None
    """The time of the first send since it was queued or deferred by NotNow. Since then `unanswered` sends
    brought no answer before the device came back; `is_counted`: the last send is among them."""
    unanswered: int = 0
    is_counted: bool = False
    moved: datetime | None = None
    """The time at which it moved behind all others of its queue, or was sent since."""

    @property
    def id(self) -> str:
        return entry_id(self.enrollment, self.command_uuid)

    def is_expired(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at

    def is_due(self, at: datetime) -> bool:
        """True where the clock allows it to be sent."""
        has_begun = self.not_before is None or self.not_before <= at
        return has_begun and not self.is_expired(at)

    @property
    def queue_order(self) -> tuple[datetime, int, str]:
        return self.moved or NEVER_MOVED, self.priority, self.order

    @property
    def is_unanswered(self) -> bool:
        """True where an Idle of its device would show that one more send brought no answer."""
        return self.state is EntryState.SENT and not self.is_counted

    def moves_back(self, at: datetime) -> bool:
        """True where it moves back if its last send brought no answer until now (docs/rules.md, rule 5)."""
        first = self.first_handed_at
        is_old = first is not None and first <= at - MOVES_BACK_NOT_BEFORE
        is_last = self.unanswered + 1 >= MOVES_BACK_AFTER
        return self.moved is None and self.is_unanswered and is_last and is_old


def entry_id(enrollment: str, command_uuid: str) -> str:
    """The unique name of an entry; the length in front keeps two different pairs apart."""
    return f"{len(enrollment)}:{enrollment}:{command_uuid}"


def order_behind(order: str, other: str) -> str:
    """An order behind another one, even if the clocks disagreed: `order` itself, or one that is a millisecond
    later than the other. Both are UUIDv7, which begin with the milliseconds."""
    if order > other:
        return order
    later = f"{int(other[:8] + other[9:13], 16) + 1:012x}"
    return f"{later[:8]}-{later[8:]}{order[13:]}"


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms on which a client queues a command; None: not stated.

    `priority`: 0 is sent first, 9 last. It expires at `expires_at`, or `ttl` after acceptance. The newest
    command of a queue with the same `collapse_key` replaces those that were not sent yet. Times have an
    offset."""

    priority: int | None = None
    expires_at: datetime | None = None
    ttl: timedelta | None = None
    not_before: datetime | None = None
    collapse_key: str | None = None

    def expiry(self, accepted_at: datetime) -> datetime | None:
        """The time at which a command that is accepted now expires; None: never."""
        if self.expires_at is not None:
            return self.expires_at
        return None if self.ttl is None else accepted_at + self.ttl
