"""GET, POST and DELETE /v1/devices/{udid}/identity: the certificate by which a device is known.

Promises: only for the scope `admin`, and every attempt is in the audit log.
"""

import re
from datetime import timedelta

from fastapi import APIRouter, Request

from services.commands.identities import openapi
from services.commands.identities.openapi import DEFAULT_PATIENCE, LONGEST_PATIENCE
from services.commands.identities.schemas import shown_identity
from services.commands.identities.service import IdentityDesk
from shared.apple.request.read_json import parse_json
from shared.domain.access import Scope
from shared.domain.errors import unfit
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import Parsing
from shared.web.body import JSON_LIMIT, read_body

_SHA256 = re.compile(r"[0-9a-f]{64}")


def identity_routes(desk: IdentityDesk, auth: ApiAuth) -> APIRouter:
    """The three routes."""
    routes = auth.router(tags=["devices"])
    parsing = Parsing()

    @routes.get(
        "/v1/devices/{udid}/identity",
        dependencies=[auth.needs(Scope.ADMIN, audit="identity.read")],
        summary="The certificate of a device",
        responses=openapi.GET,
    )
    async def get_identity(udid: str) -> JsonAnswer:
        """Which one speaks for it, since when, what follows it, and whether the device asks in vain.
        Of a removed device too."""
        return JsonAnswer(shown_identity(await desk.show(udid)))

    @routes.post(
        "/v1/devices/{udid}/identity",
        dependencies=[auth.needs(Scope.ADMIN, audit="identity.rebind")],
        summary="Bind a device to the certificate that it shows",
        responses=openapi.POST,
        openapi_extra=openapi.BODY,
    )
    async def post_identity(udid: str, request: Request) -> JsonAnswer:
        """Takes a device out of quarantine. The certificate is the one that it shows there, or the one
        that a reset took away. Where it is the one that is bound and has expired, it is good for
        `accept_expired_days` more, so that it can be renewed."""
        body = await read_body(request, JSON_LIMIT)
        certificate, patience = await parsing.of(read_rebinding, body)
        describe(request, (udid,), detail=f"certificate {certificate}")
        return JsonAnswer(shown_identity(await desk.rebind(udid, certificate, patience)))

    @routes.delete(
        "/v1/devices/{udid}/identity",
        dependencies=[auth.needs(Scope.ADMIN, audit="identity.reset")],
        summary="Reset the binding of a device",
        responses=openapi.DELETE,
    )
    async def delete_identity(udid: str) -> JsonAnswer:
        """The device is not served until it authenticates, with any certificate of a trusted CA, also
        where MDM_REENROLLMENT is `bound`. What was bound to it stays reserved for it; only the last
        one may come back."""
        await desk.reset(udid)
        return JsonAnswer({})

    return routes


def read_rebinding(body: bytes) -> tuple[str, timedelta]:
    """`{"certificate_sha256", "accept_expired_days"}`; raises BadRequest."""
    given = parse_json(body)
    certificate = given.get("certificate_sha256")
    certificate = certificate.lower() if isinstance(certificate, str) else ""
    if not _SHA256.fullmatch(certificate):
        raise unfit("certificate_sha256", "64 hexadecimal digits")
    return certificate, timedelta(days=_days(given.get("accept_expired_days")))


def _days(given: object) -> int:
    if given is None:
        return DEFAULT_PATIENCE
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= LONGEST_PATIENCE:
        raise unfit("accept_expired_days", f"a whole number from 1 to {LONGEST_PATIENCE}")
    return given
