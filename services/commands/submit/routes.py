"""Routes that queue commands, and the catalogue of what can be queued.

Promises: MicroMDM's paths, bodies and answers; JSON under any Content-Type.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request

from services.commands.history.long_poll import NAME as WAIT
from services.commands.submit.schemas import (
    RAW_BODY,
    JobStarted,
    QueuedCommand,
    QueuedPlist,
    RequestTypeList,
    RequestTypeOut,
    command_body,
)
from services.commands.submit.service import (
    IDEMPOTENCY_KEY,
    SIZE_SETTING,
    SubmitService,
    uuid_by_key,
)
from services.commands.submit.stored_unlock import (
    AUDITED,
    CLEAR_PASSCODE,
    StoredUnlockToken,
    without_token,
)
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.catalogue.description import description, summary
from shared.apple.request.plist import PreparedCommand, prepare_raw
from shared.apple.request.read_json import parse_json
from shared.domain.access import Scope
from shared.domain.errors import NotFound, TooLarge
from shared.nearest import nearest
from shared.ports.clock import Ids
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import Responses, Said, errors, ok
from shared.web.api.requests import SMALL, Parsing
from shared.web.api.route import DirectApiRoute, refuse_unknown
from shared.web.body import read_body, until_gone

TAG = {"name": "commands", "description": "Queue commands for devices, see and clear their queues."}
_QUERY = frozenset({WAIT})
_NO_SUCH_COMMAND: Said = {
    404: ("No such command.", "request_type: no command has this name (nearest: DeviceLock)")
}


def submit_routes(
    catalogue: CommandCatalogue,
    service: SubmitService,
    ids: Ids,
    unlock: StoredUnlockToken,
    auth: ApiAuth,
) -> APIRouter:
    routes = auth.router(tags=["commands"])
    parsing = Parsing()
    job = ok(
        JobStarted,
        "With `udids`: the job is stored, and goes on; 201 with the same content when it is finished.",
        202,
        job={"state": "running", "queued": 0, "finished_at": None},
    )

    async def post_command(request: Request) -> JsonAnswer:
        """The keys are Apple's in snake_case, at the top; or Apple's own in `Command`. A
        `command_uuid` of your own, or an `Idempotency-Key`, makes the request safe to repeat. With
        `udids` it is a job: the answer comes once it is finished, 202 if that takes long."""
        _refuse_query(request)
        caller = request.state.caller
        by_key = uuid_by_key(request.headers.getlist(IDEMPOTENCY_KEY), caller.name)
        body = await _read(request, json_limit(service.max_size))

        def prepared(body: Mapping[str, object]) -> PreparedCommand:
            made = catalogue.prepare(body, (lambda: by_key) if by_key else ids.new)
            return replace(made, is_by_key=True) if made.command.uuid == by_key else made

        completed = None
        if len(body) <= SMALL and CLEAR_PASSCODE in body:
            completed = await unlock.completed(parse_json(body), caller)
        if completed is None:
            command = await parsing.of(lambda body: prepared(parse_json(body)), body)
            return await _submit(service, request, command)
        command = prepared(completed)
        try:
            return await _submit(service, request, without_token(command))
        finally:
            describe(request, command.targets, AUDITED)

    routes.add_api_route(
        "/v1/commands",
        post_command,
        methods=["POST"],
        dependencies=[auth.needs(Scope.COMMANDS, audit="command.queue")],
        status_code=201,
        summary="Queue a command",
        responses=_queued(QueuedCommand) | job,
        openapi_extra=command_body(catalogue.openapi_schema()),
        route_class_override=DirectApiRoute,
    )

    async def post_raw(request: Request, udid: str) -> JsonAnswer:
        """A property list with `CommandUUID` and `Command`; it is delivered byte for byte. Its
        CommandUUID makes it safe to repeat, so an `Idempotency-Key` is not looked at."""
        plist = await _read(request, service.max_size)

        def prepared(plist: bytes) -> PreparedCommand:
            return prepare_raw(udid, plist, request.query_params)

        return await _submit(service, request, await parsing.of(prepared, plist))

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


def _refuse_query(request: Request) -> None:
    """Raises BadRequest for a term in the query, where it would be lost: a command that is to live for a
    second would wait without end."""
    # Most requests have no query, and to read none costs as much as a key's check.
    if request.scope["query_string"]:
        refuse_unknown(request.query_params, _QUERY, "; all else goes into the body")


def json_limit(max_size: int) -> int:
    """Bytes of a request in JSON whose command may be so large: it has profiles in base64."""
    return max_size * 3 // 2


async def _read(request: Request, limit: int) -> bytes:
    try:
        return await read_body(request, limit)
    except TooLarge as exc:
        raise TooLarge(f"{exc}, which is the most ({SIZE_SETTING})") from exc


async def _submit(service: SubmitService, request: Request, command: PreparedCommand) -> JsonAnswer:
    describe(request, command.targets, command.command.request_type)
    wait = request.query_params.get(WAIT) if request.scope["query_string"] else None
    gone = partial(until_gone, request)
    return JsonAnswer(*await service.submit(command, request.state.caller, wait, gone))


def _queued(model: type) -> Responses:
    again = "It is queued already, or the device has just answered it: a safe retry."
    return (
        ok(model, again)
        | ok(model, "Stored durably, and queued.", 201)
        | errors(400, 404, 409, 413)
    )


def _add_catalogue(routes: APIRouter, catalogue: CommandCatalogue, auth: ApiAuth) -> None:
    summaries = [summary(form) for form in catalogue.forms.values()]
    text = "Its keys with all that is inside them, an example, and its JSON Schema."

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
        responses=ok(RequestTypeOut, text) | errors(400, 404, said=_NO_SUCH_COMMAND),
    )
    async def get_request_type(name: str) -> JsonAnswer:
        """`name` of a key is the spelling of answers, `apple_name` Apple's; both are understood."""
        form = catalogue.forms.get(name)
        if form is None:
            near = nearest(name, catalogue.forms)
            hint = f" (nearest: {near})" if near else ""
            raise NotFound(f"request_type: no command has this name{hint}")
        return JsonAnswer({"release": catalogue.release, **description(form)})
