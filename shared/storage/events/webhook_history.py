"""Collections `replays` and `activities`, and deliveries by subscription (owner: webhook).

Documents of a subscription have ids that begin with its own and a colon, so one range of `_id` has them all.
The failures of an activity are encrypted: answers of receivers may hold anything."""

from collections.abc import Collection as Names
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import orjson

from shared.domain.errors import CannotDecrypt
from shared.domain.subscription import Activity, AttemptRecord, Delivery, Replay, ReplayState
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.events.deliveries import NAME as DELIVERIES
from shared.storage.events.deliveries import decode_delivery
from shared.storage.indexes import Index
from shared.storage.records import EncryptedFields, encryption_context, fields_of, record
from shared.times import parse_rfc3339, rfc3339

REPLAYS, ACTIVITIES = "replays", "activities"
FAILURES = "failures"
ENCRYPTED = EncryptedFields(ACTIVITIES, (FAILURES,))


def indexes(retention: timedelta) -> tuple[Index, ...]:
    """`retention`: how long they stay after their end."""
    return (
        Index(REPLAYS, [("running", 1)], sparse=True),
        Index(REPLAYS, [("finished_at", 1)], sparse=True, expire_after=retention),
        Index(ACTIVITIES, [("at", 1)], expire_after=retention),
    )


class MongoDeliveryRecords:
    """Implements `shared.ports.deliveries.DeliveryRecords`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(DELIVERIES)

    async def page(
        self, subscription: str, after: str, limit: int, before: str | None = None
    ) -> list[Delivery]:
        bounds = _of(subscription) | {"$gt": f"{subscription}:{after}"}
        if before is not None:
            bounds["$lt"] = f"{subscription}:{before}"
        found = await self._documents.find(
            {"_id": bounds}, {"body": 0}, sort=[("_id", 1)], limit=limit
        )
        return [decode_delivery(document) for document in found]

    async def forget(self, ids: Names[str], *, pending: bool = False) -> int:
        query: Document = {"_id": {"$in": list(ids)}}
        if pending:
            query |= {"given_up": None, "body": None}
        return await self._documents.delete_many(query)


class MongoReplays:
    """Implements `shared.ports.deliveries.Replays`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(REPLAYS)

    async def add(self, replay: Replay) -> None:
        await self._documents.insert_one({"_id": replay.key, **_fields(replay)})

    async def get(self, subscription: str, id: str) -> Replay | None:
        found = await self._documents.find_one({"_id": f"{subscription}:{id}"})
        return record(Replay, found) if found else None

    async def of(self, subscription: str) -> list[Replay]:
        found = await self._documents.find({"_id": _of(subscription)}, sort=[("_id", 1)])
        return [record(Replay, each) for each in found]

    async def running(self) -> list[Replay]:
        found = [record(Replay, each) for each in await self._documents.find({"running": True})]
        # One in a state of a newer version is left to that version.
        running = [each for each in found if each.state is ReplayState.RUNNING]
        return sorted(running, key=lambda replay: replay.key)

    async def advance(self, wanted: Replay, former: Replay) -> bool:
        query = {"_id": former.key, "owner": former.owner, "heartbeats": former.heartbeats}
        update: Document = {"$set": _fields(wanted)}
        if wanted.state is not ReplayState.RUNNING:
            update["$unset"] = {"running": ""}
        return 1 == await self._documents.update_one(query, update)

    async def remove(self, keys: Names[str]) -> None:
        await self._documents.delete_many({"_id": {"$in": list(keys)}})


class MongoActivities:
    """Implements `shared.ports.deliveries.Activities`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._documents = database.collection(ACTIVITIES)
        self._keyring = keyring

    async def note(self, activities: Sequence[Activity]) -> None:
        writes = []
        for activity in activities:
            key = f"{activity.subscription}:{activity.process}"
            private = [_attempt_fields(each) for each in activity.failures]
            encrypted = self._keyring.encrypt(orjson.dumps(private), _context(key))
            fields = fields_of(activity) | {FAILURES: encrypted}
            writes.append(UpdateOne({"_id": key}, {"$set": fields}, upsert=True))
        await self._documents.bulk_write(writes)

    async def of(self, subscription: str) -> list[Activity]:
        found = await self._documents.find({"_id": _of(subscription)}, sort=[("_id", 1)])
        return [self._decode(each) for each in found]

    async def remove(self, subscription: str) -> None:
        await self._documents.delete_many({"_id": _of(subscription)})

    def _decode(self, document: Document) -> Activity:
        """Without failures where their key is missing: they are the least of it."""
        failures: tuple[AttemptRecord, ...] = ()
        with suppress(CannotDecrypt):
            private = self._keyring.decrypt(bytes(document[FAILURES]), _context(document["_id"]))
            failures = tuple(_attempt(each) for each in orjson.loads(private))
        return record(Activity, document, failures=failures)


def _of(subscription: str) -> dict[str, Any]:
    """The range of ids; a semicolon follows the colon."""
    return {"$gt": f"{subscription}:", "$lt": f"{subscription};"}


def _fields(replay: Replay) -> Document:
    fields = fields_of(replay)
    if replay.state is ReplayState.RUNNING:
        del fields["finished_at"]
        fields["running"] = True
    return fields


def _attempt_fields(attempt: AttemptRecord) -> Document:
    return fields_of(attempt) | {"at": rfc3339(attempt.at)}


def _attempt(fields: Document) -> AttemptRecord:
    return record(AttemptRecord, fields | {"at": parse_rfc3339(fields["at"])})


def _context(key: str) -> str:
    return encryption_context(ACTIVITIES, key, FAILURES)
