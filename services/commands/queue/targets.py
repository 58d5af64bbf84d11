"""Resolve API identifiers to enrollments: any id that is unique names one.

Promises: an id that names several enrollments is refused with their full ids; the generation of a user
channel is that of its device; an unknown id and a removed device differ."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shared.domain.command import QueueEntry
from shared.domain.enrollment import EnrollmentKey, EnrollmentSummary, Inventory
from shared.domain.errors import Conflict
from shared.domain.names import ambiguity
from shared.ports.enrollments import Enrollments

UNKNOWN_INVENTORY = Inventory()


@dataclass(frozen=True, slots=True)
class Target:
    """One enrollment as it was read. `is_known`: it exists and was not removed."""

    key: EnrollmentKey
    generation: str | None
    is_known: bool
    inventory: Inventory = UNKNOWN_INVENTORY
    """The description that its device gave."""


def is_stale(entry: QueueEntry, generation: str | None) -> bool:
    """True if an open entry belongs to a past generation of its device.

    An entry without a generation was queued before its device was known, which only
    MDM_ACCEPT_UNKNOWN_DEVICES allows. It counts as of the first generation; the next Authenticate ends it
    with the others."""
    return entry.generation is not None and entry.generation != generation


def key_of_unknown(name: str) -> EnrollmentKey:
    """The key that `name` has if it ever enrolls: `DEVICE`, or `DEVICE:USER` of a user channel."""
    device, colon, user = name.partition(":")
    return EnrollmentKey(name, device, udid=device, user=user if colon else None)


@dataclass(frozen=True, slots=True)
class Targets:
    enrollments: Enrollments

    async def resolve(self, names: Collection[str]) -> dict[str, Target | Conflict]:
        """Name -> its target, or the error. UDIDs, which most names are, cost one read."""
        meant = await self.enrollments.find(names)
        records = [record for found in meant.values() for record in found]
        known = {record.id: record for record in records if record.key.is_device_channel}
        wanted = {record.device for record in records} | {n for n in names if n not in meant}
        if missing := wanted - known.keys():
            known |= await self.enrollments.summaries(missing)
        return {name: _target(name, meant.get(name), known) for name in names}

    async def one(self, name: str) -> Target:
        """The target of one name; raises Conflict when it names several."""
        target = (await self.resolve([name]))[name]
        if isinstance(target, Conflict):
            raise target
        return target

    async def devices(self, devices: Collection[str]) -> dict[str, EnrollmentSummary]:
        """These devices as they are now, removed ones included."""
        return await self.enrollments.summaries(devices)


def _target(
    name: str, found: list[EnrollmentSummary] | None, known: Mapping[str, EnrollmentSummary]
) -> Target | Conflict:
    if found and len(found) > 1:
        return Conflict(ambiguity(name, found))
    record = found[0] if found else known.get(name)  # a removed one
    if record is None:
        return Target(key_of_unknown(name), None, is_known=False)
    device = known.get(record.device)
    inventory = device.inventory if device and found else UNKNOWN_INVENTORY
    return Target(record.key, device.generation if device else None, bool(found), inventory)
