"""Devices as API clients look at them: listed in pages, one at a time, and what they entrusted to us.

Promises: a token that a device entrusted to us is shown to the scope `admin` only, and every attempt to
read one is in the audit log, the vain ones too.
"""

import base64
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request

from services.commands.devices import openapi
from services.commands.devices.listing import DeviceFilters, read_page, read_users
from services.commands.devices.schemas import described, shown
from services.commands.queue.targets import Targets
from shared.domain.access import Scope
from shared.domain.errors import NotFound
from shared.ports.devices import Devices
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth

UNLOCK_TOKEN, BOOTSTRAP_TOKEN = "unlock_token", "bootstrap_token"


@dataclass(frozen=True, slots=True)
class DeviceParts:
    """What these routes hand their work to."""

    devices: Devices
    targets: Targets

    async def named(self, name: str) -> str:
        """The id of the device that goes by this name, or whose user does; raises NotFound, and
        Conflict where several do."""
        target = await self.targets.one(name)
        if not target.is_known:
            raise NotFound(f"udid: no device {name} is enrolled")
        return target.key.device


def device_routes(parts: DeviceParts, auth: ApiAuth) -> APIRouter:
    """GET /v1/devices and what is below it."""
    routes = auth.router(tags=["devices"])
    _add_list(routes, parts, auth)
    for name, text in ((UNLOCK_TOKEN, "unlock token"), (BOOTSTRAP_TOKEN, "bootstrap token")):
        _add_secret(routes, parts, auth, name=name, text=text)
    return routes


def _add_list(routes: APIRouter, parts: DeviceParts, auth: ApiAuth) -> None:
    @routes.get(
        "/v1/devices",
        dependencies=[auth.needs(Scope.READ)],
        operation_id="page_devices",
        summary="List devices in pages",
        responses=openapi.LIST,
    )
    async def get_devices(filters: Annotated[DeviceFilters, Query()]) -> JsonAnswer:
        """By id. Go on with `next_cursor` as `cursor`, beside the same filters, until it is null."""
        page = await read_page(parts.devices, filters.query())
        devices = [shown(device) for device in page.devices]
        return JsonAnswer({"devices": devices, "next_cursor": page.next_cursor})

    @routes.get(
        "/v1/devices/{udid}",
        dependencies=[auth.needs(Scope.READ)],
        summary="One device with its user channels",
        responses=openapi.ONE,
    )
    async def get_device(
        udid: str,
        cursor: Annotated[
            str | None, Query(description="`next_cursor` of the answer before.")
        ] = None,
    ) -> JsonAnswer:
        """By UDID, EnrollmentID, serial number or the UserID of one of its users. It shows up to 100 user
        channels by id; `next_cursor` as `cursor` leads to the next ones, until it is null."""
        id_ = await parts.named(udid)
        device = (await parts.targets.devices([id_])).get(id_)
        if device is None:
            raise NotFound(f"udid: no device {udid} is enrolled")
        users = await read_users(parts.devices, id_, cursor)
        return JsonAnswer(described(device, users.devices, users.next_cursor))


def _add_secret(
    routes: APIRouter, parts: DeviceParts, auth: ApiAuth, *, name: str, text: str
) -> None:
    @routes.get(
        f"/v1/devices/{{udid}}/{name}",
        dependencies=[auth.needs(Scope.ADMIN, audit=f"device.read_{name}")],
        operation_id=f"read_{name}",
        summary=f"The {text} that a device entrusted to the server",
        responses=openapi.secret(name),
    )
    async def read_secret(request: Request, udid: str) -> JsonAnswer:
        """Base64. 404 when the device never sent one, or took it back. Each call is audited."""
        device = await parts.named(udid)
        describe(request, dict.fromkeys([device, udid]))
        secret: bytes | None = getattr(await parts.devices.secrets(device), name)
        if secret is None:
            raise NotFound(f"{name}: the device {device} has none")
        return JsonAnswer({"udid": device, name: base64.b64encode(secret).decode()})
