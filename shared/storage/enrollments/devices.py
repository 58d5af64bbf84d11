"""Reads of `enrollments` for API clients. A page is a range of `_id`, which every collection indexes."""

from collections import Counter

from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.ports.devices import DeviceFilter, DeviceSecrets
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document
from shared.storage.enrollments.documents import (
    BOOTSTRAP_TOKEN,
    GONE,
    NAME,
    UNLOCK_TOKEN,
    decode_enrollment,
    decrypted,
    ids_of_users,
)
from shared.storage.reads import pages_by_id
from shared.storage.records import given

_THERE = {"$ne": GONE}
TOGETHER = 1_000
"""Enrollments of which the topics are read at once."""


class MongoDevices:
    """Implements `shared.ports.devices.Devices`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._documents = database.collection(NAME)
        self._keyring = keyring

    async def page(self, query: DeviceFilter) -> list[Enrollment]:
        found = await self._documents.find(
            _condition(query), None, sort=[("_id", 1)], limit=query.limit
        )
        return [decode_enrollment(document, self._keyring) for document in found]

    async def users(self, device: str, limit: int, after: str | None = None) -> list[Enrollment]:
        query = {"_id": ids_of_users(device, after), "status": _THERE}
        found = await self._documents.find(query, None, sort=[("_id", 1)], limit=limit)
        return [decode_enrollment(document, self._keyring) for document in found]

    async def secrets(self, enrollment: str) -> DeviceSecrets:
        fields = {UNLOCK_TOKEN: 1, BOOTSTRAP_TOKEN: 1}
        document = await self._documents.find_one({"_id": enrollment}, fields) or {}
        return DeviceSecrets(
            unlock_token=decrypted(document, UNLOCK_TOKEN, self._keyring) or None,
            bootstrap_token=decrypted(document, BOOTSTRAP_TOKEN, self._keyring) or None,
        )


class MongoEnrolledTopics:
    """Implements `shared.ports.certificates.EnrolledTopics`. An index would cost more at every check-in
    than it is worth: the store looks through all enrollments, about 20 us for each."""

    def __init__(self, database: Database) -> None:
        self._enrollments = database.collection(NAME)

    async def count(self) -> dict[str, int]:
        topics: Counter[str] = Counter()
        fields = {"status": 1, "user": 1, "push.topic": 1}
        # Of all records, so that no page takes longer than a request may.
        async for found in pages_by_id(self._enrollments, {}, fields, TOGETHER):
            for each in found:
                topic = each.get("push", {}).get("topic")
                if topic and each["status"] == EnrollmentStatus.ENROLLED and not each.get("user"):
                    topics[topic] += 1
        return dict(topics)


def _condition(query: DeviceFilter) -> Document:
    """`user` is absent on device channels; `_id` is the device's there."""
    condition: Document = {
        "user": None,
        "status": _THERE if query.status is None else query.status.value,
        **given(
            {
                "names": query.serial_number,  # its index finds the serial number
                "inventory.serial_number": query.serial_number,
                "inventory.model": query.model,
                "inventory.os_version": query.os_version,
            }
        ),
    }
    if query.blocked is not None:
        condition["blocked"] = True if query.blocked else {"$ne": True}
    for name, wanted in (("quarantine", query.quarantined), ("migrating_until", query.migrating)):
        if wanted is not None:
            condition[name] = {"$ne": None} if wanted else None
    ranges = {
        "last_seen": given({"$gte": query.seen_since, "$lt": query.seen_before}),
        "_id": given({"$eq": query.id, "$gt": query.after}),
    }
    return condition | {name: wanted for name, wanted in ranges.items() if wanted}
