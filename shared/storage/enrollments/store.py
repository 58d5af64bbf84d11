"""Collections `enrollments` and `certificates`: the enrollments, and the device of each certificate.

Owner: checkin. One document per enrollment; a removed enrollment stays as a stub, because the certificate
binding and `waiting` must outlive it. Every condition is part of the write itself.
"""

from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from shared.domain.binding import Binding
from shared.domain.enrollment import (
    Enrollment,
    EnrollmentStatus,
    EnrollmentSummary,
    Waiting,
    partition_of,
)
from shared.domain.event import Topic
from shared.domain.names import fitting_names, is_settled, is_there
from shared.domain.outbox import OutboxEvent
from shared.ports.enrollments import Change, DeviceQuery, Mark
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document, UpdateOne
from shared.storage.enrollments.changes import new_record_of, rebinding_of, update_of
from shared.storage.enrollments.documents import (
    CERTIFICATES,
    GONE,
    NAME,
    OF_SUMMARY,
    decode_enrollment,
    decode_summary,
    ids_of_users,
    outbox_fields,
    users_of,
)
from shared.storage.indexes import Index
from shared.storage.reads import find_by_id, pages
from shared.storage.records import record

INDEXES = (
    Index(NAME, [("names", 1)], of_array=True),
    Index(NAME, [("waiting_in", 1), ("_id", 1)], sparse=True, replaces="waiting_in_1"),
)
_THERE = {"$ne": GONE}
_WAITING = ("waiting.since", "waiting.upto", "waiting_in")
_NOT_OF_STUBS = (
    *("unlock_token", "bootstrap_token", "inventory", "last_seen"),
    *("imported", "migrating_until", "refusals", "silent_since"),
)


