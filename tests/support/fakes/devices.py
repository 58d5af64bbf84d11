"""`Devices` and `Migration` over the enrollments in memory."""

import asyncio
from dataclasses import dataclass, field, fields, replace

from shared.domain.enrollment import Enrollment, EnrollmentStatus, Inventory
from shared.ports.devices import DeviceFilter, DeviceSecrets, Imported, ImportedKind, ImportOutcome
from tests.support.fakes.enrollments import FakeEnrollments


class FakeDevices:
    """Reads what `FakeEnrollments` holds."""

    def __init__(self, enrollments: FakeEnrollments) -> None:
        self._enrollments = enrollments

    async def page(self, query: DeviceFilter) -> list[Enrollment]:
        await asyncio.sleep(0)
        found = [r for r in self._present() if r.key.is_device_channel and _matches(query, r)]
        return [r for r in found if query.after is None or r.id > query.after][: query.limit]

    async def users(self, device: str, limit: int, after: str | None = None) -> list[Enrollment]:
        await asyncio.sleep(0)
        users = [r for r in self._present() if r.device == device and not r.key.is_device_channel]
        return [r for r in users if r.id > (after or "")][:limit]

    async def secrets(self, enrollment: str) -> DeviceSecrets:
        await asyncio.sleep(0)
        record = self._enrollments.records.get(enrollment)
        bootstrap_token = None if record is None else record.bootstrap_token
        return DeviceSecrets(
            unlock_token=self._enrollments.unlock_tokens.get(enrollment) or None,
            bootstrap_token=bootstrap_token or None,
        )

    def _present(self) -> list[Enrollment]:
        records = self._enrollments.records.values()
        present = [r for r in records if r.status is not EnrollmentStatus.REMOVED]
        return sorted(present, key=lambda record: record.id)


def _matches(query: DeviceFilter, device: Enrollment) -> bool:
    inventory, seen = device.inventory, device.last_seen
    return (
        query.id in {None, device.id}
        and query.serial_number in {None, inventory.serial_number}
        and query.status in {None, device.status}
        and query.model in {None, inventory.model}
        and query.os_version in {None, inventory.os_version}
        and query.blocked in {None, device.blocked}
        and query.quarantined in {None, device.quarantine is not None}
        and query.migrating in {None, device.migrating_until is not None}
        and (query.seen_since is None or (seen is not None and seen >= query.seen_since))
        and (query.seen_before is None or (seen is not None and seen < query.seen_before))
    )


@dataclass
class _Past:
    """What was imported into a record; `record` is how the last import left it."""

    record: Enrollment
    digests: dict[ImportedKind, str] = field(default_factory=dict)


class FakeMigration:
    """Writes into `FakeEnrollments`."""

    def __init__(self, enrollments: FakeEnrollments) -> None:
        self._enrollments = enrollments
        self._past: dict[str, _Past] = {}

    async def take(self, message: Imported) -> ImportOutcome:
        await asyncio.sleep(0)
        device, record = self._there(message.key.device), self._there(message.key.id)
        past = self._past.get(message.key.id) if record is not None else None
        if past is not None and past.digests.get(message.kind) == message.digest:
            until = None if record is None else record.migrating_until
            if until is None or until >= message.at:
                return ImportOutcome.UNCHANGED
        if message.key.is_device_channel:
            outcome = self._judge_device(message, device)
        else:
            outcome = self._judge_user(device, record)
        if outcome is ImportOutcome.IMPORTED:
            self._write(message, device, record)
        return outcome

    def _there(self, enrollment: str) -> Enrollment | None:
        record = self._enrollments.records.get(enrollment)
        is_there = record is not None and record.status is not EnrollmentStatus.REMOVED
        return record if is_there else None

    def _judge_device(self, message: Imported, device: Enrollment | None) -> ImportOutcome:
        known = self._enrollments.records.get(message.key.id)
        if known is not None and known.certificate is not None:
            return ImportOutcome.OWN
        if device is None and message.kind is not ImportedKind.AUTHENTICATE:
            return ImportOutcome.UNKNOWN
        return ImportOutcome.IMPORTED

    def _judge_user(self, device: Enrollment | None, record: Enrollment | None) -> ImportOutcome:
        if device is None:
            return ImportOutcome.UNKNOWN
        past = self._past.get(device.id)
        if past is None or past.record.generation != device.generation:
            return ImportOutcome.OWN
        if record is None:
            return ImportOutcome.IMPORTED
        left = self._past.get(record.id)
        is_import = left is not None and replace(left.record, last_seen=record.last_seen) == record
        return ImportOutcome.IMPORTED if is_import else ImportOutcome.OWN

    def _write(
        self, message: Imported, device: Enrollment | None, record: Enrollment | None
    ) -> None:
        key = message.key
        stub = self._enrollments.records.get(key.id)
        new_status = EnrollmentStatus.ENROLLED
        if key.is_device_channel and message.kind is ImportedKind.AUTHENTICATE:
            new_status = EnrollmentStatus.AUTHENTICATED
        base = record or replace(stub or Enrollment(key, new_status), status=new_status)
        generation = (device or base).generation or message.generation
        made = replace(base, key=key, generation=generation)
        made = replace(made, changed_by=f"migration:{message.digest}")
        if key.is_device_channel:
            made = replace(made, migrating_until=message.until)
        if message.kind is ImportedKind.TOKEN_UPDATE:
            made = replace(made, status=EnrollmentStatus.ENROLLED, push=message.push)
            made = replace(made, was_enrolled=made.key.is_device_channel)
        if message.unlock_token is not None:
            self._enrollments.unlock_tokens[key.id] = message.unlock_token
        if message.bootstrap_token is not None:
            made = replace(made, bootstrap_token=message.bootstrap_token)
        if message.inventory is not None:
            made = replace(made, inventory=_merged(made.inventory, message.inventory))
        self._enrollments.records[key.id] = made
        past = self._past.setdefault(key.id, _Past(made)) if record else _Past(made)
        past.record = made
        past.digests[message.kind] = message.digest
        self._past[key.id] = past


def _merged(known: Inventory, told: Inventory) -> Inventory:
    news = {f.name: value for f in fields(told) if (value := getattr(told, f.name)) is not None}
    return replace(known, **news)
