"""Tokens of the API, the audit log, and SCEP challenges for profiles that administrators make themselves.

Promises: all of it needs the scope `admin`. POST /v1/challenge has MicroMDM's path and answer.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from services.commands.access.schemas import (
    AuditFilters,
    AuditLogPage,
    ChallengeOut,
    ChallengeRequest,
    NewToken,
    TokenList,
    TokenOut,
    TokenRequest,
    audit_entry_out,
    token_out,
)
from services.commands.access.tokens import ApiTokens
from shared.domain.access import Scope
from shared.ports.access import AuditLog
from shared.ports.clock import Clock
from shared.security.challenges import ScepChallenges
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import body, errors, ok
from shared.web.api.requests import Parsing

TOKEN_LIMIT = 64 * 1024
TAG = {"name": "access", "description": "Tokens of the API, and who changed what."}
CHALLENGES_TAG = {"name": "challenges", "description": "SCEP challenges for profiles of your own."}


def token_routes(tokens: ApiTokens, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["access"])
    parsing = Parsing()

    @routes.post(
        "/v1/tokens",
        dependencies=[auth.needs(Scope.ADMIN, audit="token.create")],
        status_code=201,
        summary="Make a token",
        responses=ok(NewToken, "Made. `token` is shown this once.", 201) | errors(400, 409, 413),
        openapi_extra=body(TokenRequest),
    )
    async def create_token(request: Request) -> JsonAnswer:
        """The answer holds the secret, which nobody can ask for again."""
        asked = await parsing.read(request, TokenRequest, TOKEN_LIMIT)
        describe(request, [asked.name], f"scopes {' '.join(asked.scopes)}")
        by = request.state.caller.name
        token, secret = await tokens.create(
            asked.name, asked.scopes, created_by=by, expires_at=asked.expires_at
        )
        return JsonAnswer({**token_out(token), "token": secret}, 201)

    @routes.get(
        "/v1/tokens",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="List tokens",
        responses=ok(TokenList, "All tokens, the oldest first.") | errors(400),
    )
    async def list_tokens() -> JsonAnswer:
        """All that were ever made, without their secrets."""
        return JsonAnswer({"tokens": [token_out(token) for token in await tokens.list()]})

    @routes.delete(
        "/v1/tokens/{id}",
        dependencies=[auth.needs(Scope.ADMIN, audit="token.revoke")],
        summary="Revoke a token",
        responses=ok(TokenOut, "Revoked.", revoked_at="2026-02-02T03:04:05Z")
        | errors(404, said={404: ("No such token.", "there is no token backup")}),
    )
    async def revoke_token(request: Request, id: str) -> JsonAnswer:
        """By its id or its name. It is refused everywhere within five seconds, and stays in the
        list."""
        token = await tokens.revoke(id)
        describe(request, [token.name])
        return JsonAnswer(token_out(token))

    return routes


def audit_routes(audit_log: AuditLog, clock: Clock, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["access"])

    @routes.get(
        "/v1/audit",
        dependencies=[auth.needs(Scope.ADMIN)],
        summary="Who changed what",
        responses=ok(AuditLogPage, "A page; `next_cursor` is null on the last one.") | errors(400),
    )
    async def read_audit(filters: Annotated[AuditFilters, Query()]) -> JsonAnswer:
        """The latest entries first; `next_cursor` leads to earlier ones."""
        page = await audit_log.find(filters.query(clock.now()))
        entries = [audit_entry_out(entry) for entry in page.entries]
        return JsonAnswer({"entries": entries, "next_cursor": page.next, "next": page.next})

    return routes


def challenge_routes(challenges: ScepChallenges, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["challenges"])
    parsing = Parsing()

    @routes.post(
        "/v1/challenge",
        dependencies=[auth.needs(Scope.ADMIN, audit="challenge.create")],
        summary="Make a one-time SCEP challenge",
        responses=ok(
            ChallengeOut,
            "The challenge, which is shown this once. `string` is MicroMDM's name for it.",
        )
        | errors(400, 413),
        openapi_extra=body(ChallengeRequest),
    )
    async def post_challenge(request: Request) -> JsonAnswer:
        """Good for one certificate within MDM_SCEP_CHALLENGE_VALIDITY. With `udid` or
        `serial_number` the certificate counts for that device only. The body may be empty."""
        asked = await parsing.read(request, ChallengeRequest)
        describe(request, [each for each in (asked.udid, asked.serial_number) if each])
        secret = await challenges.issue_once(asked.udid, asked.serial_number)
        return JsonAnswer({"challenge": secret, "string": secret})

    return routes
