"""Documents of collection `enrollments`: only add fields, ignore unknown ones.

Push magic, unlock token and bootstrap token are encrypted; the push token is not, since it is compared
in the store, and worth nothing without the push certificate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from shared.ports.devices import Imported
from shared.ports.enrollments import Change
from shared.ports.keyring import Keyring
from shared.storage.database import Document, given, record
from shared.storage.encrypted_fields import EncryptedFields, encryption_context
from shared.storage.enrollments.identity_documents import binding_facts

log = structlog.get_logger()

NAME = "enrollments"
CERTIFICATES = "certificates"
"""The device of each certificate."""
MAGIC, UNLOCK_TOKEN, BOOTSTRAP_TOKEN = "push.magic", "unlock_token", "bootstrap_token"
ENCRYPTED = EncryptedFields(NAME, (MAGIC, UNLOCK_TOKEN, BOOTSTRAP_TOKEN), texts=frozenset({MAGIC}))


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


def stored_key(document: Mapping[str, Any], enrollment: str) -> EnrollmentKey:
    return record(EnrollmentKey, document, id=enrollment)


def inventory_fields(inventory: Inventory) -> Document:
    return given(asdict(inventory))


def push_fields(push: PushTarget, enrollment: str, keyring: Keyring) -> Document:
    magic: str | bytes = push.magic
    if keyring.current is not None:
        magic = keyring.encrypt(push.magic.encode(), encryption_context(NAME, enrollment, MAGIC))
    return {"topic": push.topic, "token": push.token, "magic": magic}


def sent_fields(message: Change | Imported, keyring: Keyring) -> Document:
    """Fields that `$set` takes over from a message: push target, tokens and inventory."""
    fields: Document = {}
    if message.push is not None:
        fields["push"] = push_fields(message.push, message.key.id, keyring)
    tokens = {UNLOCK_TOKEN: message.unlock_token, BOOTSTRAP_TOKEN: message.bootstrap_token}
    for name, token in given(tokens).items():
        context = encryption_context(NAME, message.key.id, name)
        fields[name] = keyring.encrypt(token, context)
    inventory = inventory_fields(message.inventory or Inventory())
    return fields | {f"inventory.{name}": value for name, value in inventory.items()}


def waiting_of(document: Mapping[str, Any]) -> Waiting:
    waiting = document.get("waiting", {})
    return Waiting(waiting.get("since"), waiting.get("upto"), waiting.get("count", 0))


def refusals_of(document: Mapping[str, Any]) -> tuple[Refusal, ...]:
    return tuple(record(Refusal, each) for each in document.get("refusals", ()))


@dataclass(frozen=True, slots=True)
class _Secrets:
    """The decrypted secrets of a record; `unreadable` says why they cannot be decrypted."""

    push: PushTarget | None = None
    bootstrap_token: bytes | None = None
    unreadable: str | None = None


def _secrets_of(document: Mapping[str, Any], keyring: Keyring) -> _Secrets:
    """A record that cannot be decrypted must not stop the others that are read with it."""
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
    if not isinstance(magic, str):  # text of an earlier version is in clear
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


def decode_enrollment(document: Mapping[str, Any], keyring: Keyring) -> Enrollment:
    secrets = _secrets_of(document, keyring)
    return Enrollment(
        key=stored_key(document, document["_id"]),
        status=known(EnrollmentStatus, document["status"]),
        generation=document.get("generation"),
        certificate=document.get("certificate"),
        changed_by=document.get("changed_by"),
        retired_certificates=tuple(document.get("retired_certificates", ())),
        push=secrets.push,
        blocked=document.get("blocked", False),
        waiting=waiting_of(document),
        inventory=record(Inventory, document.get("inventory", {})),
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
