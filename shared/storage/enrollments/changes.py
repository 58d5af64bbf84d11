"""What each device message writes into its enrollment: one conditional update per message."""

from shared.domain.enrollment import EnrollmentStatus, Inventory
from shared.domain.event import Topic
from shared.ports.enrollments import Change
from shared.ports.keyring import Keyring
from shared.storage.database import Document, UpdateOne
from shared.storage.encrypted_fields import encryption_context
from shared.storage.enrollments.documents import (
    BOOTSTRAP_TOKEN,
    NAME,
    UNLOCK_TOKEN,
    identity_fields,
    index_names,
    inventory_fields,
    new_names,
    push_fields,
)
from shared.storage.enrollments.identity_documents import binding_fields

_STATUS = {
    Topic.AUTHENTICATE: EnrollmentStatus.AUTHENTICATED,
    Topic.TOKEN_UPDATE: EnrollmentStatus.ENROLLED,
    Topic.CHECK_OUT: EnrollmentStatus.CHECKED_OUT,
}


def record_of(change: Change) -> Document:
    """The record of a device, made by its first Authenticate."""
    return {
        **identity_fields(change.key),
        "_id": change.key.id,
        "names": index_names(change.key, change.serial_number),
        "status": EnrollmentStatus.AUTHENTICATED.value,
        "generation": change.by,
        "changed_by": change.by,
        "certificate": change.certificate,
        "last_seen": change.at,
        "inventory": inventory_fields(change.inventory or Inventory()),
        **binding_fields(change.key.id, change.identity),
        **_signing_time(change),
    }


def update_of(change: Change, keyring: Keyring) -> UpdateOne:
    """The update of a change. The record of a user channel is made here where there is none."""
    fields: Document = {
        "changed_by": change.by,
        **new_names(change.key, change.serial_number),
        **_fields(change, keyring),
        **_renewal(change),
    }
    condition: Document = {
        "_id": change.key.id,
        "generation": change.expected_generation,
        "changed_by": change.expected_change,
    }
    if change.topic is Topic.AUTHENTICATE:
        condition["certificate"] = change.certificate
    if change.begins_generation:
        fields["generation"] = change.by
    if not change.key.is_device_channel:
        fields |= {**identity_fields(change.key), "generation": change.generation}
    update: Document = {
        "$set": fields,
        "$max": {"last_seen": change.at, **_signing_time(change)},
    }
    forgotten = _forgotten(change)
    if forgotten:
        update["$unset"] = dict.fromkeys(forgotten, "")
    return UpdateOne(condition, update, upsert=not change.key.is_device_channel)


def _signing_time(change: Change) -> Document:
    return {} if change.signed_at is None else {"signed_at": change.signed_at}


def _fields(change: Change, keyring: Keyring) -> Document:
    fields: Document = {}
    status = None if change.renewing else _STATUS.get(change.topic)
    if status is not None:
        fields["status"] = status.value
    elif not change.key.is_device_channel:
        fields["status"] = EnrollmentStatus.ENROLLED.value
    if change.push is not None:
        fields |= {
            "push": push_fields(change.push, change.key.id, keyring),
            "token_updated_at": change.at,
        }
    tokens = {UNLOCK_TOKEN: change.unlock_token, BOOTSTRAP_TOKEN: change.bootstrap_token}
    for name, token in tokens.items():
        if token is not None:
            fields[name] = keyring.encrypt(token, encryption_context(NAME, change.key.id, name))
    if change.inventory is not None:
        told = inventory_fields(change.inventory)
        fields |= {f"inventory.{name}": value for name, value in told.items()}
    return fields


def _renewal(change: Change) -> Document:
    marks = {"renewing": change.renewing, "renewed": change.renewed}
    return {name: certificate for name, certificate in marks.items() if certificate is not None}


def _forgotten(change: Change) -> tuple[str, ...]:
    """A new enrollment begins without the secrets of the one before it."""
    if change.begins_generation:
        return ("push", "unlock_token", "bootstrap_token", "token_updated_at", "quarantine")
    if change.topic is Topic.AUTHENTICATE:
        return ("quarantine",)
    if change.topic is Topic.CHECK_OUT:
        return ("push",)
    return ()
