"""Enrollments that another server made, taken over without their devices (owner: checkin)."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from shared.domain.enrollment import EnrollmentKey, Inventory, PushTarget


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
