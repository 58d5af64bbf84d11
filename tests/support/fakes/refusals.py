"""Refusals in memory, on the records of `FakeEnrollments`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shared.domain.enrollment import EnrollmentStatus, Refusal, latest_refusals
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.queue import Hook, undisturbed


class FakeRefusals:
    """`Refusals` on the dictionaries of another fake."""

    def __init__(self, enrollments: FakeEnrollments, before: Hook = undisturbed) -> None:
        self.before = before
        self._enrollments = enrollments

    async def add(self, refusals: Mapping[str, Sequence[Refusal]]) -> None:
        await self.before("add_refusals")
        records = self._enrollments.records
        self._enrollments.refuse_full(refusals)
        for device, more in refusals.items():
            record = records.get(device)
            if record is not None and record.status is not EnrollmentStatus.REMOVED:
                records[device] = replace(record, refusals=latest_refusals(record.refusals, more))
            await asyncio.sleep(0)
