"""How an enrollment stands in its document: only add fields, ignore unknown ones."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
    Waiting,
)
from shared.storage.mongo import Document

_INVENTORY_FIELDS = tuple(field.name for field in fields(Inventory))


def identity_fields(key: EnrollmentKey) -> Document:
    """What never changes in a record."""
    document: Document = {"device": key.device}
    if key.user is not None:
        document["user"] = key.user
    if key.udid is not None:
        document["udid"] = key.udid
    if key.enrollment_id is not None:
        document["enrollment_id"] = key.enrollment_id
    return document


def users_of(device: str) -> str:
    """A name that all user channels of a device share, so that the index of names finds them."""
    return f"{device}:*"


def names_of(key: EnrollmentKey, inventory: Inventory | None) -> list[str]:
    """By what an enrollment is found."""
    if key.user is not None:
        return [key.id, key.user, users_of(key.device)]
    serial_number = inventory.serial_number if inventory else None
    return [key.id, serial_number] if serial_number else [key.id]


def key_of(document: Mapping[str, Any], enrollment: str) -> EnrollmentKey:
    return EnrollmentKey(
        id=enrollment,
        device=document["device"],
        udid=document.get("udid"),
        enrollment_id=document.get("enrollment_id"),
        user=document.get("user"),
    )


def inventory_fields(inventory: Inventory) -> Document:
    return {name: value for name, value in asdict(inventory).items() if value is not None}


def push_fields(push: PushTarget) -> Document:
    return {"topic": push.topic, "token": push.token, "magic": push.magic}


def waiting_of(document: Mapping[str, Any]) -> Waiting:
    waiting = document.get("waiting", {})
    return Waiting(waiting.get("since"), waiting.get("upto"), waiting.get("count", 0))


def from_document(document: Mapping[str, Any]) -> Enrollment:
    push = document.get("push")
    inventory = document.get("inventory", {})
    bootstrap_token = document.get("bootstrap_token")
    return Enrollment(
        key=key_of(document, document["_id"]),
        status=EnrollmentStatus(document["status"]),
        generation=document.get("generation"),
        certificate=document.get("certificate"),
        retired_certificates=tuple(document.get("retired_certificates", ())),
        push=push
        and PushTarget(
            topic=push["topic"],
            token=bytes(push["token"]),
            magic=push["magic"],
            dead=push.get("dead", False),
        ),
        blocked=document.get("blocked", False),
        waiting=waiting_of(document),
        inventory=Inventory(**{n: inventory.get(n) for n in _INVENTORY_FIELDS}),
        bootstrap_token=None if bootstrap_token is None else bytes(bootstrap_token),
        last_seen=document.get("last_seen"),
        token_updated_at=document.get("token_updated_at"),
    )
