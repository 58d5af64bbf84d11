"""Changes of existing bindings; writes collection `enrollments`, and reserves in `certificates`.

Owner of both: checkin. Each change is one conditional update.
"""

from collections.abc import Collection as Some
from collections.abc import Sequence
from datetime import datetime

from shared.domain.enrollment import Enrollment
from shared.domain.identity import Quarantine, ReportedExpiry
from shared.domain.outbox import OutboxEvent
from shared.ports.identities import Attempt, Outgoing
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.enrollments.documents import (
    CERTIFICATES,
    LOOKED_AT_BY,
    NAME,
    OF_SUMMARY,
    decode_enrollment,
    outbox_fields,
    outbox_of,
)
from shared.storage.indexes import Index
from shared.storage.records import fields_of
from shared.times import EPOCH

INDEXES = (
    Index(NAME, [("renewal_in", 1), ("renewal_look", 1)]),
    Index(NAME, [("renewal_in", 1), ("_id", 1)], partial=True),
    Index(NAME, [("notices_in", 1)], sparse=True),
)
AT_ONCE = 20
"""Devices of one partition in one answer; more come with the next look."""

_REVIEWED = OF_SUMMARY | dict.fromkeys(
    (
        *("certificate", "identity", "last_seen", "blocked", "quarantine"),
        *("silent_since", "reported_expiry"),
    ),
    1,
)


class MongoIdentities:
    """Implements `shared.ports.identities.Identities`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._keyring = keyring
        self._documents = database.collection(NAME)
        self._certificates = database.collection(CERTIFICATES)

    async def reserve(self, certificate: str, device: str) -> None:
        await self._certificates.insert_one({"_id": certificate, "device": device})

    async def quarantine(
        self, device: str, bound: str | None, seen: Quarantine, outbox_event: OutboxEvent
    ) -> bool:
        found = {"_id": device, "certificate": bound}
        begins = await self._documents.update_one(
            {**found, "quarantine": None},
            {"$set": {"quarantine": fields_of(seen), **outbox_fields(device, outbox_event)}},
        )
        if not begins:
            await self._documents.update_one(
                {**found, "quarantine.since": {"$gte": EPOCH}},
                {
                    "$set": {
                        "quarantine.reason": seen.reason.value,
                        "quarantine.certificate": fields_of(seen.certificate),
                    },
                    "$max": {"quarantine.last_seen": seen.last_seen},
                },
            )
        return begins == 1

    async def release(self, device: str, bound: str) -> bool:
        return await self._change(device, bound, {"$unset": {"quarantine": ""}})

    async def reset(self, device: str, bound: str) -> bool:
        gone = ("certificate", "quarantine", "renewal", "expired_until", *LOOKED_AT_BY)
        update = {"$set": {"reset_from": bound}, "$unset": dict.fromkeys(gone, "")}
        return await self._change(device, bound, update)

    async def accept_expired(self, device: str, bound: str, until: datetime) -> bool:
        # EPOCH is before every time, so this device is the next to be checked.
        fields = {"expired_until": until, "renewal_look": EPOCH}
        update = {"$set": fields, "$unset": {"quarantine": "", "renewal": ""}}
        return await self._change(device, bound, update)

    async def _change(self, device: str, bound: str, update: Document) -> bool:
        found = {"_id": device, "certificate": bound}
        return 1 == await self._documents.update_one(found, update)

    async def to_renew(self, partitions: Some[int], at: datetime) -> list[Enrollment]:
        found: list[Document] = []
        for partition in sorted(partitions):
            due = {"renewal_in": partition, "renewal_look": {"$gte": EPOCH, "$lte": at}}
            order = [("renewal_in", 1), ("renewal_look", 1)]
            found += await self._documents.find(due, None, sort=order, limit=AT_ONCE)
        return [decode_enrollment(document, self._keyring) for document in found]

    async def attempt(self, attempts: Sequence[Attempt]) -> list[bool]:
        return [await self._attempt(each) for each in attempts]

    async def _attempt(self, attempt: Attempt) -> bool:
        condition: Document = {"_id": attempt.device, "certificate": attempt.certificate}
        if (seen := attempt.seen) is None:
            condition["renewal"] = None
        else:
            condition["renewal.command_uuid"] = seen.command_uuid
            condition["renewal.failed"] = None if seen.failed is None else seen.failed.value
        fields: Document = outbox_fields(attempt.device, attempt.outbox_event)
        if attempt.renewal is not None:
            fields["renewal"] = fields_of(attempt.renewal)
        update: Document = {}
        if attempt.look_at is None:
            update["$unset"] = {"renewal_look": ""}
        else:
            fields["renewal_look"] = attempt.look_at
        if fields:
            update["$set"] = fields
        return 1 == await self._documents.update_one(condition, update)

    async def bound(self, partition: int, after: str, limit: int) -> list[Enrollment]:
        query: Document = {"renewal_in": partition, "_id": {"$gt": after}}
        order = [("renewal_in", 1), ("_id", 1)]
        found = await self._documents.find(query, _REVIEWED, sort=order, limit=limit)
        return [decode_enrollment(document, None) for document in found]

    async def report_silence(
        self, device: str, last_seen: datetime, outbox_event: OutboxEvent
    ) -> bool:
        found = {"_id": device, "last_seen": last_seen, "silent_since": {"$ne": last_seen}}
        fields = {"silent_since": last_seen, **outbox_fields(device, outbox_event)}
        return 1 == await self._documents.update_one(found, {"$set": fields})

    async def report_expiry(
        self,
        device: str,
        expiry: ReportedExpiry,
        seen: ReportedExpiry | None,
        outbox_event: OutboxEvent,
    ) -> bool:
        found: Document = {"_id": device, "certificate": expiry.certificate}
        if seen is None:
            found["reported_expiry"] = None
        else:
            found |= {f"reported_expiry.{name}": value for name, value in fields_of(seen).items()}
        fields = {"reported_expiry": fields_of(expiry), **outbox_fields(device, outbox_event)}
        return 1 == await self._documents.update_one(found, {"$set": fields})

    async def outbox(self, partitions: Some[int]) -> list[Outgoing]:
        found = await self._documents.find({"notices_in": {"$in": list(partitions)}})
        return [
            Outgoing(decode_enrollment(document, self._keyring), outbox_event)
            for document in found
            for outbox_event in outbox_of(document)
        ]

    async def published(self, outgoing: Sequence[Outgoing]) -> None:
        await self._documents.bulk_write(
            [
                UpdateOne({"_id": e.device.id}, {"$unset": {f"notices.{e.outbox_event.id}": ""}})
                for e in outgoing
            ]
        )
        await self._documents.bulk_write(
            [
                UpdateOne(
                    {"_id": id_, "notices": {}}, {"$unset": {"notices_in": "", "notices": ""}}
                )
                for id_ in {e.device.id for e in outgoing}
            ]
        )
