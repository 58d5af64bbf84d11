"""Collections `push_certificates`, push certificates installed by API, and `push_expiries`, the latest event
about the end of each one in use; one document per topic (owner: push).

Promise: a topic changes as a whole, by one conditional write; no private key is in the store in clear."""

from shared.domain.event import Topic
from shared.domain.identity import ReportedExpiry
from shared.domain.outbox import OutboxEvent
from shared.ports.certificates import InstalledPair, InstalledTopic, PushExpiry, TopicVersion
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document
from shared.storage.records import EncryptedFields, encryption_context, fields_of, record

COLLECTION = "push_certificates"
EXPIRIES = "push_expiries"
NEWEST, BEFORE = "newest", "before"
ENCRYPTED = EncryptedFields(COLLECTION, (f"{NEWEST}.key", f"{BEFORE}.key"))


class MongoPushCertificates:
    """Implements `shared.ports.certificates.PushCertificates`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._documents = database.collection(COLLECTION)
        self._keyring = keyring

    async def versions(self) -> list[TopicVersion]:
        fields = {"revision": 1, "chosen": 1}
        found = await self._documents.find({}, fields, sort=[("_id", 1)])
        return [record(TopicVersion, document) for document in found]

    async def load(self, topic: str) -> InstalledTopic | None:
        document = await self._documents.find_one({"_id": topic})
        if document is None:
            return None
        before = self._pair(document, BEFORE) if BEFORE in document else None
        return InstalledTopic(record(TopicVersion, document), self._pair(document, NEWEST), before)

    async def put(self, wanted: InstalledTopic, replaces: str | None) -> bool:
        values: Document = {"revision": wanted.version.revision}
        values[NEWEST] = self._fields(wanted.topic, NEWEST, wanted.newest)
        if wanted.version.chosen is not None:
            values["chosen"] = wanted.version.chosen
        if wanted.before is not None:
            values[BEFORE] = self._fields(wanted.topic, BEFORE, wanted.before)
        if replaces is None:
            return await self._documents.insert_one({"_id": wanted.topic, **values})
        gone = {name: "" for name in ("chosen", BEFORE) if name not in values}
        update: Document = {"$set": values} | ({"$unset": gone} if gone else {})
        query = {"_id": wanted.topic, "revision": replaces}
        return 1 == await self._documents.update_one(query, update)

    async def retire(self, topic: str, revision: str, as_revision: str) -> bool:
        return 1 == await self._documents.update_one(
            {"_id": topic, "revision": revision},
            {"$set": {"revision": as_revision}, "$unset": {BEFORE: ""}},
        )

    async def remove(self, topic: str, revision: str) -> bool:
        return 1 == await self._documents.delete_one({"_id": topic, "revision": revision})

    def _fields(self, topic: str, name: str, pair: InstalledPair) -> Document:
        where = encryption_context(COLLECTION, topic, f"{name}.key")
        return fields_of(pair) | {"key": self._keyring.encrypt(pair.key_pem, where)}

    def _pair(self, document: Document, name: str) -> InstalledPair:
        stored = document[name]
        where = encryption_context(COLLECTION, document["_id"], f"{name}.key")
        key_pem = self._keyring.decrypt(bytes(stored["key"]), where)
        return record(InstalledPair, stored, key_pem=key_pem)


class MongoPushExpiries:
    """Implements `shared.ports.certificates.PushExpiries`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(EXPIRIES)

    async def all(self) -> list[PushExpiry]:
        return [_expiry(document) for document in await self._documents.find({})]

    async def report(self, expiry: PushExpiry, seen: PushExpiry | None) -> bool:
        assert expiry.event is not None
        kept = expiry.event
        event = {"id": kept.id, "at": kept.created_at, "facts": dict(kept.facts)}
        fields = {**fields_of(expiry.reported), "event": event}
        if seen is None:
            return await self._documents.insert_one({"_id": expiry.topic, **fields})
        found = {"_id": seen.topic, **fields_of(seen.reported), "event": None}
        return 1 == await self._documents.update_one(found, {"$set": fields})

    async def published(self, expiry: PushExpiry) -> None:
        assert expiry.event is not None
        found = {"_id": expiry.topic, "event.id": expiry.event.id}
        await self._documents.update_one(found, {"$unset": {"event": ""}})


def _expiry(document: Document) -> PushExpiry:
    event = document.get("event")
    kept = event and OutboxEvent(
        event["id"], Topic.PUSH_CERTIFICATE_EXPIRING, event["at"], event["facts"]
    )
    return PushExpiry(document["_id"], record(ReportedExpiry, document), kept)
