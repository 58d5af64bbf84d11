"""Enrollments in memory.

Each operation on one document is atomic, and between two documents others get their turn, as on a real
store. What a caller may rely on is in the port's docstrings; the contract suite holds both to them.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime

from shared.domain.binding import MOST_RETIRED, Binding
from shared.domain.enrollment import (
    Enrollment,
    EnrollmentStatus,
    EnrollmentSummary,
    Inventory,
    Waiting,
    partition_of,
)
from shared.domain.errors import TooLarge
from shared.domain.event import Topic
from shared.domain.identity import LOOK_BEFORE, Identity
from shared.domain.names import fitting_names, is_settled, is_there
from shared.domain.outbox import OutboxEvent, is_behind
from shared.ports.enrollments import Change, DeviceQuery, Mark
from tests.support.fakes.queue import Hook, undisturbed

STATUS_AFTER = {
    Topic.AUTHENTICATE: EnrollmentStatus.AUTHENTICATED,
    Topic.TOKEN_UPDATE: EnrollmentStatus.ENROLLED,
    Topic.CHECK_OUT: EnrollmentStatus.CHECKED_OUT,
}


def _without_secrets(record: Enrollment) -> Enrollment:
    return replace(record, push=None, bootstrap_token=None, unreadable=None)


class FakeEnrollments:
    """`Enrollments` on dictionaries."""

    def __init__(self, before: Hook = undisturbed) -> None:
        self.before = before
        self.records: dict[str, Enrollment] = {}
        self.unlock_tokens: dict[str, bytes] = {}
        self.full: set[str] = set()
        """Devices whose records hold nothing more."""
        self._long_retired: set[str] = set()
        self._holders: dict[str, str] = {}
        self._last_serials: dict[str, str | None] = {}
        """Of removed devices."""
        self.looks: dict[str, datetime] = {}
        """Of which device to look when, whether its certificate must be renewed."""
        self.kept_outbox: dict[str, list[OutboxEvent]] = {}
        self.asked: list[int] = []
        """How many names each call gave."""

    def reserve(self, certificate: str, device: str) -> bool:
        return self._holders.setdefault(certificate, device) == device

    def keep(self, device: str, outbox_event: OutboxEvent | None) -> None:
        if outbox_event is not None:
            self.kept_outbox.setdefault(device, []).append(outbox_event)

    def look_later(self, device: str, identity: Identity | None) -> None:
        self.looks.pop(device, None)
        if identity is not None and identity.certificate.not_after is not None:
            at = max(identity.bound_at, identity.certificate.not_after - LOOK_BEFORE)
            self.looks[device] = at

    def add(self, *enrollments: Enrollment) -> None:
        """Put records there without going through the port."""
        for enrollment in enrollments:
            self.records[enrollment.id] = enrollment
            if enrollment.certificate is not None:
                self._holders[enrollment.certificate] = enrollment.device

    def refuse_full(self, records: Iterable[str]) -> None:
        """As a real store does: the whole bulk, for one record."""
        if not self.full.isdisjoint(records):
            raise TooLarge("the document is too large for the store")

    async def load(self, ids: Collection[str], *, secrets: bool = True) -> dict[str, Enrollment]:
        self.asked.append(len(ids))
        await self.before("load")
        found = {
            i: replace(self.records[i], is_behind=is_behind(self.kept_outbox.get(i, ())))
            for i in ids
            if i in self.records
        }
        return found if secrets else {i: _without_secrets(each) for i, each in found.items()}

    async def summaries(self, ids: Collection[str]) -> dict[str, EnrollmentSummary]:
        found = await self.load(ids)
        return {id_: self._summary_of(record) for id_, record in found.items()}

    def _summary_of(self, record: Enrollment) -> EnrollmentSummary:
        key, inventory = record.key, record.inventory
        serial = inventory.serial_number or self._last_serials.get(record.id)
        names = (key.id, serial) if serial and key.user is None else (key.id,)
        return EnrollmentSummary(key, record.status, record.generation, inventory, names)

    async def find(self, names: Collection[str]) -> dict[str, list[EnrollmentSummary]]:
        await self.before("find")
        found = {name: self._find(name) for name in names}
        return {name: enrollments for name, enrollments in found.items() if enrollments}

    def _find(self, name: str) -> list[EnrollmentSummary]:
        exact = self.records.get(name)
        if exact is not None and is_settled(name, exact):
            return [self._summary_of(exact)] if is_there(exact) else []
        fitting = [r for r in self.records.values() if is_there(r) and name in fitting_names(r)]
        return [self._summary_of(record) for record in fitting]

    async def holders(self, certificates: Collection[str]) -> dict[str, str]:
        await self.before("holders")
        return {c: self._holders[c] for c in certificates if c in self._holders}

    async def long_retired(self, certificates: Collection[str]) -> set[str]:
        await self.before("long_retired")
        return self._long_retired.intersection(certificates)

    async def bind(self, bindings: Sequence[Binding]) -> list[bool]:
        await self.before("bind")
        self.refuse_full(binding.key.device for binding in bindings)
        bound = []
        for binding in bindings:
            bound.append(self._bind(binding))
            await asyncio.sleep(0)
        return bound

    def _bind(self, binding: Binding) -> bool:
        device = binding.key.device
        if not self.reserve(binding.certificate, device):
            return False
        if binding.is_new:
            return True
        record = self.records.get(device)
        if record is None or (record.generation, record.certificate) != (
            binding.generation,
            binding.replaces,
        ):
            return record is not None and (record.generation, record.certificate) == (
                binding.generation,
                binding.certificate,
            )
        gone = [each for each in (binding.replaces, binding.retires) if each]
        retired = tuple(dict.fromkeys([*record.retired_certificates, *gone]))
        self._long_retired |= set(retired[:-MOST_RETIRED])
        self.records[device] = replace(
            record,
            certificate=binding.certificate,
            retired_certificates=retired[-MOST_RETIRED:],
            migrating_until=None,
            identity=binding.identity,
            reset_from=None,
            expired_until=None,
            quarantine=None,
            renewal=None,
            renewing=None,
            renewed=None,
        )
        self.keep(device, binding.outbox_event)
        self.look_later(device, binding.identity)
        return True

    async def apply(self, changes: Sequence[Change]) -> list[bool]:
        await self.before("apply")
        self.refuse_full(change.key.id for change in changes)
        applied = []
        for change in changes:
            applied.append(self._apply(change))
            await asyncio.sleep(0)
        for change, ok in zip(changes, applied, strict=True):
            if ok and change.ends_user_channels:
                await self._end_user_channels(change)
        return applied

    def _apply(self, change: Change) -> bool:
        record = self.records.get(change.key.id)
        if record is None:
            if change.key.is_device_channel and not change.makes_record:
                return False
            certificate = change.certificate if change.makes_record else None
            record = Enrollment(change.key, EnrollmentStatus.ENROLLED, certificate=certificate)
            if change.makes_record:
                record = replace(record, identity=change.identity)
                self.look_later(record.id, change.identity)
        elif not _stands(record, change):
            return record.changed_by == change.by
        self.records[change.key.id] = self._changed(replace(record, key=change.key), change)
        self.keep(change.key.id, change.outbox_event)
        return True

    def _changed(self, record: Enrollment, change: Change) -> Enrollment:
        default = record.status if record.key.is_device_channel else EnrollmentStatus.ENROLLED
        record = replace(
            record,
            changed_by=change.by,
            status=record.status if change.renewing else STATUS_AFTER.get(change.topic, default),
            renewing=change.renewing or record.renewing,
            renewed=change.renewed or record.renewed,
            last_seen=max(change.at, record.last_seen or change.at),
            signed_at=max(filter(None, (change.signed_at, record.signed_at)), default=None),
        )
        if not record.key.is_device_channel:
            record = replace(record, generation=change.generation)
        if change.topic is Topic.AUTHENTICATE:
            record = self._authenticated(record, change)
        if change.topic is Topic.CHECK_OUT:
            record = replace(record, push=None)
        if change.push is not None:
            record = replace(record, push=change.push, token_updated_at=change.at)
        if change.unlock_token is not None:
            self.unlock_tokens[record.id] = change.unlock_token
        if change.bootstrap_token is not None:
            record = replace(record, bootstrap_token=change.bootstrap_token)
        if change.inventory is not None:
            record = replace(record, inventory=_merged(record.inventory, change.inventory))
        return record

    def _authenticated(self, record: Enrollment, change: Change) -> Enrollment:
        record = replace(record, quarantine=None)
        if not change.begins_generation:
            return record
        self.unlock_tokens.pop(record.id, None)
        record = replace(record, generation=change.by, push=None, bootstrap_token=None)
        record = replace(record, was_enrolled=record.was_enrolled or change.was_enrolled)
        return replace(record, token_updated_at=None)

    async def _end_user_channels(self, change: Change) -> None:
        is_new = change.topic is Topic.AUTHENTICATE
        for record in list(self.records.values()):
            is_users = record.device == change.key.device and not record.key.is_device_channel
            is_past = record.generation in (None, change.expected_generation)
            if is_users and is_past and record.status is not EnrollmentStatus.REMOVED:
                self.records[record.id] = replace(
                    record,
                    status=EnrollmentStatus.CHECKED_OUT,
                    push=None,
                    changed_by=change.by,
                    generation=change.by if is_new else record.generation,
                )
                await asyncio.sleep(0)

    async def revive(self, enrollments: Collection[str]) -> None:
        await self.before("revive")
        for enrollment in enrollments:
            record = self.records.get(enrollment)
            if record is not None and record.status is EnrollmentStatus.REMOVED:
                has_token = record.push is not None or not record.key.is_device_channel
                status = EnrollmentStatus.ENROLLED if has_token else EnrollmentStatus.AUTHENTICATED
                self.records[enrollment] = replace(record, status=status)

    async def count_users(self, device: str, most: int) -> int:
        await self.before("count_users")
        users = [r for r in self.records.values() if r.device == device and r.key.user is not None]
        return min(most, sum(1 for record in users if is_there(record)))

    async def mark_waiting(self, marks: Sequence[Mark]) -> list[bool]:
        await self.before("mark_waiting")
        self.refuse_full(mark.device for mark in marks)
        marked = []
        for mark in marks:
            record = self.records.get(mark.device)
            marked.append(record is not None)
            if record is not None:
                waiting = _marked(record.waiting, mark)
                self.records[mark.device] = replace(record, waiting=waiting)
            await asyncio.sleep(0)
        return marked

    async def waiting(self, partitions: Collection[int]) -> dict[str, Waiting]:
        await self.before("waiting")
        return {
            record.id: record.waiting
            for record in self.records.values()
            if record.waiting.since is not None and partition_of(record.device) in partitions
        }

    async def read_waiting(self, device: str) -> Waiting | None:
        await self.before("read_waiting")
        record = self.records.get(device)
        return None if record is None else record.waiting

    async def clear_waiting(self, device: str, count: int, upto: int | None = None) -> bool:
        await self.before("clear_waiting")
        record = self.records.get(device)
        if record is None or record.waiting.count != count:
            return False
        left = Waiting(count=count)
        if upto is not None:
            if record.waiting.since is None or (record.waiting.upto or 0) < upto:
                return False
            left = replace(record.waiting, since=max(record.waiting.since, upto))
        self.records[device] = replace(record, waiting=left)
        return True

    async def seen(self, times: Mapping[str, datetime]) -> None:
        await self.before("seen")
        for name, at in times.items():
            record = self.records.get(name)
            if record is not None and (record.last_seen is None or record.last_seen < at):
                self.records[name] = replace(record, last_seen=at)
            await asyncio.sleep(0)

    async def block(self, device: str, blocked: bool) -> bool:
        await self.before("block")
        record = self.records.get(device)
        if record is None or record.status is EnrollmentStatus.REMOVED:
            return False
        self.records[device] = replace(record, blocked=blocked)
        return True

    async def remove(
        self, devices: Collection[str], by: str, events: Mapping[str, OutboxEvent] | None = None
    ) -> list[str]:
        self.asked.append(len(devices))
        await self.before("remove")
        removed = []
        for record in list(self.records.values()):
            if record.device in devices and record.status is not EnrollmentStatus.REMOVED:
                self.unlock_tokens.pop(record.id, None)
                serial = record.inventory.serial_number or self._last_serials.get(record.id)
                self._last_serials[record.id] = serial
                self.records[record.id] = _stub(self.records[record.id], by)
                if events and record.id in events:
                    self.keep(record.id, events[record.id])
                removed.append(record.id)
                await asyncio.sleep(0)
        return removed

    async def devices(self, query: DeviceQuery) -> list[Enrollment]:
        self.asked += [len(query.udids or ()), len(query.serial_numbers or ())]
        await self.before("devices")
        found = sorted(
            (record for record in self.records.values() if _is_listed(record, query)),
            key=lambda record: record.id,
        )
        if query.per_page == 0:
            return found
        return found[query.page * query.per_page :][: query.per_page]

    async def mark_token(
        self, enrollment: str, token: bytes, *, dead: bool, event: OutboxEvent | None = None
    ) -> bool:
        await self.before("mark_token")
        record = self.records.get(enrollment)
        if record is None or record.push is None or record.push.token != token:
            return False
        if record.push.dead != dead:
            self.keep(enrollment, event)
        self.records[enrollment] = replace(record, push=replace(record.push, dead=dead))
        return True


def _marked(waiting: Waiting, mark: Mark) -> Waiting:
    at, upto = mark.created_at, max(mark.created_at, mark.upto)
    return Waiting(
        since=at if waiting.since is None else min(waiting.since, at),
        upto=upto if waiting.upto is None else max(waiting.upto, upto),
        count=waiting.count + 1,
    )


def _merged(known: Inventory, told: Inventory) -> Inventory:
    news = {f.name: value for f in fields(told) if (value := getattr(told, f.name)) is not None}
    return replace(known, **news)


def _stands(record: Enrollment, change: Change) -> bool:
    """Whether the condition of a change on a record that is there holds."""
    if change.topic is Topic.AUTHENTICATE and record.certificate != change.certificate:
        return False
    if record.changed_by != change.expected_change:
        return False
    return not change.makes_record and record.generation == change.expected_generation


def _stub(record: Enrollment, by: str) -> Enrollment:
    """What stays of a removed enrollment: whom the certificate proves, and what is owed to it."""
    return Enrollment(
        record.key,
        EnrollmentStatus.REMOVED,
        generation=record.generation,
        changed_by=by,
        certificate=record.certificate,
        retired_certificates=record.retired_certificates,
        push=record.push,
        blocked=record.blocked,
        waiting=record.waiting,
        signed_at=record.signed_at,
        token_updated_at=record.token_updated_at,
        identity=record.identity,
        reset_from=record.reset_from,
        expired_until=record.expired_until,
        quarantine=record.quarantine,
        renewal=record.renewal,
        renewing=record.renewing,
        was_enrolled=record.was_enrolled,
        renewed=record.renewed,
    )


def _is_listed(record: Enrollment, query: DeviceQuery) -> bool:
    if record.status is EnrollmentStatus.REMOVED or not record.key.is_device_channel:
        return False
    serials, udids = query.serial_numbers, query.udids
    if serials is not None and record.inventory.serial_number not in serials:
        return False
    return udids is None or record.id in udids
