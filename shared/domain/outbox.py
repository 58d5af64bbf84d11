"""Events that are stored with the change that they report. Promise: all that an event says comes from its
outbox event, so that its bytes are the same in every publication, by any process."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import orjson

from shared.domain.enrollment import Enrollment, EnrollmentKey
from shared.domain.event import FACTS_VERSION, Event, Topic
from shared.domain.identity import DeviceCertificate, Identity, Quarantine, RenewalFailure
from shared.times import rfc3339_or_null

Fact = str | int | None


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """In the record of what it is about until it is safe. `created_at`: nanoseconds since the epoch.
    `follows`: the process that handles the message makes it safe; another does if that one dies."""

    id: str
    topic: Topic
    created_at: int
    facts: Mapping[str, Fact]
    follows: bool = False

    def event(self, key: EnrollmentKey, writer: str) -> Event:
        """As it is journaled by a writer that has no numbers of its own: the time is its number."""
        return Event(
            id=self.id,
            topic=self.topic,
            key=key,
            created_at=self.created_at,
            raw_payload=orjson.dumps(dict(self.facts)),
            writer=writer,
            number=self.created_at,
        )


def as_kept(kept: Iterable[OutboxEvent]) -> list[OutboxEvent]:
    """The events of one record, given in the order in which it kept them, each later than the one before it:
    the clocks of those who kept them may differ."""
    ordered: list[OutboxEvent] = []
    for each in kept:
        after = ordered[-1].created_at + 1 if ordered else 0
        ordered.append(replace(each, created_at=max(each.created_at, after)))
    return ordered


def is_behind(kept: Iterable[OutboxEvent]) -> bool:
    """Whether an enrollment whose record keeps these begins or ends behind one of them."""
    return any(each.follows or each.topic is Topic.DEVICE_REMOVED for each in kept)


def rebound(id_: str, at: int, replaced: str, identity: Identity) -> OutboxEvent:
    """A device has another certificate than before."""
    facts = _facts(identity.certificate) | {
        "replaced_certificate": replaced,
        "how": identity.how.value,
    }
    return OutboxEvent(id_, Topic.CERTIFICATE_REBOUND, at, facts)


def quarantined(id_: str, at: int, bound: str | None, seen: Quarantine) -> OutboxEvent:
    """A device is not served from now on."""
    facts = _facts(seen.certificate) | {"bound_certificate": bound, "reason": seen.reason.value}
    return OutboxEvent(id_, Topic.DEVICE_QUARANTINED, at, facts)


def renewal_failed(
    id_: str, at: int, identity: Identity, reason: RenewalFailure, attempts: int
) -> OutboxEvent:
    """The certificate of a device will not be renewed, or was not in spite of these attempts."""
    facts = _facts(identity.certificate) | {"reason": reason.value, "attempts": attempts}
    return OutboxEvent(id_, Topic.RENEWAL_FAILED, at, facts)


def enrolled(id_: str, at: int, device: Enrollment) -> OutboxEvent:
    """The first TokenUpdate of an enrollment: the device can be pushed."""
    topic = Topic.DEVICE_REENROLLED if device.was_enrolled else Topic.DEVICE_ENROLLED
    facts: dict[str, Fact] = {
        "version": FACTS_VERSION,
        "serial_number": device.inventory.serial_number,
        "model": device.inventory.model,
        "os_version": device.inventory.os_version,
    }
    return OutboxEvent(id_, topic, at, facts, follows=True)


def checked_out(id_: str, at: int) -> OutboxEvent:
    """A device left."""
    facts: dict[str, Fact] = {"version": FACTS_VERSION, "reason": "check_out"}
    return OutboxEvent(id_, Topic.DEVICE_REMOVED, at, facts, follows=True)


def removed_by_client(id_: str, at: int) -> OutboxEvent:
    """An API client removed a device."""
    return OutboxEvent(
        id_, Topic.DEVICE_REMOVED, at, {"version": FACTS_VERSION, "reason": "deleted"}
    )


def token_invalid(id_: str, at: int, reason: str) -> OutboxEvent:
    """APNs says that the push token of an enrollment is not in use."""
    return OutboxEvent(
        id_, Topic.PUSH_TOKEN_INVALID, at, {"version": FACTS_VERSION, "reason": reason}
    )


def silent(id_: str, at: int, device: Enrollment, waiting: int) -> OutboxEvent:
    """A device stays silent while so many commands wait for it."""
    facts: dict[str, Fact] = {
        "version": FACTS_VERSION,
        "serial_number": device.inventory.serial_number,
        "last_seen": rfc3339_or_null(device.last_seen),
        "waiting_commands": waiting,
    }
    return OutboxEvent(id_, Topic.DEVICE_SILENT, at, facts)


def identity_expiring(id_: str, at: int, device: Enrollment, days: int) -> OutboxEvent:
    """The bound certificate of a device ends within so many days."""
    assert device.identity is not None
    facts: dict[str, Fact] = {
        "version": FACTS_VERSION,
        "serial_number": device.inventory.serial_number,
        "days": days,
    }
    facts |= _facts(device.identity.certificate)
    return OutboxEvent(id_, Topic.IDENTITY_EXPIRING, at, facts)


def _facts(certificate: DeviceCertificate) -> dict[str, Fact]:
    return {
        "certificate": certificate.fingerprint,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_after": rfc3339_or_null(certificate.not_after),
    }
