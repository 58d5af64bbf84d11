"""Bindings after they were made, in memory, on the records of `FakeEnrollments`."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from shared.domain.enrollment import Enrollment, partition_of
from shared.domain.identity import Quarantine, ReportedExpiry
from shared.domain.outbox import OutboxEvent, as_kept
from shared.ports.identities import Attempt, Outgoing
from shared.times import EPOCH
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.queue import Hook, undisturbed


class FakeIdentities:
    """`Identities` on the dictionaries of another fake."""

    def __init__(self, enrollments: FakeEnrollments, before: Hook = undisturbed) -> None:
        self.before = before
        self._enrollments = enrollments

    async def reserve(self, certificate: str, device: str) -> None:
        await self.before("reserve")
        self._enrollments.reserve(certificate, device)

    async def quarantine(
        self, device: str, bound: str | None, seen: Quarantine, outbox_event: OutboxEvent
    ) -> bool:
        await self.before("quarantine")
        record = self._bound(device, bound)
        if record is None:
            return False
        there = record.quarantine
        if there is None:
            self._put(replace(record, quarantine=seen))
            self._enrollments.keep(device, outbox_event)
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
        self._enrollments.looks[device] = EPOCH
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
        self._enrollments.keep(attempt.device, attempt.outbox_event)
        return True

    async def bound(self, partition: int, after: str, limit: int) -> list[Enrollment]:
        await self.before("bound")
        found = [
            replace(record, push=None, bootstrap_token=None, unreadable=None)
            for record in self._enrollments.records.values()
            if record.certificate is not None
            and record.identity is not None
            and record.identity.certificate.not_after is not None
            and record.key.partition == partition
            and record.id > after
        ]
        return sorted(found, key=lambda record: record.id)[:limit]

    async def report_silence(
        self, device: str, last_seen: datetime, outbox_event: OutboxEvent
    ) -> bool:
        await self.before("report_silence")
        record = self._enrollments.records.get(device)
        if record is None or last_seen != record.last_seen or last_seen == record.silent_since:
            return False
        self._put(replace(record, silent_since=last_seen))
        self._enrollments.keep(device, outbox_event)
        return True

    async def report_expiry(
        self,
        device: str,
        expiry: ReportedExpiry,
        seen: ReportedExpiry | None,
        outbox_event: OutboxEvent,
    ) -> bool:
        await self.before("report_expiry")
        record = self._bound(device, expiry.certificate)
        if record is None or record.reported_expiry != seen:
            return False
        self._put(replace(record, reported_expiry=expiry))
        self._enrollments.keep(device, outbox_event)
        return True

    async def outbox(self, partitions: Collection[int]) -> list[Outgoing]:
        await self.before("outbox")
        return [
            Outgoing(self._enrollments.records[device], outbox_event)
            for device, outbox in self._enrollments.kept_outbox.items()
            if partition_of(device) in partitions
            for outbox_event in as_kept(outbox)
        ]

    async def published(self, outgoing: Sequence[Outgoing]) -> None:
        await self.before("published")
        for each in outgoing:
            kept = self._enrollments.kept_outbox.get(each.device.id, [])
            self._enrollments.kept_outbox[each.device.id] = [
                outbox_event for outbox_event in kept if outbox_event.id != each.outbox_event.id
            ]

    def _bound(self, device: str, certificate: str | None) -> Enrollment | None:
        record = self._enrollments.records.get(device)
        return record if record is not None and record.certificate == certificate else None

    def _put(self, record: Enrollment) -> None:
        self._enrollments.refuse_full([record.id])
        self._enrollments.records[record.id] = record
