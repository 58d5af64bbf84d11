"""Pushes in memory: `Pushes` on dictionaries, times kept to the millisecond as a real store does."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from shared.domain.enrollment import partition_of
from shared.ports.pushes import PushRecord
from tests.support.fakes.queue import Hook, undisturbed


def to_millisecond(time: datetime) -> datetime:
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


class FakePushes:
    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.rows: dict[str, PushRecord] = {}
        self.stored_positions: dict[int, datetime] = {}
        self.batches: list[int] = []

    async def record(self, records: Sequence[PushRecord]) -> None:
        await self.before("record")
        self.batches.append(len(records))
        for record in records:
            there = self.rows.get(record.enrollment)
            pushed_at = record.pushed_at or (there.pushed_at if there else None)
            self.rows[record.enrollment] = replace(
                record,
                tried_at=to_millisecond(record.tried_at),
                next_at=to_millisecond(record.next_at),
                pushed_at=to_millisecond(pushed_at) if pushed_at else None,
            )
            await asyncio.sleep(0)

    async def load(self, enrollments: Collection[str]) -> dict[str, PushRecord]:
        await self.before("load_pushes")
        return {e: self.rows[e] for e in enrollments if e in self.rows}

    async def due(
        self, partitions: Collection[int], until: datetime, limit: int
    ) -> list[PushRecord]:
        await self.before("due")
        found = [
            row
            for row in self.rows.values()
            if row.next_at <= until and partition_of(row.enrollment.partition(":")[0]) in partitions
        ]
        return sorted(found, key=lambda row: row.next_at)[:limit]

    async def forget(self, records: Sequence[PushRecord]) -> None:
        await self.before("forget_pushes")
        for record in records:
            there = self.rows.get(record.enrollment)
            if there is None:
                continue
            if (there.tried_at, there.next_at) == (record.tried_at, record.next_at):
                del self.rows[record.enrollment]
            await asyncio.sleep(0)

    async def positions(self) -> dict[int, datetime]:
        await self.before("positions")
        return dict(self.stored_positions)

    async def advance(self, partitions: Collection[int], to: datetime) -> None:
        await self.before("advance")
        for partition in partitions:
            there = self.stored_positions.get(partition, to)
            self.stored_positions[partition] = max(there, to_millisecond(to))

    async def reset(self, partitions: Collection[int], to: datetime) -> None:
        await self.before("reset")
        self.stored_positions.update(dict.fromkeys(partitions, to_millisecond(to)))
