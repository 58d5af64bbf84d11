"""Authorize callers of the API: every route says the scope it needs.

    routes = auth.router(tags=["devices"])

    @routes.get("/v1/things", dependencies=[auth.needs(Scope.READ)])
    @routes.delete("/v1/things", dependencies=[auth.needs(Scope.ADMIN, audit="thing.remove")])

Promises: without good credentials the answer is 401 (429 after too many failures), without the
scope 403, and the route does not run; with both, `request.state.caller` is the `Caller`. A key of
MDM_API_KEY is good while the store is away. For routes of API clients only: a device that is
answered 401 or 403 may unenroll.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.models import HTTPBase
from pydantic import SecretStr

from shared.domain.access import Caller, Scope
from shared.domain.errors import Forbidden, TooManyRequests, Unauthenticated
from shared.web.api.audit import AuditContext, AuditTrail
from shared.web.api.keys import ApiKeys, read_credentials
from shared.web.api.route import ApiRoute, Needs, refuse_unknown
from shared.web.api.throttle import FailedAttempts
from shared.web.api.tokens import TokenCache
from shared.web.client_address import ClientAddresses

BASIC, BEARER = "BasicAuth", "BearerAuth"
DESCRIPTION = "User `micromdm` and the API key as password; or any user and a token as password."
_BEARER = {"type": "http", "scheme": "bearer", "description": "A token, of `POST /v1/tokens`."}


class ApiAuth:
    """Makes the routers of API routes, and the dependency that each of those routes has."""

    def __init__(
        self,
        keys: Sequence[SecretStr],
        *,
        tokens: TokenCache | None = None,
        failures: FailedAttempts | None = None,
        trail: AuditTrail | None = None,
        addresses: ClientAddresses | None = None,
    ) -> None:
        self._keys = ApiKeys(keys)
        self._tokens = tokens
        self._failures = failures
        self._trail = trail
        self._addresses = addresses or ClientAddresses()

    def router(self, tags: Sequence[str | Enum] = ()) -> APIRouter:
        """For API routes; each names its scope with `needs`."""
        return APIRouter(tags=list(tags), route_class=ApiRoute)

    def needs(self, scope: Scope, *, audit: str | None = None) -> Any:
        """A dependency for `dependencies=[...]` of a route. `audit` names the action that the
        audit log shows (`device.block`); every route that changes something has one, and so has one
        that shows a device's secrets."""
        return Depends(_Needs(self, scope, audit))

    async def admit(self, request: Request, scope: Scope, action: str | None) -> None:
        """Raises Unauthenticated, TooManyRequests, or Forbidden for a caller without the
        scope; StoreUnavailable when a token cannot be judged."""
        caller = await self._caller(request)
        request.state.caller = caller
        if action is not None and self._trail is not None:
            address = self._addresses.address(request.scope)
            request.state.audit = AuditContext(caller.name, action, address, trail=self._trail)
        if not caller.may(scope):
            raise Forbidden(f"this needs the scope {scope}")

    async def _caller(self, request: Request) -> Caller:
        given = read_credentials(request.headers.get("authorization"))
        if given is None:
            raise Unauthenticated("the API key or token is missing")
        caller = self._keys.caller(given)
        if caller is None and self._tokens is not None:
            caller = await self._tokens.caller(given.secret)
        if caller is not None:
            return caller
        failures = self._failures
        wait = failures.note(self._addresses.address(request.scope)) if failures else None
        if wait is not None:
            raise TooManyRequests("too many failed authentications from this address", wait)
        raise Unauthenticated("the API key or token is wrong")


def with_tokens(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document whose routes with a key can be called with a token as well. FastAPI would
    have a second dependency for that, which each request would pay for."""
    schemes = document.get("components", {}).get("securitySchemes", {})
    if BASIC in schemes:
        schemes[BEARER] = dict(_BEARER)
    for path in document["paths"].values():
        for operation in path.values():
            if {BASIC: []} in operation.get("security", []):
                operation["security"] = [{BASIC: []}, {BEARER: []}]
    return document


class _Needs(Needs):
    def __init__(self, auth: ApiAuth, scope: Scope, action: str | None) -> None:
        self.model = HTTPBase(scheme="basic", description=DESCRIPTION)
        self.scheme_name = BASIC
        self.scope = scope
        self.action = action
        self._auth = auth

    async def __call__(self, request: Request) -> None:
        await self._auth.admit(request, self.scope, self.action)
        route = request.scope["route"]
        if isinstance(route, ApiRoute) and route.query_names is not None:
            refuse_unknown(request.query_params, route.query_names)
