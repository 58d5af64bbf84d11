"""How an enrollment stands in its document: only add fields, ignore unknown ones.

Push magic, unlock token and bootstrap token are encrypted; the push token is not, since it is compared
in the store, and worth nothing without the push certificate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import structlog

from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
    Refusal,
    Waiting,
)
from shared.domain.errors import CannotDecrypt
from shared.domain.versions import known
from shared.ports.keyring import Keyring
from shared.storage.database import Document
from shared.storage.encrypted_fields import EncryptedFields, encryption_context
from shared.storage.enrollments.identity_documents import binding_facts

log = structlog.get_logger()

NAME = "enrollments"
CERTIFICATES = "certificates"
"""Which certificate is whose."""
MAGIC, UNLOCK_TOKEN, BOOTSTRAP_TOKEN = "push.magic", "unlock_token", "bootstrap_token"
ENCRYPTED = EncryptedFields(NAME, (MAGIC, UNLOCK_TOKEN, BOOTSTRAP_TOKEN), texts=frozenset({MAGIC}))

_INVENTORY_FIELDS = tuple(field.name for field in fields(Inventory))
_REFUSAL_FIELDS = tuple(field.name for field in fields(Refusal))


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


def ids_of_users(device: str, after: str | None = None) -> Document:
    """The range of ids in which the user channels of a device stand, `DEVICE:USER`, from behind `after`
    on: no device id holds a colon, and a semicolon follows it."""
    return {"$gt": max(after or "", f"{device}:"), "$lt": f"{device};"}


def users_of(device: str) -> str:
    """A name that all user channels of a device share, so that the index of names finds them."""
    return f"{device}:*"


def index_names(key: EnrollmentKey, serial_number: str | None) -> list[str]:
    """What the index of names holds of an enrollment; `shared.domain.names` says what is a name."""
    if key.user is not None:
        return [key.id, key.user, users_of(key.device)]
    return [key.id, serial_number] if serial_number else [key.id]


def new_names(key: EnrollmentKey, serial_number: str | None) -> Document:
    """The field `names` of a record that is there, in the place of what it held. Empty where the serial
    number of a device is not known here: another writer may know it."""
    is_known = key.user is not None or serial_number is not None
    return {"names": index_names(key, serial_number)} if is_known else {}


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


def push_fields(push: PushTarget, enrollment: str, keyring: Keyring) -> Document:
    magic: str | bytes = push.magic
    if keyring.current is not None:
        magic = keyring.encrypt(push.magic.encode(), encryption_context(NAME, enrollment, MAGIC))
    return {"topic": push.topic, "token": push.token, "magic": magic}


def waiting_of(document: Mapping[str, Any]) -> Waiting:
    waiting = document.get("waiting", {})
    return Waiting(waiting.get("since"), waiting.get("upto"), waiting.get("count", 0))


def refusals_of(document: Mapping[str, Any]) -> tuple[Refusal, ...]:
    return tuple(
        Refusal(**{name: each[name] for name in _REFUSAL_FIELDS})
        for each in document.get("refusals", ())
    )


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What a record holds encrypted, in clear; `unreadable` says why it is not."""

    push: PushTarget | None = None
    bootstrap_token: bytes | None = None
    unreadable: str | None = None


def _secrets_of(document: Mapping[str, Any], keyring: Keyring) -> _Secrets:
    """One record that cannot be opened must not stop the others that are read with it."""
    try:
        return _Secrets(_push_of(document, keyring), _bootstrap_token_of(document, keyring))
    except CannotDecrypt as exc:
        log.error("secret_cannot_be_opened", reason=str(exc))
        return _Secrets(unreadable=str(exc))


def _push_of(document: Mapping[str, Any], keyring: Keyring) -> PushTarget | None:
    push = document.get("push")
    if not push:
        return None
    magic = push["magic"]
    if not isinstance(magic, str):  # text of an earlier version stands in clear
        magic = keyring.decrypt(
            bytes(magic), encryption_context(NAME, document["_id"], MAGIC)
        ).decode(errors="replace")
    return PushTarget(
        topic=push["topic"],
        token=bytes(push["token"]),
        magic=magic,
        dead=push.get("dead", False),
    )


def _bootstrap_token_of(document: Mapping[str, Any], keyring: Keyring) -> bytes | None:
    token = document.get(BOOTSTRAP_TOKEN)
    if token is None:
        return None
    return keyring.decrypt(bytes(token), encryption_context(NAME, document["_id"], BOOTSTRAP_TOKEN))


def from_document(document: Mapping[str, Any], keyring: Keyring) -> Enrollment:
    inventory = document.get("inventory", {})
    secrets = _secrets_of(document, keyring)
    return Enrollment(
        key=key_of(document, document["_id"]),
        status=known(EnrollmentStatus, document["status"]),
        generation=document.get("generation"),
        certificate=document.get("certificate"),
        changed_by=document.get("changed_by"),
        retired_certificates=tuple(document.get("retired_certificates", ())),
        push=secrets.push,
        blocked=document.get("blocked", False),
        waiting=waiting_of(document),
        inventory=Inventory(**{n: inventory.get(n) for n in _INVENTORY_FIELDS}),
        bootstrap_token=secrets.bootstrap_token,
        unreadable=secrets.unreadable,
        last_seen=document.get("last_seen"),
        token_updated_at=document.get("token_updated_at"),
        signed_at=document.get("signed_at"),
        migrating_until=document.get("migrating_until"),
        refusals=refusals_of(document),
        renewing=document.get("renewing"),
        renewed=document.get("renewed"),
        **binding_facts(document),
    )
