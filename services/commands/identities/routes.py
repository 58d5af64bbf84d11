"""GET, POST and DELETE /v1/devices/{udid}/identity: the certificate by which a device is known.

Promises: only for the scope `admin`, and every attempt is in the audit log.
"""

from fastapi import APIRouter, Request

from services.commands.identities.schemas import IdentityOut, RebindingRequest, identity_out
from services.commands.identities.service import IdentityService
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import Nothing, body, errors, ok
from shared.web.api.requests import Parsing

_SHOWN = ok(IdentityOut, "The certificate of the device, and what is known besides.")


def identity_routes(service: IdentityService, auth: ApiAuth) -> APIRouter:
    routes = auth.router(tags=["devices"])
    parsing = Parsing()

    @routes.get(
        "/v1/devices/{udid}/identity",
        dependencies=[auth.needs(Scope.ADMIN, audit="identity.read")],
        summary="The certificate of a device",
        responses=_SHOWN | errors(400, 404, 409),
    )
    async def get_identity(udid: str) -> JsonAnswer:
        """Which one speaks for it, since when, what follows it, and whether the device asks in vain.
        Of a removed device too."""
        return JsonAnswer(identity_out(*await service.show(udid)))

    @routes.post(
        "/v1/devices/{udid}/identity",
        dependencies=[auth.needs(Scope.ADMIN, audit="identity.rebind")],
        summary="Bind a device to the certificate that it shows",
        responses=_SHOWN | errors(400, 404, 409, 413),
        openapi_extra=body(RebindingRequest),
    )
    async def post_identity(udid: str, request: Request) -> JsonAnswer:
        """Takes a device out of quarantine. The certificate is the one that it shows there, or the one
        that a reset took away. Where it is the one that is bound and has expired, it is good for
        `accept_expired_days` more, so that it can be renewed."""
        asked = await parsing.read(request, RebindingRequest)
        certificate = asked.certificate_sha256
        describe(request, (udid,), detail=f"certificate {certificate}")
        return JsonAnswer(identity_out(*await service.rebind(udid, certificate, asked.patience)))

    @routes.delete(
        "/v1/devices/{udid}/identity",
        dependencies=[auth.needs(Scope.ADMIN, audit="identity.reset")],
        summary="Reset the binding of a device",
        responses=ok(Nothing, "Nothing is bound to the device any more.") | errors(404, 409),
    )
    async def delete_identity(udid: str) -> JsonAnswer:
        """The device is not served until it authenticates, with any certificate of a trusted CA, also
        where MDM_REENROLLMENT is `bound`. What was bound to it stays reserved for it; only the last
        one may come back."""
        await service.reset(udid)
        return JsonAnswer({})

    return routes
