"""The devices that are enrolled: listed, removed, blocked.

Promises: a removed device keeps its certificate's binding and what is owed to its subscribers, and
comes back with its next valid message; when its removal is answered, none of its commands is open.
"""

from collections.abc import Collection
from typing import TypeVar

import structlog

from services.commands.queue.targets import Targets
from shared.chunks import chunked
from shared.domain.enrollment import Enrollment
from shared.domain.errors import NotFound
from shared.ports.enrollments import DeviceQuery, Enrollments
from shared.ports.queue import CommandQueue

log = structlog.get_logger()

TOGETHER = 100
"""Names with which the store is asked at once."""

T = TypeVar("T")


class DeviceInventory:
    """Device channels, as API clients see them."""

    def __init__(self, enrollments: Enrollments, queue: CommandQueue, targets: Targets) -> None:
        self._enrollments = enrollments
        self._queue = queue
        self._targets = targets

    async def list(self, query: DeviceQuery) -> list[Enrollment]:
        """The devices that match, by id."""
        if max(len(query.udids or ()), len(query.serial_numbers or ())) <= TOGETHER:
            return await self._enrollments.devices(query)
        found = {device.id: device for device in await _named(self._enrollments, query)}
        devices = [found[id_] for id_ in sorted(found)]
        if not query.per_page:
            return devices
        return devices[query.page * query.per_page :][: query.per_page]

    async def remove(self, udids: Collection[str], serial_numbers: Collection[str]) -> None:
        """Remove these devices; who is unknown, or a user channel, is no error and stays.

        Their commands end before the records go and once more after it: before it, so that a crash
        leaves nothing open that nobody can name any more (a stub has no serial number); after it,
        because a command may have been queued in between. Later ones find the device removed."""
        devices = set(udids)
        if serial_numbers:
            query = DeviceQuery(serial_numbers=sorted(set(serial_numbers)))
            devices |= {found.device for found in await _named(self._enrollments, query)}
        for some in chunked(sorted(devices), TOGETHER):
            await self._remove(set(some))

    async def _remove(self, devices: set[str]) -> None:
        known = await self._targets.devices(devices)
        devices -= {id_ for id_, found in known.items() if not found.key.is_device_channel}
        if not devices:
            return
        await self._queue.cancel_devices(devices)
        removed = await self._enrollments.remove(devices)
        await self._queue.cancel_devices(devices)
        log.info("devices_removed", enrollments=removed)

    async def block(self, name: str, *, blocked: bool) -> None:
        """Block or unblock a device; raises NotFound where there is none of that name."""
        target = await self._targets.one(name)
        if not target.is_known or not target.key.is_device_channel:
            raise NotFound(f"udid: no device {name} is enrolled")
        if not await self._enrollments.block(target.key.device, blocked):
            raise NotFound(f"udid: no device {name} is enrolled")
        log.info("device_block_changed", device=target.key.device, blocked=blocked)


async def _named(enrollments: Enrollments, query: DeviceQuery) -> list[Enrollment]:
    """All that match, asked for in parts of the names; where both kinds of names are given, by UDIDs, of
    which each device has one."""
    found: list[Enrollment] = []
    if query.udids is None:
        for some in chunked(query.serial_numbers or (), TOGETHER):
            found += await enrollments.devices(DeviceQuery(serial_numbers=some))
        return found
    for some in chunked(query.udids, TOGETHER):
        found += await enrollments.devices(DeviceQuery(udids=some))
    if query.serial_numbers is None:
        return found
    wanted = set(query.serial_numbers)
    return [each for each in found if each.inventory.serial_number in wanted]
