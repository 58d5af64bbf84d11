"""Collection `events` (owner: checkin): the journal. An event is inserted once and never changed; it leaves
by TTL. Bodies that bring secrets (`Topic.carries_secrets`) are encrypted."""

from collections.abc import Collection as Names
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.domain.command import QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import OfNewerVersion, StoreUnavailable
from shared.domain.event import Event, Topic
from shared.domain.versions import is_known, known
from shared.ports.enrollments import Mark
from shared.ports.events import Appended, Journaled
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document
from shared.storage.enrollments.documents import identity_fields
from shared.storage.indexes import Index
from shared.storage.reads import find_by_id
from shared.storage.records import EncryptedFields, encryption_context, given, record
from shared.times import to_milliseconds

NAME = "events"
BODY = "raw_payload"
ENCRYPTED = EncryptedFields(
    NAME,
    (BODY,),
    where={"topic": {"$in": sorted(topic.value for topic in Topic if topic.carries_secrets)}},
)


def indexes(retention: timedelta) -> tuple[Index, ...]:
    return (
        Index(NAME, [("writer", 1), ("number", 1)]),
        Index(NAME, [("device", 1), ("created_at", 1)]),
        Index(NAME, [("at", 1)], expire_after=retention),
    )


class MongoJournal:
    """Implements `shared.ports.events.Journal`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._documents = database.collection(NAME)
        self._keyring = keyring

    @property
    def term(self) -> object:
        return self._database.term

    async def append(self, events: Sequence[Event]) -> list[Appended]:
        try:
            there = await self._documents.insert_many(
                [encode_event(event, self._keyring) for event in events]
            )
        except StoreUnavailable:
            return [Appended.UNKNOWN] * len(events)
        return [
            Appended.THERE if index in there else Appended.STORED for index in range(len(events))
        ]

    async def read(self, ids: Names[str]) -> dict[str, Event]:
        found = await find_by_id(self._documents, ids)
        return {id_: decode_event(document, self._keyring) for id_, document in found.items()}

    async def stored(self, ids: Names[str]) -> dict[str, int]:
        found = await find_by_id(self._documents, ids, {"created_at": 1})
        return {id_: document["created_at"] for id_, document in found.items()}

    async def of_device(self, device: str, since: int, upto: int, limit: int) -> list[Journaled]:
        found = await self._documents.find(
            {"device": device, "created_at": {"$gte": since, "$lte": upto}},
            {"created_at": 1, "size": 1},
            sort=[("created_at", 1)],
            limit=limit,
        )
        return [record(Journaled, each) for each in found]

    async def between(
        self, since: datetime, before: datetime, limit: int
    ) -> tuple[list[Journaled], datetime]:
        found = await self._in_time(to_milliseconds(since), to_milliseconds(before), limit)
        if not found:
            return [], since
        last = to_milliseconds(found[-1]["at"])
        end = last + timedelta(milliseconds=1)
        if len(found) == limit:
            whole = await self._in_time(last, end)
            found = [each for each in found if each["at"] < last] + whole
        return [record(Journaled, each) for each in found], end

    async def _in_time(self, since: datetime, before: datetime, limit: int = 0) -> list[Document]:
        return await self._documents.find(
            {"at": {"$gte": since, "$lt": before}},
            {"at": 1, "created_at": 1, "size": 1, "topic": 1, "device": 1},
            sort=[("at", 1)],
            limit=limit,
        )

    async def answers(self, entry: QueueEntry, since: int, upto: int) -> list[Event]:
        found = await self._documents.find(
            {
                "device": entry.device,
                "created_at": {"$gte": since, "$lte": upto},
                "topic": Topic.CONNECT.value,
                "enrollment": entry.enrollment,
                "command_uuid": entry.command_uuid,
            },
            sort=[("created_at", 1)],
        )
        return [decode_event(document, self._keyring) for document in found]

    async def of_writer(self, writer: str, above: int, limit: int) -> list[tuple[int, Mark]]:
        found = await self._documents.find(
            {"writer": writer, "number": {"$gt": above}},
            {"number": 1, "device": 1, "created_at": 1},
            sort=[("number", 1)],
            limit=limit,
        )
        return [(each["number"], Mark(each["device"], each["created_at"])) for each in found]


def encode_event(event: Event, keyring: Keyring) -> Document:
    body = event.raw_payload
    if event.topic.carries_secrets:
        body = keyring.encrypt(body, encryption_context(NAME, event.id, BODY))
    url_params = event.url_params
    return {
        **identity_fields(event.key),
        "_id": event.id,
        "topic": event.topic.value,
        "enrollment": event.key.id,
        "created_at": event.created_at,
        "at": datetime.fromtimestamp(event.created_at / 1e9, UTC),
        BODY: body,
        "size": len(event.raw_payload),
        "writer": event.writer,
        "number": event.number,
        # pairs, because a parameter's name may hold characters that a field name may not
        **({} if url_params is None else {"url_params": [[n, v] for n, v in url_params.items()]}),
        **given({"status": event.status, "command_uuid": event.command_uuid}),
    }


def decode_event(document: dict[str, Any], keyring: Keyring) -> Event:
    """Raises OfNewerVersion for a topic that only a newer version knows, whose replicas read it, and
    CannotDecrypt for a body whose key is missing."""
    topic = known(Topic, document["topic"])
    if not is_known(topic):
        raise OfNewerVersion(f"the event {document['_id']} is of a newer version")
    body = bytes(document[BODY])
    if topic.carries_secrets:  # another body may look like anything
        body = keyring.decrypt(body, encryption_context(NAME, document["_id"], BODY))
    key = record(EnrollmentKey, document, id=document["enrollment"])
    return record(Event, document, key=key, raw_payload=body)
