"""Fields of a binding in its enrollment's document: only add fields, ignore unknown ones.

`renewal_in` and `renewal_look`: its partition, and the time of the next check for renewal.
`notices_in`: its partition while an outbox event is not published.
"""

from collections.abc import Mapping
from typing import Any

from shared.domain.enrollment import partition_of
from shared.domain.event import Topic
from shared.domain.identity import (
    LOOK_BEFORE,
    BoundBy,
    DeviceCertificate,
    Identity,
    Quarantine,
    QuarantineReason,
    Renewal,
    RenewalFailure,
)
from shared.domain.outbox import OutboxEvent
from shared.domain.versions import is_known, known
from shared.storage.database import Document, record

OF_ONE_BINDING = (
    "quarantine",
    "renewal",
    "renewing",
    "renewed",
    "expired_until",
    "reset_from",
    "migrating_until",
)
"""Fields that end with their binding."""
LOOKED_AT_BY = ("renewal_in", "renewal_look")
IDENTITY_FIELDS = ("identity", *LOOKED_AT_BY)
"""Fields that `binding_fields` may set."""


def binding_fields(device: str, identity: Identity | None) -> Document:
    """The fields that a binding sets, beside `certificate`."""
    if identity is None:
        return {}
    fields: Document = {
        "identity": {
            "certificate": certificate_fields(identity.certificate),
            "bound_at": identity.bound_at,
            "how": identity.how.value,
            "ours": identity.is_ours,
            "parameters": None if identity.parameters is None else [*identity.parameters.items()],
        }
    }
    not_after = identity.certificate.not_after
    if not_after is not None:
        look_at = max(identity.bound_at, not_after - LOOK_BEFORE)
        fields |= {"renewal_in": partition_of(device), "renewal_look": look_at}
    return fields


def certificate_fields(certificate: DeviceCertificate) -> Document:
    return {
        "sha256": certificate.fingerprint,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "expired": certificate.is_expired,
    }


def _certificate_of(document: Mapping[str, Any]) -> DeviceCertificate:
    return record(
        DeviceCertificate,
        document,
        fingerprint=document["sha256"],
        is_expired=document["expired"],
    )


def identity_of(document: Mapping[str, Any]) -> Identity | None:
    found = document.get("identity")
    if found is None:
        return None
    parameters = found.get("parameters")
    return Identity(
        certificate=_certificate_of(found["certificate"]),
        bound_at=found["bound_at"],
        how=known(BoundBy, found["how"]),
        is_ours=found["ours"],
        parameters=None if parameters is None else dict(parameters),
    )


def quarantine_fields(quarantine: Quarantine) -> Document:
    return {
        "since": quarantine.since,
        "last_seen": quarantine.last_seen,
        "reason": quarantine.reason.value,
        "certificate": certificate_fields(quarantine.certificate),
    }


def quarantine_of(document: Mapping[str, Any]) -> Quarantine | None:
    found = document.get("quarantine")
    if found is None:
        return None
    reason = known(QuarantineReason, found["reason"])
    return record(
        Quarantine, found, reason=reason, certificate=_certificate_of(found["certificate"])
    )


def renewal_fields(renewal: Renewal) -> Document:
    return {
        "attempt": renewal.attempt,
        "command_uuid": renewal.command_uuid,
        "asked_at": renewal.asked_at,
        "failed": None if renewal.failed is None else renewal.failed.value,
    }


def renewal_of(document: Mapping[str, Any]) -> Renewal | None:
    found = document.get("renewal")
    if found is None:
        return None
    failed = found.get("failed")
    return record(Renewal, found, failed=None if failed is None else known(RenewalFailure, failed))


def outbox_fields(device: str, outbox_event: OutboxEvent | None) -> Document:
    """The fields that `$set` adds to keep an outbox event."""
    if outbox_event is None:
        return {}
    event = outbox_event
    kept = {"topic": event.topic.value, "at": event.created_at, "facts": dict(event.facts)}
    return {f"notices.{event.id}": kept, "notices_in": partition_of(device)}


def outbox_of(document: Mapping[str, Any]) -> list[OutboxEvent]:
    """The outbox events of a record, earliest first. An event of a newer version is left to that version."""
    found = [
        OutboxEvent(id_, topic, kept["at"], kept["facts"])
        for id_, kept in document.get("notices", {}).items()
        if is_known(topic := known(Topic, kept["topic"]))
    ]
    return sorted(found, key=lambda outbox_event: (outbox_event.created_at, outbox_event.id))


def binding_facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Enrollment` that belong to its binding."""
    if "identity" not in document and "quarantine" not in document:
        return {}
    return {
        "identity": identity_of(document),
        "reset_from": document.get("reset_from"),
        "expired_until": document.get("expired_until"),
        "quarantine": quarantine_of(document),
        "renewal": renewal_of(document),
    }
