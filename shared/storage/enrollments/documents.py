"""Documents of collection `enrollments`: only add fields, ignore unknown ones.

The push token is not encrypted: it is compared in the store, and worth nothing without the push
certificate. `renewal_in` and `renewal_look`: the device's partition, and the time of the next check for
renewal. `notices_in`: its partition while an outbox event is not published; in `notices`, the events are in
the order in which they were kept, since an update adds a field behind those that are there."""

from collections.abc import Mapping
from typing import Any

import structlog

from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    EnrollmentSummary,
    Inventory,
    PushTarget,
    partition_of,
)
from shared.domain.errors import CannotDecrypt
from shared.domain.event import Topic
from shared.domain.identity import LOOK_BEFORE, Identity
from shared.domain.outbox import OutboxEvent, as_kept, is_behind
from shared.domain.versions import is_known, known
from shared.ports.devices import Imported
from shared.ports.enrollments import Change
from shared.ports.keyring import Keyring
from shared.storage.database import Document
from shared.storage.records import EncryptedFields, encryption_context, fields_of, given, record

log = structlog.get_logger()

NAME = "enrollments"
CERTIFICATES = "certificates"
"""The device of each certificate."""
GONE = EnrollmentStatus.REMOVED.value
MAGIC, UNLOCK_TOKEN, BOOTSTRAP_TOKEN = "push.magic", "unlock_token", "bootstrap_token"
ENCRYPTED = EncryptedFields(NAME, (MAGIC, UNLOCK_TOKEN, BOOTSTRAP_TOKEN), texts=frozenset({MAGIC}))

LOOKED_AT_BY = ("renewal_in", "renewal_look")
OF_ONE_BINDING = (
    *("quarantine", "renewal", "renewing", "renewed", "expired_until", "reset_from"),
    *("migrating_until", "identity", *LOOKED_AT_BY),
)
"""Fields that end with their binding."""


def identity_fields(key: EnrollmentKey) -> Document:
    """The fields of a record that never change."""
    names = ("device", "user", "udid", "enrollment_id")
    return given({name: getattr(key, name) for name in names})


def ids_of_users(device: str, after: str | None = None) -> Document:
    """The range of ids of the user channels of a device, `DEVICE:USER`, behind `after`: no device id holds a
    colon, and a semicolon follows it."""
    return {"$gt": max(after or "", f"{device}:"), "$lt": f"{device};"}


def users_of(device: str) -> str:
    """A name that all user channels of a device share, so that the index of names finds them."""
    return f"{device}:*"


def index_names(key: EnrollmentKey, serial_number: str | None) -> list[str]:
    """The keys of an enrollment in the index of names; `shared.domain.names` defines the names."""
    if key.user is not None:
        return [key.id, key.user, users_of(key.device)]
    return [key.id, serial_number] if serial_number else [key.id]


def new_names(key: EnrollmentKey, serial_number: str | None) -> Document:
    """The field `names` for an existing record. Empty where the serial number of a device is not known here:
    another writer may know it."""
    is_known = key.user is not None or serial_number is not None
    return {"names": index_names(key, serial_number)} if is_known else {}


def sent_fields(message: Change | Imported, keyring: Keyring) -> Document:
    """Fields that `$set` takes over from a message: push target, tokens and inventory."""
    fields: Document = {}
    if (push := message.push) is not None:
        magic: str | bytes = push.magic
        if keyring.current is not None:
            context = encryption_context(NAME, message.key.id, MAGIC)
            magic = keyring.encrypt(push.magic.encode(), context)
        fields["push"] = {"topic": push.topic, "token": push.token, "magic": magic}
    tokens = {UNLOCK_TOKEN: message.unlock_token, BOOTSTRAP_TOKEN: message.bootstrap_token}
    for name, token in given(tokens).items():
        context = encryption_context(NAME, message.key.id, name)
        fields[name] = keyring.encrypt(token, context)
    inventory = given(fields_of(message.inventory or Inventory()))
    return fields | {f"inventory.{name}": value for name, value in inventory.items()}


def binding_fields(device: str, identity: Identity | None) -> Document:
    """The fields that a binding sets, beside `certificate`."""
    if identity is None:
        return {}
    fields: Document = {"identity": fields_of(identity)}
    not_after = identity.certificate.not_after
    if not_after is not None:
        look_at = max(identity.bound_at, not_after - LOOK_BEFORE)
        fields |= {"renewal_in": partition_of(device), "renewal_look": look_at}
    return fields


def outbox_fields(device: str, event: OutboxEvent | None) -> Document:
    """The fields that `$set` adds to keep an outbox event."""
    if event is None:
        return {}
    kept: Document = {
        "topic": event.topic.value,
        "at": event.created_at,
        "facts": dict(event.facts),
        **({"follows": True} if event.follows else {}),
    }
    return {f"notices.{event.id}": kept, "notices_in": partition_of(device)}


def outbox_of(document: Document) -> list[OutboxEvent]:
    """The outbox events of a record, the one that was kept first first, though clocks differ. An event of a
    newer version is left to that version."""
    return as_kept(
        OutboxEvent(id_, topic, kept["at"], kept["facts"], kept.get("follows", False))
        for id_, kept in document.get("notices", {}).items()
        if is_known(topic := known(Topic, kept["topic"]))
    )


def decrypted(document: Document, name: str, keyring: Keyring) -> bytes | None:
    encrypted = document.get(name)
    if encrypted is None:
        return None
    return keyring.decrypt(bytes(encrypted), encryption_context(NAME, document["_id"], name))


OF_SUMMARY = dict.fromkeys(
    ("device", "user", "udid", "enrollment_id", "status", "generation", "inventory", "names"), 1
)
"""The fields of an `EnrollmentSummary`."""


def decode_summary(document: Document) -> EnrollmentSummary:
    key = record(EnrollmentKey, document, id=document["_id"])
    return record(EnrollmentSummary, document, key=key)


def decode_enrollment(document: Document, keyring: Keyring | None) -> Enrollment:
    """The enrollment, without its secrets where there is no keyring."""
    key = record(EnrollmentKey, document, id=document["_id"])
    secrets: dict[str, Any] = {"push": None, "bootstrap_token": None}
    if "notices" in document:
        secrets["is_behind"] = is_behind(outbox_of(document))
    if keyring is None:
        return record(Enrollment, document, key=key, **secrets)
    try:
        secrets |= {
            "push": _push_of(document, keyring),
            "bootstrap_token": decrypted(document, BOOTSTRAP_TOKEN, keyring),
        }
    except CannotDecrypt as exc:  # it must not stop the others that are read with it
        log.error("secret_cannot_be_opened", reason=str(exc))
        secrets["unreadable"] = str(exc)
    return record(Enrollment, document, key=key, **secrets)


def _push_of(document: Mapping[str, Any], keyring: Keyring) -> PushTarget | None:
    push = document.get("push")
    if not push:
        return None
    magic = push["magic"]
    if not isinstance(magic, str):  # text of an earlier version is in clear
        context = encryption_context(NAME, document["_id"], MAGIC)
        magic = keyring.decrypt(bytes(magic), context).decode(errors="replace")
    return record(PushTarget, push, magic=magic)
