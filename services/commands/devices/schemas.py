"""Answers about devices, with MicroMDM's five keys first.

Promise: nothing secret is in them: no tokens, no push magic, no unlock token.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from services.commands.history.schemas import RefusalOut, refusal_out
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.identity import BoundBy, QuarantineReason
from shared.times import rfc3339, rfc3339_or_null
from shared.web.api.openapi import UDID, UUID, Base64, NoText, NoTime, Time, about, like, one_of

NEVER = datetime(1, 1, 1, tzinfo=UTC)
"""MicroMDM shows it where there is no time."""

Status = Annotated[
    str,
    one_of(("authenticated", "enrolled", "checked_out")),
    about("`enrolled` from the first TokenUpdate on.", "enrolled"),
]
Sha256 = Annotated[str, like("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]


class PushOut(TypedDict):
    topic: Annotated[str, like("com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04")]
    token_updated_at: Time | None
    is_token_dead: Annotated[bool, about("APNs said that nobody has it.", False)]


Push = Annotated[
    PushOut | None, about("What a push needs is there; null before the first TokenUpdate.")
]


class BoundCertificate(TypedDict):
    subject: Annotated[str, like("CN=MacroMDM Identity,O=MacroMDM")]
    serial: Annotated[str, about("Its serial number, in hex.", "4f1c2a")]
    not_before: Time | None
    not_after: Annotated[Time | None, like("2027-01-02T03:04:05Z")]
    bound_at: Time | None
    bound_by: Annotated[str, one_of(BoundBy), like("authenticate")]


class DeviceQuarantine(TypedDict):
    since: Time | None
    last_seen: Time | None
    reason: Annotated[str, one_of(QuarantineReason)]
    certificate_sha256: Annotated[str, about("That it showed last.")]


class DeviceOut(TypedDict):
    serial_number: Annotated[str, like("C02W00D3HTD0")]
    udid: Annotated[str, about("Empty for a user enrollment.", UDID)]
    enrollment_status: Annotated[bool, like(True)]
    last_seen: Annotated[Time, about("A few seconds behind; 0001-01-01T00:00:00Z: never here.")]
    dep_profile_status: Annotated[str, like("")]
    enrollment_id: NotRequired[Annotated[str, about("Of a user enrollment only.")]]
    status: Status
    blocked: Annotated[bool, like(False)]
    model: Annotated[str | None, like("Mac16,1")]
    model_name: Annotated[str | None, like("MacBook Pro")]
    product_name: Annotated[str | None, like("Mac16,1")]
    device_name: Annotated[str | None, like("Anna's MacBook")]
    os_version: Annotated[str | None, like("15.1")]
    build_version: Annotated[str | None, like("24B83")]
    imei: NoText
    meid: NoText
    push: Push
    generation: Annotated[
        str | None,
        about("The event_id of the Authenticate that enrolled it; renewals keep it.", UUID),
    ]
    certificate_sha256: Annotated[
        Sha256 | None, about("Of the certificate that speaks for it, in hex.")
    ]
    identity: Annotated[
        BoundCertificate | None,
        about("The certificate that speaks for it; null where none is bound."),
    ]
    quarantine: Annotated[
        DeviceQuarantine | None, about("It asks in vain; null: it does not.", None)
    ]
    migrating_until: Annotated[
        NoTime, about("It came by migration; until then it may show its certificate.")
    ]


class DeviceList(TypedDict):
    devices: list[DeviceOut]


class DevicePage(DeviceList):
    next_cursor: Annotated[str | None, like("NTU2OTNFQjMtREYwMy01RkQxLTkyNjMtRjdDREI4QUQ3RkZE")]


class UserOut(TypedDict):
    id: Annotated[
        str,
        about(
            "`UDID:USER`, by which commands are queued for it.",
            f"{UDID}:F151140B-3988-45A9-9471-E96B49F27D93",
        ),
    ]
    user: Annotated[str | None, like("F151140B-3988-45A9-9471-E96B49F27D93")]
    status: Status
    last_seen: Time | None
    push: Push


class DeviceDetails(DeviceOut):
    retired_certificates_sha256: Annotated[
        list[str], about("Spoke for it once, and are not heard again; the latest 100.", [])
    ]
    unreadable: Annotated[NoText, about("Why its secrets cannot be opened.")]
    refusals: Annotated[
        list[RefusalOut],
        about(
            "Its latest messages that were refused, newest first: at most five kinds. A few"
            " seconds behind; what a process saw last before a crash is missing."
        ),
    ]
    users: list[UserOut]
    next_cursor: Annotated[NoText, about("Leads to more `users`; null: these are all.")]


Token = Annotated[Base64, like("AAECAwQFBgc=")]


class UnlockTokenOut(TypedDict):
    udid: Annotated[str, like(UDID)]
    unlock_token: Token


class BootstrapTokenOut(TypedDict):
    udid: Annotated[str, like(UDID)]
    bootstrap_token: Token


def device_out(enrollment: Enrollment) -> DeviceOut:
    """MicroMDM's own keys are never null; ours are, where nothing is known."""
    key, known = enrollment.key, enrollment.inventory
    device: DeviceOut = {
        "serial_number": known.serial_number or "",
        "udid": key.udid or "",
        "enrollment_status": enrollment.status is EnrollmentStatus.ENROLLED,
        "last_seen": rfc3339(enrollment.last_seen or NEVER),
        "dep_profile_status": "",
        "enrollment_id": key.enrollment_id or "",
        "status": enrollment.status.value,
        "blocked": enrollment.blocked,
        "model": known.model,
        "model_name": known.model_name,
        "product_name": known.product_name,
        "device_name": known.device_name,
        "os_version": known.os_version,
        "build_version": known.build_version,
        "imei": known.imei,
        "meid": known.meid,
        "push": _push(enrollment),
        "generation": enrollment.generation,
        "certificate_sha256": enrollment.certificate,
        "identity": _identity(enrollment),
        "quarantine": _quarantine(enrollment),
        "migrating_until": rfc3339_or_null(enrollment.migrating_until),
    }
    if key.enrollment_id is None:
        del device["enrollment_id"]
    return device


def device_details(
    enrollment: Enrollment, users: Sequence[Enrollment], next_cursor: str | None
) -> DeviceDetails:
    """One device with a page of its user channels."""
    return {
        **device_out(enrollment),
        "retired_certificates_sha256": list(enrollment.retired_certificates),
        "unreadable": enrollment.unreadable,
        "refusals": [refusal_out(each) for each in enrollment.refusals],
        "users": [
            {
                "id": user.id,
                "user": user.key.user,
                "status": user.status.value,
                "last_seen": rfc3339_or_null(user.last_seen),
                "push": _push(user),
            }
            for user in users
        ],
        "next_cursor": next_cursor,
    }


def _push(enrollment: Enrollment) -> PushOut | None:
    target = enrollment.push
    if target is None:
        return None
    return {
        "topic": target.topic,
        "token_updated_at": rfc3339_or_null(enrollment.token_updated_at),
        "is_token_dead": target.dead,
    }


def _identity(enrollment: Enrollment) -> BoundCertificate | None:
    """After a reset nothing is bound."""
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


def _quarantine(enrollment: Enrollment) -> DeviceQuarantine | None:
    quarantine = enrollment.quarantine
    if quarantine is None:
        return None
    return {
        "since": rfc3339_or_null(quarantine.since),
        "last_seen": rfc3339_or_null(quarantine.last_seen),
        "reason": quarantine.reason.value,
        "certificate_sha256": quarantine.certificate.fingerprint,
    }
