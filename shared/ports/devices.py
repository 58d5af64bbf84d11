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
    """Devices by id, behind `after`; None: no condition. `seen_since` and `seen_before` exclude devices
    that were never seen here. `migrating`: migrated and not bound to a certificate yet."""

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


@dataclass(frozen=True, slots=True)
class DeviceSecrets:
    """Secrets that a device entrusted to us; None where it did not, or took them back."""

    unlock_token: bytes | None = field(default=None, repr=False)
    bootstrap_token: bytes | None = field(default=None, repr=False)


class Devices(Protocol):
    async def page(self, query: DeviceFilter) -> list[Enrollment]:
        """The next `limit` device channels that are not removed, by id. A device that stays is in exactly one
        page, though others come and go meanwhile."""

    async def users(self, device: str, limit: int, after: str | None = None) -> list[Enrollment]:
        """The next `limit` user channels of a device that are not removed, by id."""

    async def secrets(self, enrollment: str) -> DeviceSecrets:
        """The decrypted secrets; none of an unknown enrollment. Raises CannotDecrypt."""


class ImportedKind(StrEnum):
    """The check-in messages that make an enrollment, by Apple's names."""

    AUTHENTICATE = "Authenticate"
    TOKEN_UPDATE = "TokenUpdate"
    SET_BOOTSTRAP_TOKEN = "SetBootstrapToken"


@dataclass(frozen=True, slots=True)
class Imported:
    """A message that a device sent to its earlier server. `digest` is the SHA-256 (hex) of its exact bytes.
    `generation` is for a device that has none yet. `until`: up to then the device may show its
    certificate."""

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
    """The result for a message."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    """It was imported before."""
    UNKNOWN = "unknown"
    """Its device was not imported: the Authenticate of the device channel comes first."""
    OWN = "own"
    """The enrollment has sent messages here, so what another server knew is outdated."""


class Migration(Protocol):
    async def take(self, message: Imported) -> ImportOutcome:
        """Make or update the record of an enrollment, durably. Safe to repeat.

        A device can be imported until it is bound to a certificate, and each import restarts `until`; a
        user channel while its device is a migrated one, until it sends a message here. An Authenticate
        keeps what later messages brought, and the generation. Repeated, it changes nothing unless `until`
        has passed: then that restarts. Raises Overtaken where others write the same records all the
        time."""
