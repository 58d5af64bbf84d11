"""Routes of API clients: each names the scope it needs, and what changes something is audited.

Promise: an API route that names no scope, or changes something without an action for the audit log,
cannot be made; a new route cannot forget either. A GET route of ours refuses query parameters that it
does not know.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException

from shared.domain.access import Scope
from shared.domain.errors import MdmError
from shared.web.api.audit import Deed
from shared.web.api.paths import parameter
from shared.web.api.query_names import names_of
from shared.web.problems import status_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Needs(SecurityBase):
    """A route's dependency that lets a caller with `scope` pass. `action` is what the audit log
    calls what the route does, None where nothing is recorded."""

    scope: Scope
    action: str | None


class ApiRoute(APIRoute):
    """Records what a route did once it is done, before the answer goes out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        needs = [each.dependency for each in self.dependencies if _is_needs(each)]
        where = f"{'/'.join(sorted(self.methods or ()))} {self.path}"
        if len(needs) != 1:
            raise TypeError(f"{where}: names {len(needs)} scopes, expected one (`auth.needs`)")
        [need] = needs
        assert isinstance(need, Needs)
        # What needs READ changes nothing, whatever its method: MicroMDM lists devices by POST.
        if need.action is None and need.scope is not Scope.READ and self.methods != {"GET"}:
            raise TypeError(f"{where}: names no action for the audit log (`audit=`)")
        self.query_names: frozenset[str] | None = names_of(self)

    def get_route_handler(self) -> Handler:
        handle: Handler = super().get_route_handler()

        async def handle_for_client(request: Request) -> Response:
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

        return handle_for_client


async def _record(request: Request, status: int) -> None:
    deed: Deed | None = getattr(request.state, "deed", None)
    if deed is not None and deed.trail is not None:
        await deed.trail.record(request, deed, status)


def _is_needs(dependency: Depends) -> bool:
    return isinstance(dependency.dependency, Needs)


def _status(error: Exception) -> int:
    cause = error.__cause__ if isinstance(error, HTTPException) else error
    if isinstance(cause, MdmError):
        return status_of(cause)[0]
    return error.status_code if isinstance(error, HTTPException) else 400
