"""/v1/devices and most of what is below it.

Promise: a token that a device entrusted to us is shown to the scope `admin` only, and every attempt to
read one is in the audit log.
"""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from services.commands.devices.requests import (
    DeviceFilters,
    DeviceListRequest,
    RemovalRequest,
    device_behind,
)
from services.commands.devices.schemas import (
    BootstrapTokenOut,
    DeviceDetails,
    DeviceList,
    DevicePage,
    UnlockTokenOut,
    device_details,
    device_out,
)
from services.commands.devices.service import DeviceInventory
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import Nothing, body, errors, ok
from shared.web.api.requests import Parsing

TAG = {"name": "devices", "description": "List, remove and block devices."}


def device_routes(inventory: DeviceInventory, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["devices"])
    parsing = Parsing()

    @routes.post(
        "/v1/devices",
        dependencies=[auth.needs(Scope.READ)],
        summary="List devices",
        responses=ok(
            DeviceList, "Devices by id. A user enrollment has an empty `udid`, and `enrollment_id`."
        )
        | errors(400, 413),
        openapi_extra=body(DeviceListRequest),
    )
    async def list_devices(request: Request) -> JsonAnswer:
        """An empty body lists all."""
        asked = await parsing.read(request, DeviceListRequest)
        devices = await inventory.list(asked.query())
        return JsonAnswer({"devices": list(map(device_out, devices))})

    @routes.delete(
        "/v1/devices",
        dependencies=[auth.needs(Scope.ADMIN, audit="device.remove")],
        summary="Remove devices",
        responses=ok(Nothing, "Done.") | errors(400, 413),
        openapi_extra=body(RemovalRequest),
    )
    async def delete_devices(request: Request) -> JsonAnswer:
        """Their records go and their commands end; who is unknown is no error. A device that is
        still enrolled comes back with its next message."""
        udids, serials = (await parsing.read(request, RemovalRequest)).names()
        describe(request, (*udids, *serials))
        await inventory.remove(udids, serials)
        return JsonAnswer({})

    @routes.get(
        "/v1/devices",
        dependencies=[auth.needs(Scope.READ)],
        operation_id="page_devices",
        summary="List devices in pages",
        responses=ok(DevicePage, "Devices by id. `next_cursor` leads on; null: there are no more.")
        | errors(400),
    )
    async def get_devices(filters: Annotated[DeviceFilters, Query()]) -> JsonAnswer:
        """By id. Go on with `next_cursor` as `cursor`, beside the same filters, until it is null."""
        found, cursor = await inventory.page(filters.query())
        return JsonAnswer({"devices": list(map(device_out, found)), "next_cursor": cursor})

    @routes.get(
        "/v1/devices/{udid}",
        dependencies=[auth.needs(Scope.READ)],
        summary="One device with its user channels",
        responses=ok(DeviceDetails, "The device, and its user channels.") | errors(400, 404, 409),
    )
    async def get_device(
        udid: str,
        cursor: str | None = Query(None, description="`next_cursor` of the answer before."),
    ) -> JsonAnswer:
        """By UDID, EnrollmentID, serial number or the UserID of one of its users. It shows up to 100 user
        channels by id; `next_cursor` as `cursor` leads to the next ones, until it is null."""
        device = await inventory.one(udid)
        users, following = await inventory.users(device.id, device_behind(cursor))
        return JsonAnswer(device_details(device, users, following))

    for blocked in (True, False):
        _add_block(routes, inventory, auth, blocked=blocked)
    for name, model in (("unlock_token", UnlockTokenOut), ("bootstrap_token", BootstrapTokenOut)):
        _add_secret(routes, inventory, auth, name=name, model=model)
    return routes


def _add_block(
    routes: APIRouter, inventory: DeviceInventory, auth: ApiAuth, *, blocked: bool
) -> None:
    action = "block" if blocked else "unblock"

    @routes.post(
        f"/v1/devices/{{udid}}/{action}",
        dependencies=[auth.needs(Scope.ADMIN, audit=f"device.{action}")],
        operation_id=f"{action}_device",
        summary=f"{action.capitalize()} a device",
        responses=ok(Nothing, "Done.") | errors(404, 409),
    )
    async def set_blocked(udid: str) -> JsonAnswer:
        """A blocked device hears 401 when it asks for commands, which makes it unenroll."""
        await inventory.block(udid, blocked=blocked)
        return JsonAnswer({})


def _add_secret(
    routes: APIRouter, inventory: DeviceInventory, auth: ApiAuth, *, name: str, model: Any
) -> None:
    text = name.replace("_", " ")

    @routes.get(
        f"/v1/devices/{{udid}}/{name}",
        dependencies=[auth.needs(Scope.ADMIN, audit=f"device.read_{name}")],
        operation_id=f"read_{name}",
        summary=f"The {text} that a device entrusted to the server",
        responses=ok(model, "The token, base64.") | errors(400, 404, 409),
    )
    async def read_secret(request: Request, udid: str) -> JsonAnswer:
        """Base64. 404 when the device never sent one, or took it back. Each call is audited."""
        device = await inventory.id_of(udid)
        describe(request, dict.fromkeys([device, udid]))
        secret = await inventory.secret(device, name)
        return JsonAnswer({"udid": device, name: base64.b64encode(secret).decode()})
