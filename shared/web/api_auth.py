"""Who may call a route of the API: every route says the scope it needs.

    routes = auth.router(tags=["devices"])

    @routes.get("/v1/things", dependencies=[auth.needs(Scope.READ)])
    @routes.delete("/v1/things", dependencies=[auth.needs(Scope.ADMIN, audit="thing.remove")])

Promises: without good credentials the answer is 401, without the scope 403, and the route does not
run; with both, `request.state.caller` is the `Caller`. For routes of API clients only: a device
that hears 401 or 403 may unenroll.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.models import HTTPBase
from fastapi.security.base import SecurityBase
from pydantic import SecretStr

from shared.domain.caller import Caller, Scope
from shared.domain.errors import Forbidden, Unauthenticated
from shared.web.api_keys import ApiKeys, read_credentials


class ApiAuth:
    """Makes the routers of API routes, and the dependency that each of those routes has."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._keys = ApiKeys(keys)

    def router(self, tags: Sequence[str | Enum] = ()) -> APIRouter:
        """For API routes; each names its scope with `needs`."""
        return APIRouter(tags=list(tags))

    def needs(self, scope: Scope, *, audit: str | None = None) -> Any:
        """A dependency for `dependencies=[...]` of a route. `audit` names the action that the
        audit log shows (`device.block`); every route that changes something has one."""
        return Depends(Needs(self, scope, audit))

    async def caller(self, request: Request) -> Caller:
        """Who calls. Raises Unauthenticated."""
        given = read_credentials(request.headers.get("authorization"))
        caller = self._keys.caller(given) if given else None
        if caller is None:
            raise Unauthenticated("Unauthorized")
        return caller


class Needs(SecurityBase):
    """Lets a caller with a scope pass; what `ApiAuth.needs` gives."""

    def __init__(self, auth: ApiAuth, scope: Scope, action: str | None) -> None:
        self.model = HTTPBase(scheme="basic")
        self.scheme_name = "API key"
        self.scope = scope
        self.action = action
        self._auth = auth

    async def __call__(self, request: Request) -> None:
        """Raises Unauthenticated, or Forbidden for somebody known without the scope."""
        caller = await self._auth.caller(request)
        request.state.caller = caller
        if not caller.may(self.scope):
            raise Forbidden(f"this needs the scope {self.scope}")
