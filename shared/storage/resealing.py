"""Every sealed value of every collection, read and written anew for the rotation of keys.

Promise: a value is replaced only on condition that it is still the one that was read, so that this may
run beside any number of servers, and again after it was cut short.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.domain.errors import CannotOpen
from shared.ports.seal import Seal
from shared.ports.sealed_values import KeyCount
from shared.storage import (
    authority,
    deliveries,
    enrollment_documents,
    journal,
    push_certificates,
    stored_commands,
)
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.sealed_fields import SealedFields, place

ALL: tuple[SealedFields, ...] = (
    authority.SEALED,
    enrollment_documents.SEALED,
    deliveries.SEALED,
    journal.SEALED,
    push_certificates.SEALED,
    stored_commands.SEALED,
)

BATCH = 100
"""Documents at a time; the largest body of a device is 15 MiB."""
ROUNDS = 5
"""How often documents that change under our hands are looked at again."""


class MongoSealedValues:
    """Implements `shared.ports.sealed_values.SealedValues`."""

    def __init__(
        self, database: Database, seal: Seal, places: Sequence[SealedFields] = ALL
    ) -> None:
        self._database = database
        self._seal = seal
        self._places = {each.collection: each for each in places}

    @property
    def current(self) -> str | None:
        return self._seal.current

    @property
    def collections(self) -> Sequence[str]:
        return tuple(self._places)

    async def batches(self, collection: str) -> AsyncIterator[list[str]]:
        documents = self._database.collection(collection)
        where = self._places[collection].where
        async for found in documents.scan(where, {"_id": 1}, batch=BATCH):
            yield [document["_id"] for document in found]

    async def reseal(self, collection: str, ids: Sequence[str]) -> int:
        documents, sealed = self._database.collection(collection), 0
        for _ in range(ROUNDS):
            values = await self._read(collection, ids)
            writes = [write for value in values if (write := self._anew(value)) is not None]
            matched, _ = await documents.bulk_write(writes)
            sealed += matched
            if matched == len(writes):
                break
        return sealed

    async def count(self, collection: str, ids: Sequence[str]) -> KeyCount:
        return Counter(self._key_of(value) for value in await self._read(collection, ids))

    async def _read(self, collection: str, ids: Sequence[str]) -> list["_Value"]:
        fields = self._places[collection].fields
        found = await self._database.collection(collection).find(
            {"_id": {"$in": list(ids)}}, dict.fromkeys(fields, 1)
        )
        values = (
            _Value(self._places[collection], document["_id"], path, _at(document, path))
            for document in found
            for path in fields
        )
        return [value for value in values if value.stored is not None]

    def _key_of(self, value: "_Value") -> str | None:
        return None if isinstance(value.stored, str) else self._seal.key_of(bytes(value.stored))

    def _anew(self, value: "_Value") -> UpdateOne | None:
        """The write that seals it with the current key; None: it is, or nobody here can open it."""
        if self._key_of(value) == self._seal.current:
            return None
        stored, where = value.stored, place(value.of.collection, value.id, value.path)
        try:
            clear = stored.encode() if isinstance(stored, str) else self._seal.open(stored, where)
        except CannotOpen:
            return None
        fresh: bytes | str = self._seal.seal(clear, where)
        if self._seal.current is None and value.path in value.of.texts:
            fresh = clear.decode()
        return UpdateOne({"_id": value.id, value.path: stored}, {"$set": {value.path: fresh}})


@dataclass(frozen=True, slots=True)
class _Value:
    """One value as it stands in its document; text or bytes."""

    of: SealedFields
    id: str
    path: str
    stored: Any = field(repr=False)


def _at(document: Document, path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
