"""What API clients call: commands, queues, devices. Parse, call, answer.

Promises: MicroMDM's paths, bodies and answers; JSON under any Content-Type; every route names
the scope it needs. Errors are raised, and answered in one place (`shared.web.problems`).
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request

from services.commands import openapi
from services.commands.devices import openapi as device_openapi
from services.commands.devices.requests import read_query, read_removal
from services.commands.devices.schemas import shown
from services.commands.devices.service import DeviceInventory
from services.commands.history.cancel import QueueLife
from services.commands.jobs import openapi as job_openapi
from services.commands.submit.catalogue_routes import add_request_types
from services.commands.submit.idempotency import noted, uuid_maker
from services.commands.submit.service import Posting
from services.commands.submit.stored_unlock import (
    AUDITED,
    StoredUnlockToken,
    may_lack_token,
    without_token,
)
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.request.plist import PreparedCommand
from shared.apple.request.read_json import parse_json
from shared.domain.access import Scope
from shared.domain.command import Command
from shared.ports.clock import Ids
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import SMALL, Parsing
from shared.web.body import JSON_LIMIT, read_body


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes hand their work to."""

    catalogue: CommandCatalogue
    posting: Posting
    life: QueueLife
    inventory: DeviceInventory
    ids: Ids
    unlock: StoredUnlockToken


def router(parts: Parts, auth: ApiAuth) -> APIRouter:
    """The routes of the commands service."""
    routes = auth.router()
    _add_commands(routes, parts, auth)
    _add_queues(routes, parts, auth)
    _add_devices(routes, parts, auth)
    add_request_types(routes, parts.catalogue, auth)
    return routes


def _add_commands(routes: APIRouter, parts: Parts, auth: ApiAuth) -> None:
    schema = parts.catalogue.openapi_schema()
    parsing = Parsing()

    @routes.post(
        "/v1/commands",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.queue")],
        status_code=201,
        tags=["commands"],
        summary="Queue a command",
        responses=openapi.POST_COMMAND | job_openapi.STARTED,
        openapi_extra=openapi.command_body(schema),
    )
    async def post_command(request: Request) -> JsonAnswer:
        """The keys are Apple's in snake_case, at the top; or Apple's own in `Command`. A
        `command_uuid` of your own, or an `Idempotency-Key`, makes the request safe to repeat. With
        `udids` it is a job: the answer comes once it is finished, 202 if that takes long."""
        new_uuid = uuid_maker(request, request.state.caller.name, parts.ids.new)
        body = await parts.posting.sizes.read_json(request)

        def prepared(body: Mapping[str, object]) -> PreparedCommand:
            return noted(parts.catalogue.prepare(body, new_uuid), request, new_uuid)

        completed = await _completed(parts, request, body)
        if completed is None:
            command = await parsing.of(lambda body: prepared(parse_json(body)), body)
            return await parts.posting.queue(request, command)
        return await _queue_completed(parts, request, prepared(completed))

    async def post_raw(request: Request, udid: str) -> JsonAnswer:
        """A property list with `CommandUUID` and `Command`; it is delivered byte for byte. Its
        CommandUUID makes it safe to repeat, so an `Idempotency-Key` is not looked at."""
        plist = await parts.posting.sizes.read_plist(request)

        def prepared(plist: bytes) -> PreparedCommand:
            return parts.catalogue.prepare_raw(udid, plist, request.query_params)

        return await parts.posting.queue(request, await parsing.of(prepared, plist))

    for method in ("POST", "PUT"):
        routes.add_api_route(
            "/v1/commands/{udid}",
            post_raw,
            methods=[method],
            dependencies=[auth.needs(Scope.COMMANDS, audit="command.queue")],
            status_code=201,
            tags=["commands"],
            operation_id=f"queue_raw_{method.lower()}",
            summary="Queue a command as a property list",
            responses=openapi.POST_RAW,
            openapi_extra=openapi.RAW_BODY,
        )


