"""Routes that queue commands, and the catalogue of what can be queued. Parse, call, answer.

Promises: MicroMDM's paths, bodies and answers; JSON under any Content-Type. The catalogue has the same facts
as OpenAPI and docs/commands.md, because they come from the same source.
"""

from collections.abc import Mapping

from fastapi import APIRouter, Request

from services.commands.submit.idempotency import noted, uuid_maker
from services.commands.submit.schemas import (
    RAW_BODY,
    JobStarted,
    QueuedCommand,
    QueuedPlist,
    RequestTypeList,
    RequestTypeOut,
    command_body,
)
from services.commands.submit.service import Posting
from services.commands.submit.stored_unlock import (
    AUDITED,
    StoredUnlockToken,
    may_lack_token,
    without_token,
)
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.catalogue.description import description, summary
from shared.apple.request.plist import PreparedCommand
from shared.apple.request.read_json import parse_json
from shared.domain.access import Scope
from shared.domain.errors import NotFound
from shared.ports.clock import Ids
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import Responses, errors, ok
from shared.web.api.requests import SMALL, Parsing

TAG = {"name": "commands", "description": "Queue commands for devices, see and clear their queues."}


def submit_routes(
    catalogue: CommandCatalogue,
    posting: Posting,
    ids: Ids,
    unlock: StoredUnlockToken,
    auth: ApiAuth,
) -> APIRouter:
    """POST and PUT below /v1/commands, and /v1/request_types."""
    routes = auth.router(tags=["commands"])
    parsing = Parsing()
    job = ok(
        JobStarted,
        "With `udids`: the job is stored, and goes on; 201 with the same content when it is finished.",
        202,
        job={"state": "running", "queued": 0, "finished_at": None},
    )

    @routes.post(
        "/v1/commands",
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.queue")],
        status_code=201,
        summary="Queue a command",
        responses=_queued(QueuedCommand) | job,
        openapi_extra=command_body(catalogue.openapi_schema()),
    )
    async def post_command(request: Request) -> JsonAnswer:
        """The keys are Apple's in snake_case, at the top; or Apple's own in `Command`. A
        `command_uuid` of your own, or an `Idempotency-Key`, makes the request safe to repeat. With
        `udids` it is a job: the answer comes once it is finished, 202 if that takes long."""
        new_uuid = uuid_maker(request, request.state.caller.name, ids.new)
        body = await posting.sizes.read_json(request)

        def prepared(body: Mapping[str, object]) -> PreparedCommand:
            return noted(catalogue.prepare(body, new_uuid), request, new_uuid)

        completed = None
        if len(body) <= SMALL and may_lack_token(body):
            completed = await unlock.completed(parse_json(body), request.state.caller)
        if completed is None:
            command = await parsing.of(lambda body: prepared(parse_json(body)), body)
            return await posting.queue(request, command)
        command = prepared(completed)
        try:
            return await posting.queue(request, without_token(command))
        finally:
            describe(request, command.targets, AUDITED)

    async def post_raw(request: Request, udid: str) -> JsonAnswer:
        """A property list with `CommandUUID` and `Command`; it is delivered byte for byte. Its
        CommandUUID makes it safe to repeat, so an `Idempotency-Key` is not looked at."""
        plist = await posting.sizes.read_plist(request)

        def prepared(plist: bytes) -> PreparedCommand:
            return catalogue.prepare_raw(udid, plist, request.query_params)

        return await posting.queue(request, await parsing.of(prepared, plist))

    for method in ("POST", "PUT"):
        routes.add_api_route(
            "/v1/commands/{udid}",
            post_raw,
            methods=[method],
            dependencies=[auth.needs(Scope.COMMANDS, audit="command.queue")],
            status_code=201,
            operation_id=f"queue_raw_{method.lower()}",
            summary="Queue a command as a property list",
            responses=_queued(QueuedPlist),
            openapi_extra=RAW_BODY,
        )
    _add_catalogue(routes, catalogue, auth)
    return routes


def _queued(model: type) -> Responses:
    again = "It is queued already, or the device has just answered it: a safe retry."
    return (
        ok(model, again)
        | ok(model, "Stored durably, and queued.", 201)
        | errors(400, 404, 409, 413)
    )


def _add_catalogue(routes: APIRouter, catalogue: CommandCatalogue, auth: ApiAuth) -> None:
    summaries = [summary(form) for form in catalogue.forms.values()]
    descriptions = {name: description(form) for name, form in catalogue.forms.items()}

    @routes.get(
        "/v1/request_types",
        dependencies=[auth.needs(Scope.READ)],
        summary="List the commands that can be queued as JSON",
        responses=ok(RequestTypeList, "All commands, by name.") | errors(400),
    )
    async def list_request_types() -> JsonAnswer:
        """What Apple published in one release of its schema; `systems` says where each works. A
        command that is newer can be queued as a property list."""
        return JsonAnswer({"release": catalogue.release, "request_types": summaries})

    @routes.get(
        "/v1/request_types/{name}",
        dependencies=[auth.needs(Scope.READ)],
        summary="One command: its keys, an example, its schema",
        responses=ok(
            RequestTypeOut,
            "Its keys with all that is inside them, an example, and its JSON Schema.",
        )
        | errors(400, 404),
    )
    async def get_request_type(name: str) -> JsonAnswer:
        """`name` of a key is the spelling of answers, `apple_name` Apple's; both are understood."""
        if name not in descriptions:
            nearest = catalogue.nearest(name)
            hint = f" (nearest: {nearest})" if nearest else ""
            raise NotFound(f"request_type: no command has this name{hint}")
        return JsonAnswer({"release": catalogue.release, **descriptions[name]})
