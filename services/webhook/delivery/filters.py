"""The filters of subscriptions: which events they let through.

Promises: a subscription without filters costs nothing, and one that names devices only costs no read; what
other filters ask for is read from the journal, the records of devices and the queue, and what does not change
is kept. A removed device has the serial number that it had last. An event that the journal does not have
passes, and so does one that cannot be read there.
"""

from collections.abc import Awaitable, Callable

import orjson

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.command import entry_id
from shared.domain.errors import CannotDecrypt, OfNewerVersion
from shared.domain.event import EXTRA_TOPICS, Event
from shared.domain.subscription import EventFilters
from shared.ports.enrollments import Enrollments
from shared.ports.queue import CommandQueue

_KEPT = 10_000

Passes = Callable[[EventFilters, str, str], Awaitable[bool]]
"""`Filters.pass_id`."""
ReadEvent = Callable[[str], Awaitable[Event | None]]


class Filters:
    def __init__(self, read: ReadEvent, enrollments: Enrollments, queue: CommandQueue) -> None:
        self._read = read
        self._enrollments = enrollments
        self._queue = queue
        self._serials = BoundedCache[str, frozenset[str]](_KEPT)
        self._request_types = BoundedCache[str, str](_KEPT)

    async def pass_id(self, filters: EventFilters, event_id: str, device: str) -> bool:
        """True if this event of the device passes. Raises Unavailable while it cannot be known."""
        if not filters:
            return True
        if filters.enrollments and not _names(filters, device):
            return False
        is_named = not filters.enrollments or device in filters.enrollments
        if is_named and filters.serial_numbers and not await self._has_serial(filters, device):
            return False
        if is_named and not (filters.statuses or filters.request_types):
            return True
        try:
            event = await self._read(event_id)
            return event is None or await self.pass_event(filters, event)
        except (CannotDecrypt, OfNewerVersion):
            # To wait for what may never be readable would hold up everybody's events.
            return True

    async def pass_event(self, filters: EventFilters, event: Event) -> bool:
        """The same of an event that was read."""
        device = event.key.device
        if filters.enrollments.isdisjoint({device, event.key.id}) and filters.enrollments:
            return False
        if filters.serial_numbers and not await self._has_serial(filters, device):
            return False
        facts = orjson.loads(event.raw_payload) if event.topic in EXTRA_TOPICS else {}
        if filters.statuses and (event.status or facts.get("status")) not in filters.statuses:
            return False
        if not filters.request_types:
            return True
        request_type = facts.get("request_type") or await self._request_type(event)
        return request_type in filters.request_types

    async def _has_serial(self, filters: EventFilters, device: str) -> bool:
        serials = self._serials.get(device)
        if serials is None:
            found = (await self._enrollments.summaries([device])).get(device)
            serials = frozenset[str]() if found is None else found.serial_numbers
            if found is not None and found.inventory.serial_number is not None:
                self._serials.put(device, serials)
        return not serials.isdisjoint(filters.serial_numbers)

    async def _request_type(self, event: Event) -> str | None:
        """Of the command that a device's answer is about."""
        if event.command_uuid is None:
            return None
        id = entry_id(event.key.id, event.command_uuid)
        known = self._request_types.get(id)
        if known is None:
            entry = (await self._queue.entries_of([id])).get(id)
            known = None if entry is None else entry.request_type
            if known is not None:
                self._request_types.put(id, known)
        return known


def _names(filters: EventFilters, device: str) -> bool:
    """True if one of the named enrollments is the device, or a channel of it."""
    return any(each.partition(":")[0] == device for each in filters.enrollments)
