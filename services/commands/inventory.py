"""The devices that are enrolled: listed, removed, blocked.

Promises: a removed device keeps its certificate's binding and what is owed to its subscribers, and
comes back with its next valid message; when its removal is answered, none of its commands is open.
"""

from collections.abc import Collection

import structlog

from services.commands.targets import Targets
from shared.domain.enrollment import Enrollment, EnrollmentKey
from shared.domain.errors import NotFound
from shared.ports.enrollments import DeviceQuery, Enrollments
from shared.ports.queue import CommandQueue

log = structlog.get_logger()


class DeviceInventory:
    """Device channels, as API clients see them."""

    def __init__(self, enrollments: Enrollments, queue: CommandQueue, targets: Targets) -> None:
        self._enrollments = enrollments
        self._queue = queue
        self._targets = targets

    async def list(self, query: DeviceQuery) -> list[Enrollment]:
        return await self._enrollments.devices(query)

    async def remove(self, udids: Collection[str], serial_numbers: Collection[str]) -> None:
        """Remove these devices; who is unknown, or a user channel, is no error and stays.

        Their commands end before the records go and once more after it: before it, so that a crash
        leaves nothing open that nobody can name any more (a stub has no serial number); after it,
        because a command may have been queued in between. Later ones find the device removed."""
        devices = set(udids)
        if serial_numbers:
            query = DeviceQuery(serial_numbers=sorted(serial_numbers))
            devices |= {found.device for found in await self._enrollments.devices(query)}
        known = await self._targets.devices(devices)
        devices -= {id_ for id_, found in known.items() if not found.key.is_device_channel}
        if not devices:
            return
        await self._end_commands(devices)
        removed = await self._enrollments.remove(devices)
        await self._end_commands(devices)
        log.info("devices_removed", enrollments=removed)

    async def _end_commands(self, devices: Collection[str]) -> None:
        waiting = await self._queue.open_of_devices(devices)
        channels = {(p.enrollment, p.device) for places in waiting.values() for p in places}
        if channels:
            await self._queue.cancel([EnrollmentKey(id_, device) for id_, device in channels])

    async def block(self, name: str, *, blocked: bool) -> None:
        """Block or unblock a device; raises NotFound where there is none of that name."""
        target = await self._targets.one(name)
        if not target.is_known or not target.key.is_device_channel:
            raise NotFound(f"udid: no device {name} is enrolled")
        if not await self._enrollments.block(target.key.device, blocked):
            raise NotFound(f"udid: no device {name} is enrolled")
        log.info("device_block_changed", device=target.key.device, blocked=blocked)
