"""Commands in queues and after: listed, looked up, cancelled; queues shown and cleared.

Promises: a command is shown as it is now; a cancelled one is never sent again, and the answer says
whether its device has had it before.
"""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request

from services.commands.history.cancel import OpenCommands
from services.commands.history.listing import EntryList
from services.commands.history.long_poll import NAME, LongPoll, read_wait
from services.commands.history.lookup import CommandLookup
from services.commands.history.requests import CommandFilters, write_position
from services.commands.history.schemas import (
    CommandOut,
    CommandPage,
    QueueOut,
    entry_out,
    open_command_out,
    shown_to,
)
from services.commands.queue.targets import Targets
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import WAIT, Nothing, errors, ok
from shared.web.body import until_gone


def list_routes(listing: EntryList, targets: Targets, auth: ApiAuth) -> APIRouter:
    """GET /v1/commands."""
    routes = auth.router(tags=["commands"])

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
        entries, following = await listing.page(filters.query(target.key.id if target else None))
        content: CommandPage = {
            "commands": [entry_out(entry) for entry in entries],
            "next_cursor": None if following is None else write_position(following),
        }
        return JsonAnswer(content)

    return routes


def history_routes(
    lookup: CommandLookup, open_commands: OpenCommands, poll: LongPoll, auth: ApiAuth
) -> APIRouter:
    """GET and DELETE below /v1/commands."""
    routes = auth.router(tags=["commands"])

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
        caller = request.state.caller
        within = read_wait(request.query_params.get(NAME), poll.longest)
        if within is not None:
            with poll.slot(caller.name):
                entry = await lookup.entry(udid, command_uuid)
                if not entry.state.is_final:
                    await poll.final(entry.id, within, partial(until_gone, request))
        return JsonAnswer(
            shown_to(caller, await lookup.show(await lookup.entry(udid, command_uuid)))
        )

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
        entry = await lookup.entry(udid, command_uuid)
        describe(request, [entry.enrollment], entry.request_type)
        cancelled = await lookup.show(await open_commands.cancel(entry))
        return JsonAnswer(shown_to(request.state.caller, cancelled))

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
        commands = [open_command_out(each, is_whole) for each in await open_commands.of(udid)]
        return JsonAnswer({"commands": commands} if commands else {})

    @routes.delete(
        "/v1/commands/{udid}",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.clear")],
        summary="Clear the queue of a device or user",
        responses=ok(Nothing, "Done.") | errors(409),
    )
    async def delete_queue(udid: str) -> JsonAnswer:
        """Ends all open commands, those handed out and not answered included."""
        await open_commands.clear(udid)
        return JsonAnswer({})

    return routes
