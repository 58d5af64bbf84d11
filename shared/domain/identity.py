"""Certificates of devices, named by the SHA-256 of their DER, in hex; and what is near its end, those of push
too."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

LOOK_BEFORE = timedelta(days=90)
"""The time before a certificate's end from which its renewal is checked: the most of MDM_RENEW_BEFORE."""

DAYS_BEFORE_END = (1, 7, 14, 30)
"""So many days before the end of a certificate an event reports it, where a subscription asks for that."""


class BoundBy(StrEnum):
    """The way in which a certificate was bound to its device."""

    AUTHENTICATE = "authenticate"
    RENEWAL = "renewal"
    ADMINISTRATOR = "administrator"
    MIGRATION = "migration"


class QuarantineReason(StrEnum):
    """The certificate has expired, is not the bound one, or lost its binding to an administrator."""

    EXPIRED = "expired"
    OTHER_CERTIFICATE = "other_certificate"
    UNBOUND = "unbound"


class RenewalFailure(StrEnum):
    """The reason why a certificate will not be renewed, or has not been so far."""

    OTHER_AUTHORITY = "other_authority"
    PROFILE = "profile"
    ATTEMPTS = "attempts"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A certificate of a trusted CA. `serial` is in hex. The times are those of its chain: the latest begin
    and the earliest end. `is_expired`: that its time is over is its only fault."""

    fingerprint: str
    subject: str = ""
    serial: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    is_expired: bool = False


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate bound to a device. `is_ours`: our SCEP issued it. `parameters` are those of the URL
    of its Authenticate, so that a new profile says the same."""

    certificate: DeviceCertificate
    bound_at: datetime
    how: BoundBy
    is_ours: bool
    parameters: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A device is not served. `certificate` is the one that it presented last."""

    since: datetime
    last_seen: datetime
    reason: QuarantineReason
    certificate: DeviceCertificate


@dataclass(frozen=True, slots=True)
class Renewal:
    """Attempts to renew the bound certificate; `attempt` counts from 1. `failed`: an event reported it."""

    attempt: int
    command_uuid: str
    asked_at: datetime
    failed: RenewalFailure | None = None


@dataclass(frozen=True, slots=True)
class ReportedExpiry:
    """The latest event about the end of a certificate: it came within so many of DAYS_BEFORE_END."""

    certificate: str
    days: int


def days_before(begin: datetime, end: datetime, now: datetime) -> int | None:
    """The fewest of DAYS_BEFORE_END within which a certificate ends; more than half of its time does not
    count. None: it ends later, or has ended."""
    longest = min(timedelta(days=DAYS_BEFORE_END[-1]), (end - begin) / 2)
    within = (days for days in DAYS_BEFORE_END if end - now <= timedelta(days=days) <= longest)
    return next(within, None) if now < end else None


def to_report(
    certificate: str, days: int | None, seen: ReportedExpiry | None
) -> ReportedExpiry | None:
    """None: `seen`, the latest report, covers that this certificate ends within so many days."""
    if days is None:
        return None
    if seen is not None and seen.certificate == certificate and seen.days <= days:
        return None
    return ReportedExpiry(certificate, days)
