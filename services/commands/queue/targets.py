"""Whom an API client means: any id that is unique names an enrollment.

Promises: an id that names several enrollments is refused with their full ids; for a user channel the
generation is that of its device; whoever nobody knows is told apart from whoever was removed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shared.domain.command import QueueEntry
from shared.domain.enrollment import Enrollment, EnrollmentKey, Inventory
from shared.domain.errors import Conflict
from shared.domain.names import ambiguity
from shared.ports.enrollments import Enrollments

NOTHING_TOLD = Inventory()


@dataclass(frozen=True, slots=True)
class Target:
    """One enrollment, as it was when it was read. `is_known`: it is there, and was not removed."""

    key: EnrollmentKey
    generation: str | None
    is_known: bool
    inventory: Inventory = NOTHING_TOLD
    """What its device told of itself."""


def is_stale(entry: QueueEntry, generation: str | None) -> bool:
    """Whether an open entry belongs to a past generation of its device.

    One without a generation was queued before its device was known, which only
    MDM_ACCEPT_UNKNOWN_DEVICES allows: it counts as of the first generation, whichever that is, since
    to wait for that device is all it is good for. The next Authenticate ends it with the others."""
    return entry.generation is not None and entry.generation != generation


def key_of_unknown(name: str) -> EnrollmentKey:
    """The key that `name` has if it ever enrolls: `DEVICE`, or `DEVICE:USER` of a user channel."""
    device, colon, user = name.partition(":")
    return EnrollmentKey(name, device, udid=device, user=user if colon else None)


class Targets:
    """Finds enrollments by the names that API clients use."""

    def __init__(self, enrollments: Enrollments) -> None:
        self._enrollments = enrollments

    async def resolve(self, names: Collection[str]) -> dict[str, Target | Conflict]:
        """Per name its target, or why it has none. UDIDs, which most names are, cost one read."""
        meant = await self._enrollments.find(names)
        records = [record for found in meant.values() for record in found]
        known = {record.id: record for record in records if record.key.is_device_channel}
        wanted = {record.device for record in records} | {n for n in names if n not in meant}
        if missing := wanted - known.keys():
            known |= await self._enrollments.load(missing)
        return {name: _target(name, meant.get(name), known) for name in names}

    async def one(self, name: str) -> Target:
        """The target of one name; raises Conflict when it names several."""
        target = (await self.resolve([name]))[name]
        if isinstance(target, Conflict):
            raise target
        return target

    async def devices(self, devices: Collection[str]) -> dict[str, Enrollment]:
        """What is known of these devices now, removed ones included."""
        return await self._enrollments.load(devices)


def _target(
    name: str, found: list[Enrollment] | None, known: Mapping[str, Enrollment]
) -> Target | Conflict:
    if not found:
        removed = known.get(name)
        if removed is None:
            return Target(key_of_unknown(name), None, is_known=False)
        return Target(removed.key, _generation(removed.device, known), is_known=False)
    if len(found) > 1:
        return Conflict(ambiguity(name, found))
    key, device = found[0].key, known.get(found[0].device)
    if device is None:
        return Target(key, None, is_known=True)
    return Target(key, device.generation, is_known=True, inventory=device.inventory)


def _generation(device: str, known: Mapping[str, Enrollment]) -> str | None:
    record = known.get(device)
    return None if record is None else record.generation
