"""Bindings after they were made, in memory, on the records of `FakeEnrollments`."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from shared.domain.enrollment import Enrollment, partition_of
from shared.domain.identity import Quarantine
from shared.domain.notices import Notice
from shared.ports.identities import Attempt, Noted
from tests.fakes.enrollments import FakeEnrollments
from tests.fakes.queue import Hook, undisturbed

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class FakeIdentities:
    """`Identities` on the dictionaries of another fake."""

    def __init__(self, enrollments: FakeEnrollments, before: Hook = undisturbed) -> None:
        self.before = before
        self._enrollments = enrollments

    async def reserve(self, certificate: str, device: str) -> None:
        await self.before("reserve")
        self._enrollments.reserve(certificate, device)

    async def quarantine(
        self, device: str, bound: str | None, seen: Quarantine, notice: Notice
    ) -> bool:
        await self.before("quarantine")
        record = self._bound(device, bound)
        if record is None:
            return False
        there = record.quarantine
        if there is None:
            self._put(replace(record, quarantine=seen))
            self._enrollments.keep(device, notice)
            return True
        last_seen = max(there.last_seen, seen.last_seen)
        self._put(replace(record, quarantine=replace(seen, since=there.since, last_seen=last_seen)))
        return False

    async def release(self, device: str, bound: str) -> bool:
        await self.before("release")
        record = self._bound(device, bound)
        if record is not None:
            self._put(replace(record, quarantine=None))
        return record is not None

    async def reset(self, device: str, bound: str) -> bool:
        await self.before("reset")
        record = self._bound(device, bound)
        if record is None:
            return False
        self._enrollments.looks.pop(device, None)
        self._put(
            replace(
                record,
                certificate=None,
                reset_from=bound,
                quarantine=None,
                renewal=None,
                expired_until=None,
            )
        )
        return True

    async def accept_expired(self, device: str, bound: str, until: datetime) -> bool:
        await self.before("accept_expired")
        record = self._bound(device, bound)
        if record is None:
            return False
        self._put(replace(record, expired_until=until, quarantine=None, renewal=None))
        self._enrollments.looks[device] = BEGINNING
        return True

    async def to_renew(self, partitions: Collection[int], at: datetime) -> list[Enrollment]:
        await self.before("to_renew")
        due = [
            (partition_of(device), look, device)
            for device, look in self._enrollments.looks.items()
            if look <= at and partition_of(device) in partitions
        ]
        return [self._enrollments.records[device] for _, _, device in sorted(due)]

    async def attempt(self, attempts: Sequence[Attempt]) -> list[bool]:
        await self.before("attempt")
        done = []
        for attempt in attempts:
            done.append(self._attempt(attempt))
            await asyncio.sleep(0)
        return done

    def _attempt(self, attempt: Attempt) -> bool:
        record = self._bound(attempt.device, attempt.certificate)
        if record is None or record.renewal != attempt.seen:
            return False
        if attempt.renewal is not None:
            self._put(replace(record, renewal=attempt.renewal))
        if attempt.look_at is None:
            self._enrollments.looks.pop(attempt.device, None)
        else:
            self._enrollments.looks[attempt.device] = attempt.look_at
        self._enrollments.keep(attempt.device, attempt.notice)
        return True

    async def notices(self, partitions: Collection[int]) -> list[Noted]:
        await self.before("notices")
        return [
            Noted(self._enrollments.records[device], notice)
            for device, notices in self._enrollments.kept_notices.items()
            if partition_of(device) in partitions
            for notice in sorted(notices, key=lambda each: (each.created_at, each.id))
        ]

    async def announced(self, noted: Sequence[Noted]) -> None:
        await self.before("announced")
        for each in noted:
            kept = self._enrollments.kept_notices.get(each.device.id, [])
            self._enrollments.kept_notices[each.device.id] = [
                notice for notice in kept if notice.id != each.notice.id
            ]

    def _bound(self, device: str, certificate: str | None) -> Enrollment | None:
        record = self._enrollments.records.get(device)
        return record if record is not None and record.certificate == certificate else None

    def _put(self, record: Enrollment) -> None:
        self._enrollments.refuse_full([record.id])
        self._enrollments.records[record.id] = record
