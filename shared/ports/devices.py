"""Devices as the API lists them, and enrollments imported from another server (owner: checkin)."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
)


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """Which devices, by id, from behind `after` on; None: no such condition.

    `seen_since` and `seen_before` leave out what was never seen here. `migrating`: came by migration
    and is bound to no certificate yet.
    """

    limit: int
    after: str | None = None
    id: str | None = None
    serial_number: str | None = None
    status: EnrollmentStatus | None = None
    model: str | None = None
    os_version: str | None = None
    blocked: bool | None = None
    quarantined: bool | None = None
    migrating: bool | None = None
    seen_since: datetime | None = None
    seen_before: datetime | None = None

    def holds(self, device: Enrollment) -> bool:
        """Whether a device channel that was not removed is asked for, wherever the page begins."""
        told = device.inventory
        return (
            self.id in {None, device.id}
            and self.serial_number in {None, told.serial_number}
            and self.status in {None, device.status}
            and self.model in {None, told.model}
            and self.os_version in {None, told.os_version}
            and self.blocked in {None, device.blocked}
            and self.quarantined in {None, device.quarantine is not None}
            and self.migrating in {None, device.migrating_until is not None}
            and self._holds_time(device.last_seen)
        )

    def _holds_time(self, seen: datetime | None) -> bool:
        if seen is None:
            return self.seen_since is None and self.seen_before is None
        is_late = self.seen_since is None or seen >= self.seen_since
        return is_late and (self.seen_before is None or seen < self.seen_before)


@dataclass(frozen=True, slots=True)
class DeviceSecrets:
    """What a device entrusted to us; None where it did not, or took it back."""

    unlock_token: bytes | None = field(default=None, repr=False)
    bootstrap_token: bytes | None = field(default=None, repr=False)


class Devices(Protocol):
    async def page(self, query: DeviceFilter) -> list[Enrollment]:
        """The next `limit` device channels that are not removed, by id. A device that stays is in
        exactly one page, whoever comes and goes meanwhile."""

    async def users(self, device: str, limit: int, after: str | None = None) -> list[Enrollment]:
        """The next `limit` user channels of a device that are not removed, by id."""

    async def secrets(self, enrollment: str) -> DeviceSecrets:
        """In clear; none of an enrollment that nobody knows. Raises CannotDecrypt."""


class ImportedKind(StrEnum):
    """The check-in messages that make an enrollment, by Apple's names."""

    AUTHENTICATE = "Authenticate"
    TOKEN_UPDATE = "TokenUpdate"
    SET_BOOTSTRAP_TOKEN = "SetBootstrapToken"


@dataclass(frozen=True, slots=True)
class Imported:
    """One message that a device sent to its earlier server, and what is to be kept of it.

    `digest` is the SHA-256 (hex) of its exact bytes. `generation` is for a device that has none yet.
    `until`: up to then the device may show the certificate to which it is bound.
    """

    key: EnrollmentKey
    kind: ImportedKind
    digest: str
    at: datetime
    until: datetime
    generation: str
    push: PushTarget | None = None
    unlock_token: bytes | None = field(default=None, repr=False)
    bootstrap_token: bytes | None = field(default=None, repr=False)
    inventory: Inventory | None = None


class ImportOutcome(StrEnum):
    """What became of a message."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    """It was imported before."""
    UNKNOWN = "unknown"
    """Nobody imported its device: the Authenticate of the device channel comes first."""
    OWN = "own"
    """The enrollment has spoken here for itself, so what another server knew is past."""


class Migration(Protocol):
    async def take(self, message: Imported) -> ImportOutcome:
        """Make or update the record of an enrollment, durably. Safe to repeat.

        A device is imported until it is bound to a certificate, and each import begins `until`
        anew; a user channel as long as its device enrolled by migration, until it has spoken here.
        An Authenticate keeps what later messages brought, and the generation. The same message
        again changes nothing, unless the time of the device to show a certificate is over: then
        that begins anew. Raises Overtaken when others write the same records all the time.
        """