class MongoEnrollments:
    """Implements `shared.ports.enrollments.Enrollments`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._keyring = keyring
        self._documents = database.collection(NAME)
        self._certificates = database.collection(CERTIFICATES)

    async def load(self, ids: Names[str], *, secrets: bool = True) -> dict[str, Enrollment]:
        found, keyring = await find_by_id(self._documents, ids), self._keyring if secrets else None
        return {id_: decode_enrollment(each, keyring) for id_, each in found.items()}

    async def summaries(self, ids: Names[str]) -> dict[str, EnrollmentSummary]:
        found = await find_by_id(self._documents, ids, OF_SUMMARY)
        return {id_: decode_summary(each) for id_, each in found.items()}

    async def find(self, names: Names[str]) -> dict[str, list[EnrollmentSummary]]:
        if not names:
            return {}
        exact = await self.summaries(names)
        unsettled = {name for name in names if not is_settled(name, exact.get(name))}
        result = {n: [each] for n, each in exact.items() if n not in unsettled and is_there(each)}
        if not unsettled:
            return result
        # The index also holds former names and other values: records of earlier versions collected all that
        # their devices ever sent. The record as it is now decides.
        found = await self._documents.find({"names": {"$in": list(unsettled)}}, OF_SUMMARY)
        for document in found:
            if document["status"] == GONE:
                continue
            enrollment = decode_summary(document)
            for name in unsettled & fitting_names(enrollment):
                result.setdefault(name, []).append(enrollment)
        return result

    async def holders(self, certificates: Names[str]) -> dict[str, str]:
        found = await find_by_id(self._certificates, certificates)
        return {certificate: document["device"] for certificate, document in found.items()}

    async def long_retired(self, certificates: Names[str]) -> set[str]:
        found = await find_by_id(self._certificates, certificates, {"long_retired": 1})
        return {certificate for certificate, each in found.items() if each.get("long_retired")}

    async def bind(self, bindings: Sequence[Binding]) -> list[bool]:
        """A certificate is reserved for its device first, by its unique `_id`: that decides races."""
        good = await self._reserve(bindings)
        known = [binding for binding in good if not binding.is_new]
        # First: a crash in between leaves one both listed and noted, never neither.
        notes = [
            UpdateOne(
                {"_id": certificate, "device": binding.key.device},
                {"$set": {"long_retired": True}},
                upsert=True,
            )
            for binding in known
            for certificate in binding.dropped  # retired even if the binding fails
        ]
        await self._certificates.bulk_write(notes)
        matched, _ = await self._documents.bulk_write([rebinding_of(each) for each in known])
        bound = good if matched == len(known) else await self._bound(good)
        return [binding in bound for binding in bindings]

    async def _reserve(self, bindings: Sequence[Binding]) -> list[Binding]:
        """The bindings whose certificate no other device has."""
        taken = await self._certificates.insert_many(
            [{"_id": b.certificate, "device": b.key.device} for b in bindings]
        )
        if not taken:
            return list(bindings)
        holders = await self.holders({binding.certificate for binding in bindings})
        return [b for b in bindings if holders.get(b.certificate) == b.key.device]

    async def _bound(self, bindings: Sequence[Binding]) -> list[Binding]:
        """The bindings that took effect: a bulk returns one sum (rule 3), so the records are read again."""
        fields = {"certificate": 1, "generation": 1}
        found = await find_by_id(self._documents, [each.key.id for each in bindings], fields)
        present = {
            (id_, each.get("certificate"), each.get("generation")) for id_, each in found.items()
        }
        return [
            binding
            for binding in bindings
            if binding.is_new
            or (binding.key.id, binding.certificate, binding.generation) in present
        ]

    async def apply(self, changes: Sequence[Change]) -> list[bool]:
        if not changes:
            return []
        new = [change for change in changes if change.makes_record]
        known = [change for change in changes if not change.makes_record]
        taken = await self._documents.insert_many([new_record_of(change) for change in new])
        updates = [update_of(change, self._keyring) for change in known]
        matched, clashes = await self._documents.bulk_write(updates)
        if not taken and not clashes and matched == len(known):
            applied = [True] * len(changes)
        else:
            ids = [change.key.id for change in changes]
            found = await find_by_id(self._documents, ids, {"changed_by": 1})
            applied = [found.get(c.key.id, {}).get("changed_by") == c.by for c in changes]
        for change, is_applied in zip(changes, applied, strict=True):
            if is_applied and change.ends_user_channels:
                await self._end_user_channels(change)
        return applied

    async def _end_user_channels(self, change: Change) -> None:
        """End the user channels of a device that enrolls again or checks out: those of the generation that
        was read, so that a request which its device gave up does not end the channels of its repetition.
        They get the new generation, and this change, so that no late message brings them back."""
        ended: Document = {"status": EnrollmentStatus.CHECKED_OUT.value, "changed_by": change.by}
        if change.topic is Topic.AUTHENTICATE:
            ended["generation"] = change.by
        await self._documents.update_many(
            {
                "names": users_of(change.key.device),
                "device": change.key.device,  # a stranger's UserID may look like that name
                "generation": {"$in": [None, change.expected_generation]},
                "status": _THERE,
            },
            {"$set": ended, "$unset": {"push": ""}},
        )

    async def revive(self, enrollments: Names[str]) -> None:
        removed: Document = {"_id": {"$in": list(enrollments)}, "status": GONE}
        for condition, status in (
            ({"user": None, "push": None}, EnrollmentStatus.AUTHENTICATED),
            ({}, EnrollmentStatus.ENROLLED),
        ):
            await self._documents.update_many(
                {**removed, **condition}, {"$set": {"status": status.value}}
            )

    async def count_users(self, device: str, most: int) -> int:
        query = {"_id": ids_of_users(device), "status": _THERE}
        found = await self._documents.find(query, {"_id": 1}, sort=[("_id", 1)], limit=most)
        return len(found)

    async def mark_waiting(self, marks: Sequence[Mark]) -> list[bool]:
        if not marks:
            return []
        updates = [
            UpdateOne(
                {"_id": mark.device},
                {
                    "$min": {"waiting.since": mark.created_at},
                    "$max": {"waiting.upto": max(mark.created_at, mark.upto)},
                    "$inc": {"waiting.count": 1},
                    "$set": {"waiting_in": partition_of(mark.device)},
                },
            )
            for mark in marks
        ]
        matched, _ = await self._documents.bulk_write(updates)
        if matched == len(marks):
            return [True] * len(marks)
        found = await find_by_id(self._documents, [mark.device for mark in marks], {"_id": 1})
        return [mark.device in found for mark in marks]  # records never go, they become stubs

    async def waiting(self, partitions: Names[int]) -> dict[str, Waiting]:
        def above(partition: int) -> object:
            left = [each for each in partitions if each > partition]
            return {"$in": left} if left else None

        query, fields = {"waiting_in": {"$in": list(partitions)}}, {"waiting": 1, "waiting_in": 1}
        waiting: dict[str, Waiting] = {}
        async for page in pages(self._documents, query, above, fields):
            waiting |= {each["_id"]: record(Waiting, each.get("waiting", {})) for each in page}
        return waiting

    async def read_waiting(self, device: str) -> Waiting | None:
        document = await self._documents.find_one({"_id": device}, {"waiting": 1})
        return None if document is None else record(Waiting, document.get("waiting", {}))

    async def clear_waiting(self, device: str, count: int, upto: int | None = None) -> bool:
        as_read: Document = {"_id": device, "waiting.count": count}
        update: Document = {"$unset": dict.fromkeys(_WAITING, "")}
        if upto is not None:
            as_read["waiting.upto"] = {"$gte": upto}
            update = {"$max": {"waiting.since": upto}}
        return 1 == await self._documents.update_one(as_read, update)

    async def seen(self, times: Mapping[str, datetime]) -> None:
        await self._documents.bulk_write(
            [UpdateOne({"_id": id_}, {"$max": {"last_seen": at}}) for id_, at in times.items()]
        )

    async def block(self, device: str, blocked: bool) -> bool:
        return 1 == await self._documents.update_one(
            {"_id": device, "status": _THERE}, {"$set": {"blocked": blocked}}
        )

    async def remove(
        self, devices: Names[str], by: str, events: Mapping[str, OutboxEvent] | None = None
    ) -> list[str]:
        those, names = {"$in": list(devices)}, {"$in": [users_of(device) for device in devices]}
        ids = [
            document["_id"]
            for query in ({"_id": those}, {"names": names, "device": those})
            for document in await self._documents.find({**query, "status": _THERE}, {"_id": 1})
        ]
        kept, gone = events or {}, {"status": GONE, "changed_by": by}
        removals = [
            UpdateOne(
                {"_id": id_, "status": _THERE},
                {
                    "$set": gone | outbox_fields(id_, kept.get(id_)),
                    "$unset": dict.fromkeys(_NOT_OF_STUBS, ""),
                },
            )
            for id_ in ids
        ]
        await self._documents.bulk_write(removals)
        return ids

    async def devices(self, query: DeviceQuery) -> list[Enrollment]:
        """Without paging this reads the whole fleet; pages are cut by the store, in order of `_id`."""
        condition: dict[str, Any] = {"user": None, "status": _THERE}
        if query.udids is not None:
            condition["_id"] = {"$in": list(query.udids)}
        if query.serial_numbers is not None:
            condition["names"] = {"$in": list(query.serial_numbers)}
            condition["inventory.serial_number"] = {"$in": list(query.serial_numbers)}
        found = await self._documents.find(
            condition,
            sort=[("_id", 1)],
            limit=query.per_page,
            skip=query.page * query.per_page,
        )
        return [decode_enrollment(document, self._keyring) for document in found]

    async def mark_token(
        self, enrollment: str, token: bytes, *, dead: bool, event: OutboxEvent | None = None
    ) -> bool:
        if event is not None:
            # A user channel's id is `DEVICE:USER`.
            kept = outbox_fields(enrollment.partition(":")[0], event)
            is_news = await self._documents.update_one(
                {"_id": enrollment, "push.token": token, "push.dead": {"$ne": dead}},
                {"$set": {"push.dead": dead, **kept}},
            )
            if is_news:
                return True
        return 1 == await self._documents.update_one(
            {"_id": enrollment, "push.token": token}, {"$set": {"push.dead": dead}}
        )
