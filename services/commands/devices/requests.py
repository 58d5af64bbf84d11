"""Requests for devices: bodies as MicroMDM's clients write them, and the filters of our own list."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import unfit
from shared.nearest import nearest
from shared.ports.devices import DeviceFilter
from shared.ports.enrollments import DeviceQuery
from shared.web.api.cursor import EXPECTED, read_cursor
from shared.web.api.openapi import UDID
from shared.web.api.requests import Expected, MicroMdmBody, Moment, printable

MOST_NAMED = 10_000
"""Devices that one request may name under one key."""
LONGEST = 256

Count = Annotated[int, Field(ge=0, lt=2**31), Expected("a whole number from 0 on")]
Name = Annotated[str, AfterValidator(printable), Expected("a string")]
Names = Annotated[
    list[Name], Field(max_length=MOST_NAMED), Expected(f"a list of up to {MOST_NAMED} strings")
]


class DeviceListRequest(MicroMdmBody):
    """An empty list filters nothing."""

    page: Annotated[Count | None, Field(examples=[0])] = None
    per_page: Annotated[Count | None, Field(description="0: all", examples=[100])] = None
    filter_serial: Annotated[Names | None, Field(examples=[["C02W00D3HTD0"]])] = None
    filter_udid: Names | None = None

    @classmethod
    def key_of(cls, name: str) -> str:
        """Raises BadRequest for an unknown filter: a typo that is ignored would mean "all"."""
        known = super().key_of(name)
        filters = ("filter_serial", "filter_udid")
        if known.startswith("filter_") and known not in filters:
            near = nearest(known, filters) or " or ".join(filters)
            raise unfit(known[:80], f"a known filter (nearest: {near})")
        return known

    def query(self) -> DeviceQuery:
        return DeviceQuery(
            page=self.page or 0,
            per_page=self.per_page or 0,
            serial_numbers=self.filter_serial or None,
            udids=self.filter_udid or None,
        )


class NamedDevices(MicroMdmBody):
    udids: Names | None = None
    serials: Names | None = None


class RemovalRequest(NamedDevices):
    """Devices are named in `Opts`, beside it, or both."""

    inner: Annotated[
        Annotated[NamedDevices, Expected("an object")] | None,
        Field(alias="Opts", examples=[{"udids": [UDID]}]),
    ] = None

    @classmethod
    def named(cls, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """A key in `Opts` goes by its own name, as beside it."""
        return loc[1:] if len(loc) > 1 and loc[0] == "Opts" else loc

    def names(self) -> tuple[list[str], list[str]]:
        """UDIDs, and serial numbers."""
        inner = self.inner or NamedDevices()
        udids = [*(self.udids or ()), *(inner.udids or ())]
        return udids, [*(self.serials or ()), *(inner.serials or ())]


Text = Annotated[str | None, Field(max_length=LONGEST), AfterValidator(printable)]


class DeviceFilters(BaseModel):
    """A filter of devices; several conditions must all hold."""

    udid: Text = Field(None, description="A UDID, or the EnrollmentID of a user enrollment.")
    serial_number: Text = None
    status: Literal["authenticated", "enrolled", "checked_out"] | None = None
    model: Text = Field(None, description="As the device sent it.")
    os_version: Text = None
    blocked: bool | None = None
    quarantined: bool | None = Field(
        None, description="Asks in vain, since its certificate is not the one that is bound to it."
    )
    migrating: bool | None = Field(
        None, description="Came by PUT /migration, and has shown no certificate yet."
    )
    last_seen_after: Moment = Field(
        None, description="Seen then or later, RFC 3339; leaves out who was never seen."
    )
    last_seen_before: Moment = Field(
        None, description="Seen, and earlier than that, RFC 3339; leaves out who was never seen."
    )
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")

    def query(self) -> DeviceFilter:
        """Raises BadRequest."""
        return DeviceFilter(
            limit=self.limit,
            after=device_behind(self.cursor),
            id=self.udid or None,
            serial_number=self.serial_number or None,
            status=EnrollmentStatus(self.status) if self.status else None,
            model=self.model or None,
            os_version=self.os_version or None,
            blocked=self.blocked,
            quarantined=self.quarantined,
            migrating=self.migrating,
            seen_since=self.last_seen_after,
            seen_before=self.last_seen_before,
        )


def device_behind(cursor: str | None) -> str | None:
    """The id behind which a page begins. Raises BadRequest."""
    if not cursor:
        return None
    if device := read_cursor(cursor):
        return device
    raise unfit("cursor", EXPECTED)
