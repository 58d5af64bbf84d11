"""Enrolled devices: listed, shown, removed, blocked.

Promises: pages have every device that stays exactly once, by id, while others come and go. A removed
device keeps its certificate's binding and its events that are not yet delivered, and comes back with its next
valid message; when its removal is answered, none of its commands is open.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import structlog

from services.commands.queue.targets import Targets
from services.runtime.wanted_topics import WantedTopics
from shared.chunks import chunked
from shared.domain.enrollment import Enrollment
from shared.domain.errors import NotFound
from shared.domain.event import Topic
from shared.domain.outbox import removed_by_client
from shared.ports.clock import Clock, Ids
from shared.ports.devices import DeviceFilter, Devices
from shared.ports.enrollments import DeviceQuery, Enrollments
from shared.ports.queue import CommandQueue
from shared.web.api.cursor import write_cursor

log = structlog.get_logger()

TOGETHER = 100
"""Names in one query."""
USERS_TOGETHER = 100
"""User channels in one answer."""


Page = tuple[list[Enrollment], str | None]
"""Some devices or user channels, and the cursor of the next ones, None where the list ends."""


@dataclass(frozen=True, slots=True)
class DeviceInventory:
    enrollments: Enrollments
    devices: Devices
    targets: Targets
    removal: "DeviceRemoval"

    async def list(self, query: DeviceQuery) -> list[Enrollment]:
        """The devices that match, by id."""
        if max(len(query.udids or ()), len(query.serial_numbers or ())) <= TOGETHER:
            return await self.enrollments.devices(query)
        found = {device.id: device for device in await _named(self.enrollments, query)}
        devices = [found[id_] for id_ in sorted(found)]
        return devices[query.page * query.per_page :][: query.per_page or None]

    async def page(self, query: DeviceFilter) -> Page:
        """The next page; its cursor is there only if something follows."""
        found = await self.devices.page(replace(query, limit=query.limit + 1))
        return _page(found, query.limit)

    async def users(self, device: str, after: str | None) -> Page:
        """The next page of the user channels of a device."""
        found = await self.devices.users(device, USERS_TOGETHER + 1, after)
        return _page(found, USERS_TOGETHER)

    async def id_of(self, name: str) -> str:
        """The id of the device that has this name, or whose user has it. Raises NotFound, and Conflict
        where several have it."""
        target = await self.targets.one(name)
        if not target.is_known:
            raise _not_enrolled(name)
        return target.key.device

    async def one(self, name: str) -> Enrollment:
        """Raises what `id_of` raises."""
        id_ = await self.id_of(name)
        device = (await self.enrollments.load([id_])).get(id_)
        if device is None:
            raise _not_enrolled(name)
        return device

    async def secret(self, device: str, name: str) -> bytes:
        """A token that the device entrusted to us. Raises NotFound."""
        secret: bytes | None = getattr(await self.devices.secrets(device), name)
        if secret is None:
            raise NotFound(f"{name}: the device {device} has none")
        return secret

    async def remove(self, udids: Collection[str], serial_numbers: Collection[str]) -> None:
        """Remove these devices; who is unknown, or a user channel, is no error and stays."""
        devices = set(udids)
        if serial_numbers:
            query = DeviceQuery(serial_numbers=sorted(set(serial_numbers)))
            devices |= {found.device for found in await _named(self.enrollments, query)}
        for some in chunked(sorted(devices), TOGETHER):
            known = await self.targets.devices(some)
            users = {id_ for id_, found in known.items() if not found.key.is_device_channel}
            if those := set(some) - users:
                await self.removal.remove(those)

    async def block(self, name: str, *, blocked: bool) -> None:
        """Block or unblock a device; raises NotFound where there is none of that name."""
        target = await self.targets.one(name)
        is_device = target.is_known and target.key.is_device_channel
        if not is_device or not await self.enrollments.block(target.key.device, blocked):
            raise _not_enrolled(name)
        log.info("device_block_changed", device=target.key.device, blocked=blocked)


@dataclass(frozen=True, slots=True)
class DeviceRemoval:
    enrollments: Enrollments
    queue: CommandQueue
    wanted: WantedTopics
    ids: Ids
    clock: Clock

    async def remove(self, devices: Collection[str]) -> None:
        """Their commands end before the records go, so that a crash leaves nothing open that has no name any
        more (a stub has no serial number), and once more after it, because a command may have been queued in
        between. Later ones find the device removed. The write that removes a record keeps its event."""
        is_asked = Topic.COMMAND_CANCELLED in self.wanted.now
        await self.queue.cancel_devices(devices, with_event=is_asked)
        events = {}
        if Topic.DEVICE_REMOVED in self.wanted.now:
            at = self.clock.time_ns()
            events = {device: removed_by_client(self.ids.new(), at) for device in devices}
        removed = await self.enrollments.remove(devices, self.ids.new(), events)
        await self.queue.cancel_devices(devices, with_event=is_asked)
        log.info("devices_removed", enrollments=removed)


def _not_enrolled(name: str) -> NotFound:
    return NotFound(f"udid: no device {name} is enrolled")


def _page(found: list[Enrollment], limit: int) -> Page:
    page = found[:limit]
    return page, write_cursor(page[-1].id) if len(found) > limit else None


async def _named(enrollments: Enrollments, query: DeviceQuery) -> list[Enrollment]:
    """All that match, read in parts of the names: by UDID if both kinds of names are given."""
    found: list[Enrollment] = []
    by_udid = query.udids is not None
    for some in chunked((query.udids if by_udid else query.serial_numbers) or (), TOGETHER):
        part = DeviceQuery(udids=some) if by_udid else DeviceQuery(serial_numbers=some)
        found += await enrollments.devices(part)
    if not by_udid or query.serial_numbers is None:
        return found
    wanted = set(query.serial_numbers)
    return [each for each in found if each.inventory.serial_number in wanted]
