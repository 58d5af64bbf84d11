"""What became of commands: one looked up, many listed, one cancelled.

Promises: what is shown is how it stands; a cancelled command is never sent again, and the
answer says whether its device has had it before.
"""

from dataclasses import dataclass

from fastapi import APIRouter, Request

from services.commands import openapi
from services.commands.history import openapi as life_openapi
from services.commands.history.cancel import QueueLife
from services.commands.history.list_request import cursor, read_list_request
from services.commands.history.listing import EntryList
from services.commands.history.lookup import CommandLookup
from services.commands.history.schemas import shown_entry
from services.commands.queue.targets import Targets
from services.commands.submit.service import Waits
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth


@dataclass(frozen=True, slots=True)
class LifeParts:
    """What these routes hand their work to."""

    lookup: CommandLookup
    listing: EntryList
    life: QueueLife
    targets: Targets
    waits: Waits


def add_life(routes: APIRouter, parts: LifeParts, auth: ApiAuth) -> None:
    """Add the routes to a router of the API."""
    _add_list(routes, parts, auth)
    _add_one(routes, parts, auth)


def _add_list(routes: APIRouter, parts: LifeParts, auth: ApiAuth) -> None:
    @routes.get(
        "/v1/commands",
        dependencies=[auth.needs(Scope.READ)],
        tags=["commands"],
        summary="List commands, newest first",
        responses=life_openapi.LIST,
        openapi_extra=life_openapi.LIST_PARAMETERS,
    )
    async def list_commands(request: Request) -> JsonAnswer:
        """Of all devices and users, open and finished. Go on with `next_cursor` as `cursor`, beside
        the same filters, until it is null."""
        asked = read_list_request(request.query_params)
        query = asked.query
        if asked.udid is not None:
            target = await parts.targets.one(asked.udid)
            query = query.of(target.key.id)
        page = await parts.listing.page(query)
        return JsonAnswer(
            {
                "commands": [shown_entry(entry) for entry in page.entries],
                "next_cursor": None if page.next is None else cursor(page.next),
            }
        )


def _add_one(routes: APIRouter, parts: LifeParts, auth: ApiAuth) -> None:
    @routes.get(
        "/v1/commands/{udid}/{command_uuid}",
        dependencies=[auth.needs(Scope.READ)],
        tags=["commands"],
        summary="One command: its state, times, pushes and answer",
        responses=life_openapi.ONE,
        openapi_extra={"parameters": [openapi.WAIT]},
    )
    async def get_command(request: Request, udid: str, command_uuid: str) -> JsonAnswer:
        """`answer` is what the device said last, as JSON and raw; null while it has said nothing,
        and when the event has left the journal (MDM_EVENT_RETENTION). What unlocks a device or an app
        (docs/api-access.md) is in it for the scope `admin` only."""
        view = await parts.waits.view(request, udid, command_uuid)
        return JsonAnswer(view.shown_to(request.state.caller))

    @routes.delete(
        "/v1/commands/{udid}/{command_uuid}",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.cancel")],
        tags=["commands"],
        summary="Cancel one command",
        responses=life_openapi.CANCEL,
    )
    async def cancel_command(request: Request, udid: str, command_uuid: str) -> JsonAnswer:
        """It is never handed out again. With `handed_out` true the device has had it and may carry it
        out all the same; what it reports then is kept as `late_answer`."""
        entry = await parts.lookup.entry(udid, command_uuid)
        describe(request, [entry.enrollment], entry.request_type)
        view = await parts.lookup.view(await parts.life.cancel(entry))
        return JsonAnswer(view.shown_to(request.state.caller))