async def _completed(parts: Parts, request: Request, body: bytes) -> dict[str, object] | None:
    """The request with what it leaves out; None for nearly all requests."""
    if len(body) > SMALL or not may_lack_token(body):
        return None
    return await parts.unlock.completed(parse_json(body), request.state.caller)


async def _queue_completed(parts: Parts, request: Request, prepared: PreparedCommand) -> JsonAnswer:
    try:
        return await parts.posting.queue(request, without_token(prepared))
    finally:
        describe(request, prepared.targets, AUDITED)


def _add_queues(routes: APIRouter, parts: Parts, auth: ApiAuth) -> None:
    @routes.get(
        "/v1/commands/{udid}",
        dependencies=[auth.needs(Scope.READ)],
        tags=["commands"],
        summary="The open commands of a device or user",
        responses=openapi.GET_QUEUE,
    )
    async def get_queue(request: Request, udid: str) -> JsonAnswer:
        """Queued, handed out without an answer yet, or answered NotNow. `payload` is for the scope
        `admin`: it may unlock the device, or hold a password. Without it there is `request_type`."""
        show = _whole if request.state.caller.may(Scope.ADMIN) else _named
        commands = [show(command) for command in await parts.life.open_commands(udid)]
        return JsonAnswer({"commands": commands} if commands else {})

    @routes.delete(
        "/v1/commands/{udid}",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.clear")],
        tags=["commands"],
        summary="Clear the queue of a device or user",
        responses=openapi.DELETE_QUEUE,
    )
    async def delete_queue(udid: str) -> JsonAnswer:
        """Ends all open commands, those handed out and not answered included."""
        await parts.life.clear(udid)
        return JsonAnswer({})


def _whole(command: Command) -> dict[str, str]:
    return {"uuid": command.uuid, "payload": base64.b64encode(command.plist).decode()}


def _named(command: Command) -> dict[str, str]:
    return {"uuid": command.uuid, "request_type": command.request_type}


def _add_devices(routes: APIRouter, parts: Parts, auth: ApiAuth) -> None:
    parsing = Parsing()

    @routes.post(
        "/v1/devices",
        dependencies=[auth.needs(Scope.READ)],
        tags=["devices"],
        summary="List devices",
        responses=device_openapi.LIST_ALL,
        openapi_extra=openapi.LIST_BODY,
    )
    async def list_devices(request: Request) -> JsonAnswer:
        """An empty body lists all."""
        query = await parsing.of(read_query, await read_body(request, JSON_LIMIT))
        devices = await parts.inventory.list(query)
        return JsonAnswer({"devices": [shown(device) for device in devices]})

    @routes.delete(
        "/v1/devices",
        dependencies=[auth.needs(Scope.ADMIN, audit="device.remove")],
        tags=["devices"],
        summary="Remove devices",
        responses=openapi.DELETE_DEVICES,
        openapi_extra=openapi.REMOVAL_BODY,
    )
    async def delete_devices(request: Request) -> JsonAnswer:
        """Their records go and their commands end; who is unknown is no error. A device that is
        still enrolled comes back with its next message."""
        removal = await parsing.of(read_removal, await read_body(request, JSON_LIMIT))
        describe(request, (*removal.udids, *removal.serial_numbers))
        await parts.inventory.remove(removal.udids, removal.serial_numbers)
        return JsonAnswer({})

    for blocked in (True, False):
        _add_block(routes, parts, auth, blocked=blocked)


def _add_block(routes: APIRouter, parts: Parts, auth: ApiAuth, *, blocked: bool) -> None:
    action = "block" if blocked else "unblock"

    @routes.post(
        f"/v1/devices/{{udid}}/{action}",
        dependencies=[auth.needs(Scope.ADMIN, audit=f"device.{action}")],
        tags=["devices"],
        operation_id=f"{action}_device",
        summary=f"{action.capitalize()} a device",
        responses=openapi.BLOCK,
    )
    async def set_blocked(udid: str) -> JsonAnswer:
        """A blocked device hears 401 when it asks for commands, which makes it unenroll."""
        await parts.inventory.block(udid, blocked=blocked)
        return JsonAnswer({})
