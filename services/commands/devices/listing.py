"""Pages of devices: the query string, the cursor, and how a page is read.

Promises: pages hold every device that stays exactly once, by id, whoever comes and goes meanwhile; a
cursor is text that clients hand back as they got it.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.apple.values.scalars import query_moment
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import unfit
from shared.ports.devices import DeviceFilter, Devices
from shared.web.api.cursor import EXPECTED, read_cursor, write_cursor

MOST = 1000
USERS_SHOWN = 100
LONGEST = 256
"""Characters of a filter, as of an identifier."""
_TIME = "a date with an offset as in RFC 3339 (2024-10-21T07:00:00Z)"


class DeviceFilters(BaseModel):
    """Which devices; several conditions must all hold."""

    udid: str | None = Field(
        None, max_length=LONGEST, description="A UDID, or the EnrollmentID of a user enrollment."
    )
    serial_number: str | None = Field(None, max_length=LONGEST)
    status: Literal["authenticated", "enrolled", "checked_out"] | None = None
    model: str | None = Field(None, max_length=LONGEST, description="As the device sent it.")
    os_version: str | None = Field(None, max_length=LONGEST)
    blocked: bool | None = None
    quarantined: bool | None = Field(
        None, description="Asks in vain, since its certificate is not the one that is bound to it."
    )
    migrating: bool | None = Field(
        None, description="Came by PUT /migration, and has shown no certificate yet."
    )
    last_seen_after: str | None = Field(
        None, description="Seen then or later, RFC 3339; leaves out who was never seen."
    )
    last_seen_before: str | None = Field(
        None, description="Seen, and earlier than that, RFC 3339; leaves out who was never seen."
    )
    limit: int = Field(100, ge=1, le=MOST)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")

    def query(self) -> DeviceFilter:
        """Raises BadRequest."""
        return DeviceFilter(
            limit=self.limit,
            after=_read_cursor(self.cursor),
            id=_text("udid", self.udid),
            serial_number=_text("serial_number", self.serial_number),
            status=EnrollmentStatus(self.status) if self.status else None,
            model=_text("model", self.model),
            os_version=_text("os_version", self.os_version),
            blocked=self.blocked,
            quarantined=self.quarantined,
            migrating=self.migrating,
            seen_since=_time("last_seen_after", self.last_seen_after),
            seen_before=_time("last_seen_before", self.last_seen_before),
        )


@dataclass(frozen=True, slots=True)
class DevicePage:
    """`next_cursor` is None where the list ends."""

    devices: list[Enrollment]
    next_cursor: str | None


async def read_page(devices: Devices, query: DeviceFilter) -> DevicePage:
    """The next page; its cursor is there only if something follows."""
    return _page(await devices.page(replace(query, limit=query.limit + 1)), query.limit)


async def read_users(devices: Devices, device: str, cursor: str | None) -> DevicePage:
    """The next page of the user channels of a device."""
    found = await devices.users(device, USERS_SHOWN + 1, _read_cursor(cursor))
    return _page(found, USERS_SHOWN)


def _page(found: list[Enrollment], limit: int) -> DevicePage:
    page = found[:limit]
    return DevicePage(page, write_cursor(page[-1].id) if len(found) > limit else None)


def _read_cursor(given: str | None) -> str | None:
    if not given:
        return None
    device = read_cursor(given)
    if not device:
        raise unfit("cursor", EXPECTED)
    return device


def _text(name: str, given: str | None) -> str | None:
    if given and not given.isprintable():
        raise unfit(name, "no control characters")
    return given or None


def _time(name: str, given: str | None) -> datetime | None:
    if not given:
        return None
    found = query_moment(given)
    if found is None:
        raise unfit(name, _TIME)
    return found
