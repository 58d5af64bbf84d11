"""Writes of device messages: one conditional update of an enrollment for each change, binding, refusal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.domain.binding import Binding
from shared.domain.enrollment import EnrollmentStatus, Inventory, Refusal, latest_refusals
from shared.domain.event import Topic
from shared.ports.enrollments import Change
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.enrollments.documents import (
    GONE,
    NAME,
    OF_ONE_BINDING,
    binding_fields,
    identity_fields,
    index_names,
    new_names,
    outbox_fields,
    sent_fields,
)
from shared.storage.records import fields_of, given, record
from shared.times import to_milliseconds

TRIES = 5
"""Tries against other replicas that write into the same records."""
_STATUS = {
    Topic.AUTHENTICATE: EnrollmentStatus.AUTHENTICATED,
    Topic.TOKEN_UPDATE: EnrollmentStatus.ENROLLED,
    Topic.CHECK_OUT: EnrollmentStatus.CHECKED_OUT,
}


def new_record_of(change: Change) -> Document:
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
        "inventory": given(fields_of(change.inventory or Inventory())),
        **binding_fields(change.key.id, change.identity),
        **given({"signed_at": change.signed_at}),
    }


def update_of(change: Change, keyring: Keyring) -> UpdateOne:
    """The update of a change. The record of a user channel is made here where there is none."""
    fields: Document = {
        "changed_by": change.by,
        **new_names(change.key, change.serial_number),
        **sent_fields(change, keyring),
        **given({"renewing": change.renewing, "renewed": change.renewed}),
        **outbox_fields(change.key.id, change.outbox_event),
    }
    condition: Document = {
        "_id": change.key.id,
        "generation": change.expected_generation,
        "changed_by": change.expected_change,
    }
    if change.topic is Topic.AUTHENTICATE:
        condition["certificate"] = change.certificate
    status = None if change.renewing else _STATUS.get(change.topic)
    if status is not None:
        fields["status"] = status.value
    if change.push is not None:
        fields["token_updated_at"] = change.at
    if change.begins_generation:
        fields |= {"generation": change.by} | (
            {"was_enrolled": True} if change.was_enrolled else {}
        )
    if not change.key.is_device_channel:
        fields |= {**identity_fields(change.key), "generation": change.generation}
        fields.setdefault("status", EnrollmentStatus.ENROLLED.value)
    update: Document = {
        "$set": fields,
        "$max": given({"last_seen": change.at, "signed_at": change.signed_at}),
    }
    forgotten = _forgotten(change)
    if forgotten:
        update["$unset"] = dict.fromkeys(forgotten, "")
    return UpdateOne(condition, update, upsert=not change.key.is_device_channel)


def _forgotten(change: Change) -> tuple[str, ...]:
    """A new enrollment begins without the secrets of the one before it."""
    if change.begins_generation:
        return ("push", "unlock_token", "bootstrap_token", "token_updated_at", "quarantine")
    if change.topic is Topic.AUTHENTICATE:
        return ("quarantine",)
    if change.topic is Topic.CHECK_OUT:
        return ("push",)
    return ()


def rebinding_of(binding: Binding) -> UpdateOne:
    device, dropped, retired = binding.key.id, binding.dropped, binding.newly_retired
    fields: Document = {"certificate": binding.certificate}
    fields |= binding_fields(device, binding.identity) | outbox_fields(device, binding.outbox_event)
    ended = [name for name in OF_ONE_BINDING if name not in fields]
    update: Document = {"$set": fields, "$unset": dict.fromkeys(ended, "")}
    if dropped:
        fields["retired_certificates"] = [*binding.retired[len(dropped) :], *retired]
    elif retired:
        update["$addToSet"] = {"retired_certificates": {"$each": retired}}
    as_read = {"generation": binding.generation, "certificate": binding.replaces}
    return UpdateOne({"_id": device, **as_read}, update)


class MongoRefusals:
    """Implements `shared.ports.events.Refusals`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

    async def add(self, refusals: Mapping[str, Sequence[Refusal]]) -> None:
        """Each record is changed on condition that its refusals are still those that were read."""
        for _ in range(TRIES):
            found = await self._documents.find(
                {"_id": {"$in": list(refusals)}, "status": {"$ne": GONE}}, {"refusals": 1}
            )
            updates = [each for d in found for each in _updates(d, refusals[d["_id"]])]
            if not updates:
                return
            matched, _ = await self._documents.bulk_write(updates)
            if matched == len(updates):
                return


def _updates(document: Document, more: Sequence[Refusal]) -> list[UpdateOne]:
    """One update, or none where the document has the refusals already."""
    known = tuple(record(Refusal, each) for each in document.get("refusals", ()))
    # Times as the store keeps them, so that a stored refusal compares equal.
    latest = latest_refusals(known, (replace(each, at=to_milliseconds(each.at)) for each in more))
    if latest == known:
        return []
    as_read = {"_id": document["_id"], "refusals": document.get("refusals")}
    update = {"$set": {"refusals": [fields_of(each) for each in latest]}}
    return [UpdateOne({**as_read, "status": {"$ne": GONE}}, update)]
