"""Records of devices and their channels (owner: checkin)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from shared.domain.binding import Binding
from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentSummary,
    Inventory,
    PushTarget,
    Waiting,
)
from shared.domain.event import Topic
from shared.domain.identity import Identity
from shared.domain.outbox import OutboxEvent


@dataclass(frozen=True, slots=True)
class Change:
    """The effect of one message on an enrollment; only values that are not None are written.

    It is applied on condition that the record's generation and last change are still those expected. `by`
    is the event's id, which identifies the outcome. A user channel without a record gets one, with its
    device's `generation`. `certificate` is the one that an Authenticate presented, and must still be bound.
    `makes_record`: the device had no record. `renewing` is the certificate of an Authenticate that
    continues its enrollment; `renewed` is one whose renewal is over."""

    key: EnrollmentKey
    by: str
    expected_generation: str | None
    topic: Topic
    at: datetime
    generation: str | None = None
    expected_change: str | None = None
    certificate: str | None = None
    renewing: str | None = None
    renewed: str | None = None
    makes_record: bool = False
    push: PushTarget | None = None
    unlock_token: bytes | None = field(default=None, repr=False)
    bootstrap_token: bytes | None = field(default=None, repr=False)
    inventory: Inventory | None = None
    identity: Identity | None = None
    """Facts of the certificate, for a new record."""
    signed_at: datetime | None = None
    """The signing time of the message; the record keeps the latest."""
    was_enrolled: bool = False
    """The device was enrolled before."""
    known_serial_number: str | None = None
    """The serial number of the record as read."""
    outbox_event: OutboxEvent | None = None
    """The event that the record keeps if this change is applied; of device channels only."""

    @property
    def serial_number(self) -> str | None:
        """The serial number after this change; None: unchanged."""
        sent = None if self.inventory is None else self.inventory.serial_number
        return sent or self.known_serial_number

    @property
    def begins_generation(self) -> bool:
        return self.topic is Topic.AUTHENTICATE and self.renewing is None

    @property
    def ends_user_channels(self) -> bool:
        """True for a device that enrolls again or checks out: its user channels end with it."""
        return self.key.is_device_channel and (
            self.topic is Topic.CHECK_OUT
            or (self.begins_generation and self.expected_generation is not None)
        )


@dataclass(frozen=True, slots=True)
class Mark:
    """`waiting` to set on a device's record (rule 8): its event of this time is not confirmed, nor are those
    that follow it up to `upto`."""

    device: str
    created_at: int
    upto: int = 0


class Enrollments(Protocol):
    async def load(self, ids: Collection[str], *, secrets: bool = True) -> dict[str, Enrollment]:
        """The enrollments of these ids (removed ones too), read from the primary. Without their secrets
        nothing is decrypted: `push`, `bootstrap_token` and `unreadable` are None."""

    async def summaries(self, ids: Collection[str]) -> dict[str, EnrollmentSummary]:
        """Of the same enrollments what queueing needs, at less cost."""

    async def find(self, names: Collection[str]) -> dict[str, list[EnrollmentSummary]]:
        """Enrollments by any name of `shared.domain.names`. More than one: the name is ambiguous."""

    async def holders(self, certificates: Collection[str]) -> dict[str, str]:
        """certificate -> id of the device for which it is reserved, for ever: bound to it, now or once, or
        in a binding that was overtaken."""

    async def long_retired(self, certificates: Collection[str]) -> set[str]:
        """The certificates retired so long ago that their holder's record does not list them any more."""

    async def bind(self, bindings: Sequence[Binding]) -> list[bool]:
        """Bind, each on its condition. False: overtaken, or the certificate has another holder."""

    async def apply(self, changes: Sequence[Change]) -> list[bool]:
        """Apply, each on its condition. False: overtaken. An Authenticate that does not renew makes `by` the
        generation."""

    async def revive(self, enrollments: Collection[str]) -> None:
        """Restore removed enrollments that have sent a message again. A device without a push token is
        AUTHENTICATED, all others are ENROLLED."""

    async def count_users(self, device: str, most: int) -> int:
        """The number of a device's user channels that are not removed; counting ends at `most`."""

    async def mark_waiting(self, marks: Sequence[Mark]) -> list[bool]:
        """Set the marks; False where no record matches."""

    async def waiting(self, partitions: Collection[int]) -> dict[str, Waiting]:
        """Devices of these partitions whose events wait."""

    async def read_waiting(self, device: str) -> Waiting | None: ...

    async def clear_waiting(self, device: str, count: int, upto: int | None = None) -> bool:
        """Unset since and upto, on condition that `count` is still the one given. With `upto` only what is
        before that time waits no longer."""

    async def seen(self, times: Mapping[str, datetime]) -> None:
        """Raise last_seen; never makes a record."""

    async def block(self, device: str, blocked: bool) -> bool:
        """False: no such device."""

    async def remove(
        self, devices: Collection[str], by: str, events: Mapping[str, OutboxEvent] | None = None
    ) -> list[str]:
        """Turn devices and their user channels into stubs; returns the enrollment ids removed. The stub of a
        device keeps its outbox event of `events`, unless it was a stub before. The id `by` of this removal
        becomes their last change, so that what read a record before is overtaken."""

    async def devices(self, query: "DeviceQuery") -> list[Enrollment]:
        """Device channels that are not removed, by id."""

    async def mark_token(
        self, enrollment: str, token: bytes, *, dead: bool, event: OutboxEvent | None = None
    ) -> bool:
        """Mark the push token dead or alive on condition that it is still the one we hold. The record keeps
        the outbox event of a token that was not marked so before."""


@dataclass(frozen=True, slots=True)
class DeviceQuery:
    """None: no filter. `per_page` 0: all."""

    page: int = 0
    per_page: int = 0
    serial_numbers: Sequence[str] | None = None
    udids: Sequence[str] | None = None
