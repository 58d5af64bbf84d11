"""Reads of `enrollments` for API clients: pages of the list, user channels, secrets, push topics.

A page is a range of `_id`, the index that every collection has.
"""

from collections.abc import Mapping
from typing import Any

from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.ports.devices import DeviceFilter, DeviceSecrets
from shared.ports.keyring import Keyring
from shared.storage.database import Database, Document, given
from shared.storage.encrypted_fields import encryption_context
from shared.storage.enrollments.documents import (
    BOOTSTRAP_TOKEN,
    NAME,
    UNLOCK_TOKEN,
    decode_enrollment,
    ids_of_users,
)

_THERE = {"$ne": EnrollmentStatus.REMOVED.value}


class MongoDevices:
    """Implements `shared.ports.devices.Devices`."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._documents = database.collection(NAME)
        self._keyring = keyring

    async def page(self, query: DeviceFilter) -> list[Enrollment]:
        found = await self._documents.find(
            {**_condition(query), **_ids(query)}, None, sort=[("_id", 1)], limit=query.limit
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
            unlock_token=self._decrypted(document, UNLOCK_TOKEN),
            bootstrap_token=self._decrypted(document, BOOTSTRAP_TOKEN),
        )

    def _decrypted(self, document: Mapping[str, Any], name: str) -> bytes | None:
        encrypted = document.get(name)
        if encrypted is None:
            return None
        context = encryption_context(NAME, document["_id"], name)
        return self._keyring.decrypt(bytes(encrypted), context) or None


class MongoEnrolledTopics:
    """Implements `shared.ports.certificates.EnrolledTopics`.

    No index serves the count, nor is one worth its price at every check-in: the store looks through all
    enrollments, about 20 us for each.
    """

    def __init__(self, database: Database) -> None:
        self._enrollments = database.collection(NAME)

    async def count(self) -> dict[str, int]:
        found = await self._enrollments.aggregate(
            [
                {"$match": {"status": EnrollmentStatus.ENROLLED.value, "user": None}},
                {"$group": {"_id": "$push.topic", "devices": {"$sum": 1}}},
            ]
        )
        return {each["_id"]: each["devices"] for each in found if each["_id"]}


def _condition(query: DeviceFilter) -> Document:
    """The condition beside the ids; `user` is absent on device channels."""
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
    seen = given({"$gte": query.seen_since, "$lt": query.seen_before})
    return condition | ({"last_seen": seen} if seen else {})


def _ids(query: DeviceFilter) -> Document:
    """The condition on the id, which on a device channel is its device's."""
    ids = given({"$eq": query.id, "$gt": query.after})
    return {"_id": ids} if ids else {}
