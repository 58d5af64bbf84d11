"""What is known of the certificate by which a device is known, and of those that it showed besides.

Certificates are named by the SHA-256 of their DER, in hex.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

LOOK_BEFORE = timedelta(days=90)
"""So long before a certificate ends, its renewal is thought of: the most that MDM_RENEW_BEFORE may be."""


class BoundBy(StrEnum):
    """How a certificate came to be bound to its device."""

    AUTHENTICATE = "authenticate"
    RENEWAL = "renewal"
    ADMINISTRATOR = "administrator"
    MIGRATION = "migration"


class QuarantineReason(StrEnum):
    """Why a device is seen and not served: its certificate has expired; it shows another one than the
    one that is bound to it; nothing is bound to it, because an administrator reset its binding."""

    EXPIRED = "expired"
    OTHER_CERTIFICATE = "other_certificate"
    UNBOUND = "unbound"


class RenewalFailure(StrEnum):
    """Why a certificate will not be renewed, or has not been up to now."""

    OTHER_AUTHORITY = "other_authority"
    PROFILE = "profile"
    ATTEMPTS = "attempts"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A certificate of a trusted CA. `serial` is its serial number, in hex.

    The times are those of its chain: the latest begin and the earliest end. `is_expired`: its time is
    over, and that is all that is wrong with it.
    """

    fingerprint: str
    subject: str = ""
    serial: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    is_expired: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate that is bound to a device. `is_ours`: our SCEP gave it out.

    `parameters` are those of the URL that its Authenticate was sent to, so that a new profile says
    the same.
    """

    certificate: DeviceCertificate
    bound_at: datetime
    how: BoundBy
    is_ours: bool
    parameters: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A device asks in vain. `certificate` is the one that it showed last."""

    since: datetime
    last_seen: datetime
    reason: QuarantineReason
    certificate: DeviceCertificate


@dataclass(frozen=True, slots=True)
class Renewal:
    """The attempts to renew the certificate that is bound. `attempt` counts from 1; `failed` is what
    was told of it in an event."""

    attempt: int
    command_uuid: str
    asked_at: datetime
    failed: RenewalFailure | None = None
