"""Routes of API clients: each names the scope it needs, and what changes something is audited.

Promises: an API route that names no scope, or changes something without an action for the audit log, cannot
be made. A GET route of ours refuses query parameters that it does not know: a filter that is ignored because
of a typo would mean "all", and the next line of a script erases what it got.
"""

from collections.abc import Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from shared.domain.access import Scope
from shared.domain.errors import BadRequest, Fault, MdmError
from shared.nearest import nearest
from shared.web.api.audit import AuditContext
from shared.web.api.paths import parameter
from shared.web.direct import DirectApp, DirectRoute, Handler
from shared.web.problems import answer_error, status_of


class Needs(SecurityBase):
    """A route's dependency that lets a caller with `scope` pass. `action` is what the audit log
    calls what the route does, None where nothing is recorded."""

    scope: Scope
    action: str | None

    async def __call__(self, request: Request) -> None:
        raise NotImplementedError


class ApiRoute(APIRoute):
    """Records what a route did once it is done, before the answer goes out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        given = [each.dependency for each in self.dependencies]
        needs = [each for each in given if isinstance(each, Needs)]
        where = f"{'/'.join(sorted(self.methods or ()))} {self.path}"
        if len(needs) != 1:
            raise TypeError(f"{where}: names {len(needs)} scopes, expected one (`auth.needs`)")
        [need] = needs
        assert isinstance(need, Needs)
        # A route that needs READ changes nothing, by any method: MicroMDM lists devices by POST.
        if need.action is None and need.scope is not Scope.READ and self.methods != {"GET"}:
            raise TypeError(f"{where}: names no action for the audit log (`audit=`)")
        self.needs = need
        self.query_names: frozenset[str] | None = names_of(self)

    def get_route_handler(self) -> Handler:
        return self._recorded(super().get_route_handler())

    def _recorded(self, handle: Handler) -> Handler:
        async def handle_and_record(request: Request) -> Response:
            parameters = request.scope["path_params"]
            request.scope["path_params"] = {k: parameter(v) for k, v in parameters.items()}
            try:
                response = await handle(request)
            except (MdmError, HTTPException, RequestValidationError) as exc:
                await _record(request, _status(exc))
                raise
            except Exception:
                await _record(request, 500)
                raise
            await _record(request, response.status_code)
            return response

        return handle_and_record


class DirectApiRoute(DirectRoute, ApiRoute):
    """For requests that come often (docs/adr/0018). Its endpoint returns a `Response`, and raises no errors
    but ours."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.dependant.request_param_name is None or len(self.dependencies) != 1 or _asks(self):
            raise TypeError(f"{self.path}: an endpoint of the request alone can be called directly")

    def direct(self) -> DirectApp:
        async def admitted(request: Request) -> Response:
            await self.needs(request)
            response: Response = await self.endpoint(request)
            return response

        recorded = self._recorded(admitted)

        def handle(request: Request) -> Coroutine[Any, Any, Response]:
            request.scope["route"], request.scope["path_params"] = self, {}
            return recorded(request)

        return DirectApp(handle, _for_client)


def _for_client(handle: Handler) -> Handler:
    async def handle_for_client(request: Request) -> Response:
        try:
            return await handle(request)
        except MdmError as exc:
            return answer_error(request, exc)

    return handle_for_client


def _asks(route: APIRoute) -> bool:
    """True where FastAPI has to find more than the request for a route."""
    given = route.dependant
    asked = given.path_params, given.query_params, given.header_params, given.cookie_params
    return any(asked) or bool(given.body_params) or "{" in route.path


async def _record(request: Request, status: int) -> None:
    context: AuditContext | None = getattr(request.state, "audit", None)
    if context is not None and context.trail is not None:
        await context.trail.record(request, context, status)


def _status(error: Exception) -> int:
    cause = error.__cause__ if isinstance(error, HTTPException) else error
    if isinstance(cause, MdmError):
        return status_of(cause)[0]
    return error.status_code if isinstance(error, HTTPException) else 400


MOST_NAMED = 10
_SHOWN = 80
MICROMDM_GETS = frozenset({"/v1/commands/{udid}", "/push/{udid}"})
"""MicroMDM's own GET routes ignore what they do not know, and so do we there."""


def names_of(route: APIRoute) -> frozenset[str] | None:
    """The query parameters that a route knows; None where it ignores others."""
    if route.methods != {"GET"} or route.path in MICROMDM_GETS:
        return None
    by_hand = (route.openapi_extra or {}).get("parameters", [])
    found = {each["name"] for each in by_hand if each["in"] == "query"}
    for field in route.dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.update(kind.model_fields)
        else:
            found.add(field.alias)
    return frozenset(found)


def refuse_unknown(given: QueryParams, known: frozenset[str], advice: str = "") -> None:
    """Raises BadRequest, which names the parameters and the nearest ones that are known."""
    unknown = [name for name in dict.fromkeys(given) if name not in known][:MOST_NAMED]
    if unknown:
        faults = [Fault(name[:_SHOWN], _expected(name, known) + advice) for name in unknown]
        raise BadRequest(f"{faults[0].path}: expected {faults[0].expected}", faults)


def _expected(name: str, known: frozenset[str]) -> str:
    near = nearest(name, sorted(known))
    if near:
        return f"a known query parameter (nearest: {near})"
    return "a known query parameter: " + (", ".join(sorted(known)) or "there are none")
