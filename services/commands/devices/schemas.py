"""A device as API clients see it: MicroMDM's five keys first, then all that its check-in told.

Promise: nothing secret: no tokens, no push magic, no unlock token.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from shared.domain.enrollment import Enrollment, EnrollmentStatus, PushTarget
from shared.times import rfc3339, rfc3339_or_null

NEVER = datetime(1, 1, 1, tzinfo=UTC)
"""What MicroMDM shows where there is no time."""


def shown(enrollment: Enrollment) -> dict[str, object]:
    """A device in a list. MicroMDM's own keys are never null; ours are, where nothing is known."""
    key = enrollment.key
    device: dict[str, object] = {
        "serial_number": enrollment.inventory.serial_number or "",
        "udid": key.udid or "",
        "enrollment_status": enrollment.status is EnrollmentStatus.ENROLLED,
        "last_seen": rfc3339(enrollment.last_seen or NEVER),
        "dep_profile_status": "",
    }
    if key.enrollment_id is not None:
        device["enrollment_id"] = key.enrollment_id
    told = asdict(enrollment.inventory)
    del told["serial_number"]
    return device | {
        "status": enrollment.status.value,
        "blocked": enrollment.blocked,
        **told,
        "push": _push(enrollment),
        "generation": enrollment.generation,
        "certificate_sha256": enrollment.certificate,
        "identity": _identity(enrollment),
        "quarantine": _quarantine(enrollment),
        "migrating_until": rfc3339_or_null(enrollment.migrating_until),
    }


def described(
    enrollment: Enrollment, users: Sequence[Enrollment], next_cursor: str | None
) -> dict[str, object]:
    """One device with a page of its user channels."""
    return {
        **shown(enrollment),
        "retired_certificates_sha256": list(enrollment.retired_certificates),
        "unreadable": enrollment.unreadable,
        "refusals": [asdict(each) | {"at": rfc3339(each.at)} for each in enrollment.refusals],
        "users": [_user(user) for user in users],
        "next_cursor": next_cursor,
    }


def _user(user: Enrollment) -> dict[str, object]:
    return {
        "id": user.id,
        "user": user.key.user,
        "status": user.status.value,
        "last_seen": rfc3339_or_null(user.last_seen),
        "push": _push(user),
    }


def _push(enrollment: Enrollment) -> dict[str, object] | None:
    target: PushTarget | None = enrollment.push
    if target is None:
        return None
    return {
        "topic": target.topic,
        "token_updated_at": rfc3339_or_null(enrollment.token_updated_at),
        "is_token_dead": target.dead,
    }


def _identity(enrollment: Enrollment) -> dict[str, object] | None:
    """Of the certificate that is bound; after a reset nothing is."""
    identity = enrollment.identity
    if identity is None or enrollment.certificate is None:
        return None
    certificate = identity.certificate
    return {
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_before": rfc3339_or_null(certificate.not_before),
        "not_after": rfc3339_or_null(certificate.not_after),
        "bound_at": rfc3339_or_null(identity.bound_at),
        "bound_by": identity.how.value,
    }


def _quarantine(enrollment: Enrollment) -> dict[str, object] | None:
    quarantine = enrollment.quarantine
    if quarantine is None:
        return None
    return {
        "since": rfc3339_or_null(quarantine.since),
        "last_seen": rfc3339_or_null(quarantine.last_seen),
        "reason": quarantine.reason.value,
        "certificate_sha256": quarantine.certificate.fingerprint,
    }
