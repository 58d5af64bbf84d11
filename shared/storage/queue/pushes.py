"""Collections `pushes` (enrollments that may have to be pushed again) and `sweeps` (per partition, the time
up to which the sweep has looked for entries that were never pushed). Owner: push.

Both only save repetitions: a lost document costs one push too many."""

from collections.abc import Collection as Some
from collections.abc import Sequence
from datetime import datetime

from shared.chunks import chunked
from shared.domain.enrollment import PARTITIONS, partition_of
from shared.ports.pushes import PushRecord
from shared.storage.database import Database, DeleteOne, Document, UpdateOne
from shared.storage.indexes import Index
from shared.storage.reads import find_by_id
from shared.storage.records import fields_of, record
from shared.times import EPOCH

NAME = "pushes"
SWEEPS = "sweeps"
INDEXES = (Index(NAME, [("next_at", 1)]),)
"""The sweep asks by a closed range of next_at."""

LIST_LENGTH = 32
"""Ids in one `$in`: the embedded store's cost per id grows tenfold with long lists."""

_POSITIONS = "positions"


class MongoPushes:
    """Implements `shared.ports.pushes.Pushes`."""

    def __init__(self, database: Database) -> None:
        self._pushes = database.collection(NAME)
        self._sweeps = database.collection(SWEEPS)

    async def record(self, records: Sequence[PushRecord]) -> None:
        operations = [_upsert(each) for each in records]
        _, raced = await self._pushes.bulk_write(operations)
        # Two replicas inserted the same document at once; the loser's write is an update now.
        await self._pushes.bulk_write([operations[index] for index in sorted(raced)])

    async def load(self, enrollments: Some[str]) -> dict[str, PushRecord]:
        found: dict[str, Document] = {}
        for ids in chunked(list(enrollments), LIST_LENGTH):
            found |= await find_by_id(self._pushes, ids)
        return {id_: record(PushRecord, document) for id_, document in found.items()}

    async def due(self, partitions: Some[int], until: datetime, limit: int) -> list[PushRecord]:
        query: Document = {"next_at": {"$gte": EPOCH, "$lte": until}}
        if len(partitions) < PARTITIONS:
            query["partition"] = {"$in": sorted(partitions)}
        found = await self._pushes.find(query, sort=[("next_at", 1)], limit=limit)
        return [record(PushRecord, document) for document in found]

    async def forget(self, records: Sequence[PushRecord]) -> None:
        await self._pushes.bulk_write(
            [
                DeleteOne({"_id": r.enrollment, "tried_at": r.tried_at, "next_at": r.next_at})
                for r in records
            ]
        )

    async def positions(self) -> dict[int, datetime]:
        document = await self._sweeps.find_one({"_id": _POSITIONS}) or {}
        return {
            int(name.removeprefix("p")): time
            for name, time in document.items()
            if isinstance(time, datetime)
        }

    async def advance(self, partitions: Some[int], to: datetime) -> None:
        await self._move("$max", partitions, to)

    async def reset(self, partitions: Some[int], to: datetime) -> None:
        await self._move("$set", partitions, to)

    async def _move(self, operator: str, partitions: Some[int], to: datetime) -> None:
        if not partitions:
            return
        # An upsert may lose a race against another one; then the document is there.
        update = UpdateOne(
            {"_id": _POSITIONS},
            {operator: {f"p{partition}": to for partition in partitions}},
            upsert=True,
        )
        _, raced = await self._sweeps.bulk_write([update])
        if raced:
            await self._sweeps.bulk_write([update])


def _upsert(push: PushRecord) -> UpdateOne:
    values = fields_of(push)
    del values["_id"]
    if push.pushed_at is None:
        del values["pushed_at"]
    # A user channel's id is `DEVICE:USER`, and partitions go by the device.
    values["partition"] = partition_of(push.enrollment.partition(":")[0])
    return UpdateOne({"_id": push.enrollment}, {"$set": values}, upsert=True)
