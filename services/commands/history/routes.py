"""Commands in queues and after: listed, looked up, cancelled; queues shown and cleared.

Promises: a command is shown as it stands now; a cancelled one is never sent again, and the answer says
whether its device has had it before.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from services.commands.history.cancel import QueueLife
from services.commands.history.listing import EntryList
from services.commands.history.requests import CommandFilters, write_position
from services.commands.history.schemas import (
    CommandOut,
    CommandPage,
    QueueOut,
    entry_out,
    open_command_out,
)
from services.commands.queue.targets import Targets
from services.commands.submit.service import Waits
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import WAIT, Nothing, errors, ok


def history_routes(
    listing: EntryList, life: QueueLife, targets: Targets, waits: Waits, auth: ApiAuth
) -> APIRouter:
    """GET and DELETE below /v1/commands."""
    routes = auth.router(tags=["commands"])
    _add_queue(routes, life, auth)

    @routes.get(
        "/v1/commands",
        dependencies=[auth.needs(Scope.READ)],
        summary="List commands, newest first",
        responses=ok(
            CommandPage,
            "A page of commands. It may have fewer than `limit` commands, and even none, and go on.",
        )
        | errors(400, 409),
    )
    async def list_commands(filters: Annotated[CommandFilters, Query()]) -> JsonAnswer:
        """Of all devices and users, open and finished. Go on with `next_cursor` as `cursor`, beside
        the same filters, until it is null."""
        target = None if filters.udid is None else await targets.one(filters.udid)
        page = await listing.page(filters.query(target.key.id if target else None))
        content: CommandPage = {
            "commands": [entry_out(entry) for entry in page.entries],
            "next_cursor": None if page.next is None else write_position(page.next),
        }
        return JsonAnswer(content)

    @routes.get(
        "/v1/commands/{udid}/{command_uuid}",
        dependencies=[auth.needs(Scope.READ)],
        summary="One command: its state, times, pushes and answer",
        responses=ok(CommandOut, "How it stands.") | errors(400, 404, 409),
        openapi_extra={"parameters": [WAIT]},
    )
    async def get_command(request: Request, udid: str, command_uuid: str) -> JsonAnswer:
        """`answer` is what the device said last, as JSON and raw; null while it has said nothing,
        and when the event has left the journal (MDM_EVENT_RETENTION). What unlocks a device or an app
        (docs/api-access.md) is in it for the scope `admin` only."""
        view = await waits.view(request, udid, command_uuid)
        return JsonAnswer(view.shown_to(request.state.caller))

    @routes.delete(
        "/v1/commands/{udid}/{command_uuid}",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.cancel")],
        summary="Cancel one command",
        responses=ok(
            CommandOut,
            "It is cancelled; this is how it stands.",
            state="cancelled",
            answered_at=None,
            answer=None,
        )
        | errors(404, 409),
    )
    async def cancel_command(request: Request, udid: str, command_uuid: str) -> JsonAnswer:
        """It is never handed out again. With `handed_out` true the device has had it and may carry it
        out all the same; what it reports then is kept as `late_answer`."""
        entry = await waits.lookup.entry(udid, command_uuid)
        describe(request, [entry.enrollment], entry.request_type)
        view = await waits.lookup.view(await life.cancel(entry))
        return JsonAnswer(view.shown_to(request.state.caller))

    return routes


def _add_queue(routes: APIRouter, life: QueueLife, auth: ApiAuth) -> None:
    @routes.get(
        "/v1/commands/{udid}",
        dependencies=[auth.needs(Scope.READ)],
        summary="The open commands of a device or user",
        responses=ok(
            QueueOut,
            "All open commands, in the order in which the device gets them; `{}` when there are none.",
        )
        | errors(409),
    )
    async def get_queue(request: Request, udid: str) -> JsonAnswer:
        """Queued, handed out without an answer yet, or answered NotNow. `payload` is for the scope
        `admin`: it may unlock the device, or hold a password. Without it there is `request_type`."""
        is_whole = request.state.caller.may(Scope.ADMIN)
        commands = [open_command_out(each, is_whole) for each in await life.open_commands(udid)]
        return JsonAnswer({"commands": commands} if commands else {})

    @routes.delete(
        "/v1/commands/{udid}",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.clear")],
        summary="Clear the queue of a device or user",
        responses=ok(Nothing, "Done.") | errors(409),
    )
    async def delete_queue(udid: str) -> JsonAnswer:
        """Ends all open commands, those handed out and not answered included."""
        await life.clear(udid)
        return JsonAnswer({})
