"""Devices as API clients look at them: pages of the list, user channels, secrets. Reads `enrollments`.

A query costs its whole match set on the embedded store, so a page that goes on behind an id asks for
the ids nearest to it first: those that share its first 18 characters, then its first 17, and so on.
Each is a closed range of the index of `device` (that store looks through all for a range of `_id`).
The first page has nowhere to start from and reads all.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.ports.devices import DeviceFilter, DeviceSecrets
from shared.ports.seal import Seal
from shared.storage.enrollment_documents import (
    BOOTSTRAP_TOKEN,
    NAME,
    UNLOCK_TOKEN,
    from_document,
    users_of,
)
from shared.storage.mongo import Document, Mongo
from shared.storage.sealed_fields import place

LONGEST_PREFIX = 18
LAST_PLAIN = "\ud7fe"
"""Behind this character the next one may be half a surrogate pair, which no store takes."""
_THERE = {"$ne": EnrollmentStatus.REMOVED.value}


class MongoDevices:
    """Implements `shared.ports.devices.Devices`."""

    def __init__(self, mongo: Mongo, seal: Seal) -> None:
        self._documents = mongo.collection(NAME)
        self._seal = seal

    async def page(self, query: DeviceFilter) -> list[Enrollment]:
        condition = _condition(query)
        found: list[Document] = []
        for ids in _ranges(query):
            wanted = query.limit - len(found)
            found += await self._documents.find(
                {**condition, **ids}, None, sort=[("device", 1)], limit=wanted
            )
            if len(found) >= query.limit:
                break
        return [from_document(document, self._seal) for document in found]

    async def users(self, device: str) -> list[Enrollment]:
        found = await self._documents.find({"names": users_of(device), "status": _THERE})
        users = [from_document(document, self._seal) for document in found]
        return sorted(users, key=lambda user: user.id)

    async def secrets(self, enrollment: str) -> DeviceSecrets:
        fields = {UNLOCK_TOKEN: 1, BOOTSTRAP_TOKEN: 1}
        document = await self._documents.find_one({"_id": enrollment}, fields) or {}
        return DeviceSecrets(
            unlock_token=self._opened(document, UNLOCK_TOKEN),
            bootstrap_token=self._opened(document, BOOTSTRAP_TOKEN),
        )

    def _opened(self, document: Mapping[str, Any], name: str) -> bytes | None:
        sealed = document.get(name)
        if sealed is None:
            return None
        return self._seal.open(bytes(sealed), place(NAME, document["_id"], name)) or None


def _condition(query: DeviceFilter) -> Document:
    """Beside the ids; `user` is absent on device channels."""
    condition: Document = {"user": None, "status": _THERE}
    if query.status is not None:
        condition["status"] = query.status.value
    if query.serial_number is not None:  # the index of names finds it
        condition["names"] = query.serial_number
    told = {
        "inventory.serial_number": query.serial_number,
        "inventory.model": query.model,
        "inventory.os_version": query.os_version,
    }
    condition |= {name: value for name, value in told.items() if value is not None}
    if query.blocked is not None:
        condition["blocked"] = True if query.blocked else {"$ne": True}
    for name, wanted in (("quarantine", query.quarantined), ("migrating_until", query.migrating)):
        if wanted is not None:
            condition[name] = {"$ne": None} if wanted else None
    seen = {"$gte": query.seen_since, "$lt": query.seen_before}
    seen = {name: value for name, value in seen.items() if value is not None}
    return condition | ({"last_seen": seen} if seen else {})


def _ranges(query: DeviceFilter) -> Iterator[Document]:
    """Conditions on the id that together hold what is asked for, in order. A device channel's id is
    its device's."""
    if query.id is not None:
        if query.after is None or query.id > query.after:
            yield {"_id": query.id}
    elif query.after is None:
        yield {}
    elif query.serial_number is not None:  # few, and found by another index
        yield {"device": {"$gt": query.after}}
    else:
        yield from _behind(query.after)


def _behind(after: str) -> Iterator[Document]:
    start: Document = {"$gt": after}
    for length in range(min(len(after), LONGEST_PREFIX), 0, -1):
        last = after[length - 1]
        if last > LAST_PLAIN:
            continue
        end = after[: length - 1] + chr(ord(last) + 1)
        yield {"device": {**start, "$lt": end}}
        start = {"$gte": end}
    yield {"device": start}
