"""What administrators call: tokens of the API, and the audit log."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from services.commands.access import openapi
from services.commands.access.tokens import ApiTokens, shown
from shared.apple.request.read_json import parse_json
from shared.domain.access import AuditEntry, AuditQuery, Scope
from shared.domain.errors import unfit
from shared.ports.access import AuditLog
from shared.ports.clock import Clock
from shared.times import rfc3339
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import Parsing
from shared.web.body import read_body

TOKEN_LIMIT = 64 * 1024
"""Of the body that describes a token, in bytes."""
MOST_ENTRIES = 1000
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)


def token_routes(tokens: ApiTokens, auth: ApiAuth) -> APIRouter:
    """/v1/tokens."""
    routes = auth.router(tags=["access"])
    parsing = Parsing()

    @routes.post(
        "/v1/tokens",
        dependencies=[auth.needs(Scope.ADMIN, audit="token.create")],
        status_code=201,
        summary="Make a token",
        responses=openapi.CREATE_TOKEN,
        openapi_extra=openapi.TOKEN_BODY,
    )
    async def create_token(request: Request) -> JsonAnswer:
        """The answer holds the secret, which nobody can ask for again."""
        asked = await parsing.of(_read_token, await read_body(request, TOKEN_LIMIT))
        name: Any = asked["name"]
        scopes: Any = asked["scopes"]
        describe(request, [name], f"scopes {' '.join(scopes)}")
        token, secret = await tokens.create(
            name,
            scopes,
            created_by=request.state.caller.name,
            expires_at=_time("expires_at", asked.get("expires_at")),
        )
        return JsonAnswer({**shown(token), "token": secret}, 201)

    @routes.get(
        "/v1/tokens",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="List tokens",
        responses=openapi.LIST_TOKENS,
    )
    async def list_tokens() -> JsonAnswer:
        """All that were ever made, without their secrets."""
        return JsonAnswer({"tokens": [shown(token) for token in await tokens.list()]})

    @routes.delete(
        "/v1/tokens/{id}",
        dependencies=[auth.needs(Scope.ADMIN, audit="token.revoke")],
        summary="Revoke a token",
        responses=openapi.REVOKE_TOKEN,
    )
    async def revoke_token(request: Request, id: str) -> JsonAnswer:
        """By its id or its name. It is refused everywhere within five seconds, and stays in the
        list."""
        token = await tokens.revoke(id)
        describe(request, [token.name])
        return JsonAnswer(shown(token))

    return routes


def _read_token(body: bytes) -> dict[str, object]:
    asked = parse_json(body)
    name, scopes = asked.get("name"), asked.get("scopes")
    if not isinstance(name, str):
        raise unfit("name", "a string")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise unfit("scopes", f"a list of {', '.join(Scope)}")
    return asked


class AuditFilters(BaseModel):
    """Which entries of the audit log; without any, the latest."""

    caller: str | None = Field(None, description="Name of a token, or `api-key`.")
    action: str | None = Field(None, description="Such as `device.block`.")
    target: str | None = Field(None, description="As the request named it, such as a UDID.")
    since: str | None = Field(None, description="The earliest time, RFC 3339.")
    until: str | None = Field(None, description="The time before which they are, RFC 3339.")
    limit: int = Field(100, ge=1, le=MOST_ENTRIES)
    cursor: str | None = Field(None, description="`next` of the page before.")


def audit_routes(audit_log: AuditLog, clock: Clock, auth: ApiAuth) -> APIRouter:
    """/v1/audit."""
    routes = auth.router(tags=["access"])

    @routes.get(
        "/v1/audit",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="Who changed what",
        responses=openapi.AUDIT,
    )
    async def read_audit(filters: Annotated[AuditFilters, Query()]) -> JsonAnswer:
        """The latest entries first; `next` leads to earlier ones."""
        query = AuditQuery(
            since=_time("since", filters.since) or EARLIEST,
            until=_time("until", filters.until) or clock.now() + timedelta(minutes=1),
            caller=filters.caller,
            action=filters.action,
            target=filters.target,
            limit=filters.limit,
            cursor=filters.cursor,
        )
        page = await audit_log.find(query)
        entries = [_entry(entry) for entry in page.entries]
        return JsonAnswer({"entries": entries, "next": page.next})

    return routes


def _entry(entry: AuditEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "at": rfc3339(entry.at),
        "caller": entry.caller,
        "address": entry.address,
        "route": entry.route,
        "action": entry.action,
        "targets": list(entry.targets),
        "targets_left_out": entry.targets_left_out,
        "detail": entry.detail,
        "status": entry.status,
        "request_id": entry.request_id,
    }


def _time(path: str, given: object) -> datetime | None:
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given) if isinstance(given, str) else None
        if time is not None and time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise unfit(path, "a time such as 2026-01-02T03:04:05Z")
