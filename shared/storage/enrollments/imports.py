"""Messages that devices sent to another server, as records in collection `enrollments`.

Each message is one write on condition of the record as read: a change by its device, or by another import,
stays. `imported` holds the generation that the import began and the digests of the messages. `changed_by`
of a record that only imports have written begins with `BY`."""

from collections.abc import Mapping

from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import Overtaken
from shared.ports.devices import Imported, ImportedKind, ImportOutcome
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document
from shared.storage.enrollments.documents import (
    GONE,
    NAME,
    identity_fields,
    index_names,
    new_names,
    sent_fields,
)
from shared.storage.reads import find_by_id

BY = "migration:"
TRIES = 5
_AS_READ = ("status", "generation", "changed_by")
_READ = dict.fromkeys((*_AS_READ, "certificate", "imported", "migrating_until"), 1)


class MongoMigration:
    """Implements `shared.ports.devices.Migration`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._documents = database.collection(NAME)
        self._keyring = keyring

    async def take(self, message: Imported) -> ImportOutcome:
        key = message.key
        for _ in range(TRIES):
            records = await find_by_id(self._documents, [key.device, key.id], _READ)
            outcome = _judged(message, records)
            if outcome is not ImportOutcome.IMPORTED:
                return outcome
            if await self._write(message, records):
                return outcome
        raise Overtaken("the enrollment changes all the time")

    async def _write(self, message: Imported, records: Mapping[str, Document]) -> bool:
        device, record = records.get(message.key.device), records.get(message.key.id)
        generation = (device or {}).get("generation") or message.generation
        fields = self._fields(message, record, generation)
        serial_number = message.inventory.serial_number if message.inventory else None
        if record is None:
            names = index_names(message.key, serial_number)
            return await self._documents.insert_one(
                {"_id": message.key.id, "names": names, **_nested(fields)}
            )
        condition: Document = {"_id": message.key.id, **{n: record.get(n) for n in _AS_READ}}
        if message.key.is_device_channel:
            condition["certificate"] = None
        fields |= new_names(message.key, serial_number)
        return 1 == await self._documents.update_one(condition, {"$set": fields})

    def _fields(self, message: Imported, record: Document | None, generation: str) -> Document:
        key = message.key
        fields: Document = {
            **identity_fields(key),
            "generation": generation,
            "changed_by": BY + message.digest,
            "imported.generation": generation,
            f"imported.messages.{message.kind}": message.digest,
        }
        if key.is_device_channel:
            fields["migrating_until"] = message.until
        is_new = record is None or record["status"] == GONE
        if message.kind is ImportedKind.TOKEN_UPDATE or (is_new and not key.is_device_channel):
            fields["status"] = EnrollmentStatus.ENROLLED.value
            fields |= {"was_enrolled": True} if key.is_device_channel else {}
        elif is_new:
            fields["status"] = EnrollmentStatus.AUTHENTICATED.value
        return fields | sent_fields(message, self._keyring)


def _judged(message: Imported, records: Mapping[str, Document]) -> ImportOutcome:
    device, record = records.get(message.key.device), records.get(message.key.id)
    if _was_imported(message, record):
        return ImportOutcome.UNCHANGED
    if not message.key.is_device_channel:
        return _judged_user(device, record)
    if device is not None and device.get("certificate") is not None:
        return ImportOutcome.OWN
    is_there = device is not None and device["status"] != GONE
    if message.kind is not ImportedKind.AUTHENTICATE and not is_there:
        return ImportOutcome.UNKNOWN
    return ImportOutcome.IMPORTED


def _was_imported(message: Imported, record: Document | None) -> bool:
    if record is None or record["status"] == GONE:
        return False
    if record.get("imported", {}).get("messages", {}).get(message.kind.value) != message.digest:
        return False
    until = record.get("migrating_until")
    return until is None or until >= message.at


def _judged_user(device: Document | None, record: Document | None) -> ImportOutcome:
    if device is None or device["status"] == GONE:
        return ImportOutcome.UNKNOWN
    if device.get("imported", {}).get("generation") != device.get("generation"):
        return ImportOutcome.OWN
    if record is None or record["status"] == GONE:
        return ImportOutcome.IMPORTED
    is_import = str(record.get("changed_by")).startswith(BY)
    return ImportOutcome.IMPORTED if is_import else ImportOutcome.OWN


def _nested(fields: Document) -> Document:
    """A document to insert, from fields whose dotted names denote documents inside it."""
    document: Document = {}
    for name, value in fields.items():
        *outer, last = name.split(".")
        inner = document
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return document
