"""What API clients get to see of the certificate by which a device is known."""

from services.commands.identities.service import KnownIdentity
from shared.domain.enrollment import Enrollment
from shared.domain.identity import DeviceCertificate, Identity
from shared.ports.certificates import IssuedCertificate
from shared.times import rfc3339_or_null

OURS, OTHER, UNKNOWN = "ours", "other", "unknown"
"""Who gave a certificate out: our SCEP, or another CA that is trusted."""


def shown_identity(known: KnownIdentity) -> dict[str, object]:
    """Everything; null where there is nothing."""
    device = known.device
    identity = device.identity if device.certificate is not None else None
    return {
        "udid": device.id,
        "certificate": _bound(device, identity),
        "bound_at": rfc3339_or_null(identity.bound_at if identity else None),
        "bound_by": identity.how.value if identity else None,
        "next": [_next(issued) for issued in known.next],
        "retired_certificates_sha256": list(device.retired_certificates),
        "reset_from_sha256": device.reset_from,
        "expired_accepted_until": rfc3339_or_null(device.expired_until),
        "quarantine": _quarantine(device),
        "renewal": _renewal(device),
    }


def _bound(device: Enrollment, identity: Identity | None) -> dict[str, object] | None:
    if device.certificate is None:
        return None
    if identity is None:
        return _certificate(DeviceCertificate(device.certificate)) | {"issuer": UNKNOWN}
    issuer = OURS if identity.is_ours else OTHER
    return _certificate(identity.certificate) | {"issuer": issuer}


def _certificate(certificate: DeviceCertificate) -> dict[str, object]:
    return {
        "sha256": certificate.fingerprint,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_before": rfc3339_or_null(certificate.not_before),
        "not_after": rfc3339_or_null(certificate.not_after),
    }


def _next(issued: IssuedCertificate) -> dict[str, object]:
    return {
        "sha256": issued.fingerprint,
        "subject": issued.subject,
        "serial": issued.serial,
        "issued_at": rfc3339_or_null(issued.issued_at),
        "not_after": rfc3339_or_null(issued.not_after),
    }


def _quarantine(device: Enrollment) -> dict[str, object] | None:
    found = device.quarantine
    if found is None:
        return None
    return {
        "since": rfc3339_or_null(found.since),
        "last_seen": rfc3339_or_null(found.last_seen),
        "reason": found.reason.value,
        "certificate": _certificate(found.certificate),
    }


def _renewal(device: Enrollment) -> dict[str, object] | None:
    found = device.renewal
    if found is None:
        return None
    return {
        "attempts": found.attempt,
        "asked_at": rfc3339_or_null(found.asked_at),
        "command_uuid": found.command_uuid,
        "failed": None if found.failed is None else found.failed.value,
    }
