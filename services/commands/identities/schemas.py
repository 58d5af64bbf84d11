"""The certificate by which a device is known, in the API."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from shared.domain.enrollment import Enrollment
from shared.domain.identity import (
    BoundBy,
    DeviceCertificate,
    Identity,
    QuarantineReason,
    RenewalFailure,
)
from shared.ports.certificates import IssuedCertificate
from shared.times import rfc3339_or_null
from shared.web.api.openapi import UDID, UUID, NoText, NoTime, Time, about, like, one_of
from shared.web.api.requests import Body, Expected

OURS, OTHER, UNKNOWN = "ours", "other", "unknown"
"""A certificate was given out by our SCEP, or by another CA that is trusted."""
LONGEST_PATIENCE = 30
"""Days."""
DEFAULT_PATIENCE = 7

_SHOWN = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
Sha256 = Annotated[
    str,
    Field(pattern="^[0-9a-f]{64}$"),
    like("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
]


class RebindingRequest(Body):
    certificate_sha256: Annotated[
        Sha256,
        BeforeValidator(lambda given: given.lower() if isinstance(given, str) else given),
        Expected("64 hexadecimal digits"),
        like(_SHOWN),
    ]
    accept_expired_days: Annotated[
        Annotated[
            int,
            Field(ge=1, le=LONGEST_PATIENCE),
            Expected(f"a whole number from 1 to {LONGEST_PATIENCE}"),
        ]
        | None,
        Field(json_schema_extra={"default": DEFAULT_PATIENCE}),
    ] = DEFAULT_PATIENCE

    @property
    def patience(self) -> timedelta:
        return timedelta(days=self.accept_expired_days or DEFAULT_PATIENCE)


class CertificateOut(TypedDict):
    sha256: Sha256
    subject: Annotated[str, like("CN=MacroMDM Identity,O=MacroMDM")]
    serial: Annotated[str, about("Its serial number, in hex.", "4f1c2a")]
    not_before: Time | None
    not_after: Annotated[Time | None, like("2027-01-02T03:04:05Z")]


class SpeakingCertificate(CertificateOut):
    issuer: Annotated[
        str, one_of((OURS, OTHER, UNKNOWN)), about("Our SCEP, or another CA that is trusted.", OURS)
    ]


class NextCertificate(TypedDict):
    sha256: Sha256
    subject: str
    serial: str
    issued_at: Time | None
    not_after: Time | None


class IdentityQuarantine(TypedDict):
    since: Annotated[Time | None, like("2026-06-02T03:04:05Z")]
    last_seen: Annotated[Time | None, like("2026-06-02T04:04:05Z")]
    reason: Annotated[str, one_of(QuarantineReason), like("other_certificate")]
    certificate: Annotated[
        CertificateOut,
        about(
            "The one that it showed last.",
            {
                "sha256": _SHOWN,
                "subject": "CN=MacroMDM Identity,O=MacroMDM",
                "serial": "5a9d01",
                "not_before": "2026-05-02T03:04:05Z",
                "not_after": "2027-05-02T03:04:05Z",
            },
        ),
    ]


class RenewalOut(TypedDict):
    attempts: Annotated[int, like(1)]
    asked_at: Annotated[Time | None, like("2026-06-02T03:04:05Z")]
    command_uuid: Annotated[str | None, like(UUID)]
    failed: Annotated[Annotated[str, one_of(RenewalFailure)] | None, like(None)]


class IdentityOut(TypedDict):
    udid: Annotated[str, about("Or the EnrollmentID of a user enrollment.", UDID)]
    certificate: Annotated[
        SpeakingCertificate | None, about("The one that speaks for it; null: none, after a reset.")
    ]
    bound_at: Time | None
    bound_by: Annotated[Annotated[str, one_of(BoundBy)] | None, like("authenticate")]
    next: Annotated[
        list[NextCertificate],
        about("Given out to follow it. The first that the device shows takes its place.", []),
    ]
    retired_certificates_sha256: Annotated[
        list[Sha256], about("Spoke for it once, and are not heard again; the latest 100.", [])
    ]
    reset_from_sha256: Annotated[NoText, about("What the last reset took away.")]
    expired_accepted_until: Annotated[
        NoTime, about("Until then the certificate is good although its time is over.")
    ]
    quarantine: Annotated[IdentityQuarantine | None, about("It asks in vain; null: it does not.")]
    renewal: Annotated[RenewalOut | None, about("What was done to renew the certificate.")]


def identity_out(device: Enrollment, following: Sequence[IssuedCertificate]) -> IdentityOut:
    """Everything; null where there is nothing."""
    identity = device.identity if device.certificate is not None else None
    quarantine, renewal = device.quarantine, device.renewal
    return {
        "udid": device.id,
        "certificate": _bound(device, identity),
        "bound_at": rfc3339_or_null(identity.bound_at if identity else None),
        "bound_by": identity.how.value if identity else None,
        "next": [
            {
                "sha256": issued.fingerprint,
                "subject": issued.subject,
                "serial": issued.serial,
                "issued_at": rfc3339_or_null(issued.issued_at),
                "not_after": rfc3339_or_null(issued.not_after),
            }
            for issued in following
        ],
        "retired_certificates_sha256": list(device.retired_certificates),
        "reset_from_sha256": device.reset_from,
        "expired_accepted_until": rfc3339_or_null(device.expired_until),
        "quarantine": None
        if quarantine is None
        else {
            "since": rfc3339_or_null(quarantine.since),
            "last_seen": rfc3339_or_null(quarantine.last_seen),
            "reason": quarantine.reason.value,
            "certificate": _certificate(quarantine.certificate),
        },
        "renewal": None
        if renewal is None
        else {
            "attempts": renewal.attempt,
            "asked_at": rfc3339_or_null(renewal.asked_at),
            "command_uuid": renewal.command_uuid,
            "failed": renewal.failed and renewal.failed.value,
        },
    }


def _bound(device: Enrollment, identity: Identity | None) -> SpeakingCertificate | None:
    if device.certificate is None:
        return None
    if identity is None:
        return {**_certificate(DeviceCertificate(device.certificate)), "issuer": UNKNOWN}
    issuer = OURS if identity.is_ours else OTHER
    return {**_certificate(identity.certificate), "issuer": issuer}


def _certificate(certificate: DeviceCertificate) -> CertificateOut:
    return {
        "sha256": certificate.fingerprint,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_before": rfc3339_or_null(certificate.not_before),
        "not_after": rfc3339_or_null(certificate.not_after),
    }
