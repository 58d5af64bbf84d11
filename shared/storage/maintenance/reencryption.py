"""Re-encryption of every encrypted value of every collection, for the rotation of keys.

Promise: a value is replaced only on condition that it is still as read, so that this may run beside any
number of servers, and again after it was cut short.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.domain.errors import CannotDecrypt
from shared.ports.keyring import KeyCount, Keyring
from shared.storage.certificates import authority
from shared.storage.certificates import push as push_certificates
from shared.storage.database import Database, UpdateOne
from shared.storage.enrollments import documents as enrollment_documents
from shared.storage.events import deliveries, journal, subscriptions, webhook_history
from shared.storage.queue import commands as stored_commands
from shared.storage.records import EncryptedFields, encryption_context
from shared.storage.sqlite.query.values import MISSING, value_at

ALL: tuple[EncryptedFields, ...] = (
    authority.ENCRYPTED,
    enrollment_documents.ENCRYPTED,
    deliveries.ENCRYPTED,
    webhook_history.ENCRYPTED,
    journal.ENCRYPTED,
    push_certificates.ENCRYPTED,
    subscriptions.ENCRYPTED,
    stored_commands.ENCRYPTED,
)

BATCH = 100
"""Documents at a time; the largest body of a device is 15 MiB."""
ROUNDS = 5
"""Tries for documents that change meanwhile."""


class MongoEncryptedValues:
    """Implements `shared.ports.keyring.EncryptedValues`."""

    def __init__(
        self, database: Database, keyring: Keyring, entries: Sequence[EncryptedFields] = ALL
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._entries = {each.collection: each for each in entries}

    @property
    def current(self) -> str | None:
        return self._keyring.current

    @property
    def collections(self) -> Sequence[str]:
        return tuple(self._entries)

    async def batches(self, collection: str) -> AsyncIterator[list[str]]:
        documents = self._database.collection(collection)
        where = self._entries[collection].where
        async for found in documents.scan(where, {"_id": 1}, batch=BATCH):
            yield [document["_id"] for document in found]

    async def reencrypt(self, collection: str, ids: Sequence[str]) -> int:
        documents, encrypted = self._database.collection(collection), 0
        for _ in range(ROUNDS):
            values = await self._read(collection, ids)
            writes = [write for value in values if (write := self._reencrypted(value)) is not None]
            matched, _ = await documents.bulk_write(writes)
            encrypted += matched
            if matched == len(writes):
                break
        return encrypted

    async def count(self, collection: str, ids: Sequence[str]) -> KeyCount:
        return Counter(self._key_of(value) for value in await self._read(collection, ids))

    async def _read(self, collection: str, ids: Sequence[str]) -> list["_Value"]:
        fields = self._entries[collection].fields
        found = await self._database.collection(collection).find(
            {"_id": {"$in": list(ids)}}, dict.fromkeys(fields, 1)
        )
        values = (
            _Value(self._entries[collection], document["_id"], path, value_at(document, path))
            for document in found
            for path in fields
        )
        return [value for value in values if value.stored not in (None, MISSING)]

    def _key_of(self, value: "_Value") -> str | None:
        return None if isinstance(value.stored, str) else self._keyring.key_of(bytes(value.stored))

    def _reencrypted(self, value: "_Value") -> UpdateOne | None:
        """The write that encrypts it with the current key; None: it is so already, or cannot be decrypted."""
        if self._key_of(value) == self._keyring.current:
            return None
        stored, where = value.stored, encryption_context(value.of.collection, value.id, value.path)
        try:
            clear = (
                stored.encode() if isinstance(stored, str) else self._keyring.decrypt(stored, where)
            )
        except CannotDecrypt:
            return None
        fresh: bytes | str = self._keyring.encrypt(clear, where)
        if self._keyring.current is None and value.path in value.of.texts:
            fresh = clear.decode()
        return UpdateOne({"_id": value.id, value.path: stored}, {"$set": {value.path: fresh}})


@dataclass(frozen=True, slots=True)
class _Value:
    """One stored value; text or bytes."""

    of: EncryptedFields
    id: str
    path: str
    stored: Any = field(repr=False)
