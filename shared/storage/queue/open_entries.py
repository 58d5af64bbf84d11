"""Reads of open entries in collection `queue`, at a cost independent of the length of any queue.

A read looks at a few entries of each device, and names a device that has more; an entry of its queue is
then found along an index whose fields exclude entries that rest, begin later, or are of another generation.
Only entries that have expired, or that the device cannot have, are passed over one by one."""

import asyncio
from collections.abc import Collection as Names
from collections.abc import Sequence
from datetime import datetime

from shared.domain.command import OPEN_STATES, EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.ports.queue import Wanted
from shared.storage.database import Collection, Document, Fields, Query
from shared.storage.queue.documents import OPEN, QUEUE_ORDER, EntriesOnDemand, entries_of

EACH, SPARE = 4, 8
"""Entries in one read: for each device, and in addition."""
READS = 3
"""A device not reached after so many reads counts as one with many entries."""

SOUGHT, SOUGHT_MORE = 4, 8
"""Entries in the first look along the index, and the factor from one look to the next."""
BEGUN = 32
"""Entries whose `not_before` has come that are sorted by queue order: so many of the earliest."""

NOT_RESTING = sorted(state.value for state in OPEN_STATES - {EntryState.NOT_NOW})

_TIMES = {"not_before": 1, "expires_at": 1}


class OpenEntries:
    """A part of `MongoCommandQueue`."""

    _entries: Collection

    async def open_of_devices(self, devices: Names[str]) -> dict[str, Names[QueueEntry] | None]:
        found = await self._read_devices(devices, None)
        return {
            device: None if those is None else EntriesOnDemand(those)
            for device, those in found.items()
        }

    async def _read_devices(
        self, devices: Names[str], fields: Fields | None
    ) -> dict[str, list[Document] | None]:
        """Open entries by device; None where there are many."""
        result: dict[str, list[Document] | None] = {}
        left = sorted(devices)
        for _ in range(READS):
            if not left:
                return result
            limit = EACH * len(left) + SPARE
            found = await self._entries.find(
                {"open_device": {"$in": left}}, fields, sort=[("open_device", 1)], limit=limit
            )
            for document in found:
                those = result.setdefault(document["open_device"], [])
                assert those is not None  # a device is read once
                those.append(document)
            if len(found) < limit:
                return result
            # All of the devices before it were read.
            last = found[-1]["open_device"]
            result[last] = None
            left = [device for device in left if device > last]
        return result | dict.fromkeys(left)

    async def next_of(self, wanted: Sequence[Wanted], at: datetime) -> list[QueueEntry | None]:
        return list(await asyncio.gather(*(self._next(each, at) for each in wanted)))

    async def _next(self, wanted: Wanted, at: datetime) -> QueueEntry | None:
        condition = {
            "open_device": wanted.device,
            "enrollment": wanted.enrollment,
            "state": {"$in": OPEN if wanted.with_resting else NOT_RESTING},
        }
        generations = list({None: 1, wanted.generation: 1})
        now = {**condition, "not_before": None, "generation": {"$in": generations}}
        limit = SOUGHT
        while True:
            at_once, begun = await asyncio.gather(
                self._entries.find(now, sort=QUEUE_ORDER, limit=limit),
                self._begun(condition, at, max(limit, BEGUN)),
            )
            due = [
                entry
                for entry in entries_of([*at_once, *begun])
                if entry.generation in generations
                and entry.is_due(at)
                and not wanted.passes_over(entry)
            ]
            best = min(due, key=lambda entry: entry.queue_order, default=None)
            are_begun_read = len(begun) < max(limit, BEGUN)
            if are_begun_read and len(at_once) < limit:
                return best
            # Entries that moved back come after all others, so the others must have been read.
            is_rest_moved = are_begun_read and at_once[-1].get("moved") is not None
            if best is not None and (best.moved is None or is_rest_moved):
                return best
            limit *= SOUGHT_MORE

    async def _begun(
        self, condition: Query, at: datetime, limit: int, fields: Fields | None = None
    ) -> list[Document]:
        query = {**condition, "not_before": {"$lte": at}}
        return await self._entries.find(query, fields, sort=[("not_before", 1)], limit=limit)

    async def has_due(self, enrollments: Sequence[EnrollmentKey], at: datetime) -> set[str]:
        fields = {"open_device": 1, "enrollment": 1, "state": 1, **_TIMES}
        found = await self._read_devices({key.device for key in enrollments}, fields)
        of_few = [each for those in found.values() for each in those or ()]
        due = {each["enrollment"] for each in of_few if each["state"] in OPEN and _is_due(each, at)}
        of_many = [key for key in enrollments if found.get(key.device, ()) is None]
        looks = await asyncio.gather(*(self._has_due(key, at) for key in of_many))
        due |= {key.id for key, is_one in zip(of_many, looks, strict=True) if is_one}
        return due.intersection(key.id for key in enrollments)

    async def _has_due(self, key: EnrollmentKey, at: datetime) -> bool:
        condition = {
            "open_device": key.device,
            "enrollment": key.id,
            "state": {"$in": OPEN},
        }
        limit = SOUGHT
        while True:
            at_once, begun = await asyncio.gather(
                self._entries.find({**condition, "not_before": None}, _TIMES, limit=limit),
                self._begun(condition, at, limit, _TIMES),
            )
            if any(_is_due(each, at) for each in [*at_once, *begun]):
                return True
            if len(at_once) < limit and len(begun) < limit:
                return False
            limit *= SOUGHT_MORE


def _is_due(document: Document, at: datetime) -> bool:
    """`QueueEntry.is_due` for a document of which only the times were read."""
    begins, expires = document.get("not_before"), document.get("expires_at")
    return (begins is None or begins <= at) and (expires is None or expires > at)
