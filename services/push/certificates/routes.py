"""Push certificates by API: MicroMDM's /v1/config/certificate, a list of all, and removal.

Promises: MicroMDM's clients work unchanged; `warnings` is beside its answers where there is something to
say; no answer shows a private key.
"""

import base64
from typing import Annotated

from fastapi import Path, Query, Request

from services.push.certificates.install import Installation
from services.push.certificates.schemas import (
    LIMIT,
    TOPIC,
    InstallOut,
    InstallRequest,
    PushCertificateList,
    PushCertificateOut,
)
from shared.domain.access import Scope
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.openapi import Nothing, Said, body, errors, ok
from shared.web.api.requests import Parsing
from shared.web.body import read_body

ONE = "/v1/config/certificate"
ALL = "/v1/config/certificates"
TAG = {"name": "push certificates", "description": "Apple's permission to push to our devices."}

_SAID: Said = {
    400: "topics: expected a known query parameter (nearest: topic)",
    404: ("No such certificate.", "there is no push certificate"),
}
PUT = ok(InstallOut, "Installed; `warnings` only if any.") | errors(
    400,
    409,
    413,
    said={
        400: "key: is not the key of the certificate",
        409: (
            "Enrolled devices could not be pushed any more.",
            f"the certificate is of topic {TOPIC}, but 512 devices are enrolled under another one (...)",
        ),
        413: f"the body is over {LIMIT} bytes",
    },
)
GET = ok(
    PushCertificateOut,
    "The certificate, base64 of its DER; `warnings` only if it ends within 60 days.",
) | errors(400, 404, said=_SAID)
LISTED = ok(
    PushCertificateList,
    "One entry per topic, and topics of enrolled devices that have no certificate.",
) | errors(400, said=_SAID)
REMOVED = ok(Nothing, "Removed.") | errors(
    404,
    409,
    said={
        404: _SAID[404],
        409: (
            "Enrolled devices could not be pushed any more.",
            "512 enrolled devices could not be pushed any more; ...",
        ),
    },
)

Forced = Annotated[
    str | None,
    Query(description="The topic: do it although devices are enrolled, as the 409 explains."),
]


class CertificateRoutes:
    def __init__(self, installation: Installation, auth: ApiAuth) -> None:
        self._installation = installation
        self._parsing = Parsing()
        self.router = router = auth.router(tags=["push", TAG["name"]])
        read = [auth.needs(Scope.ADMIN)]
        put = [auth.needs(Scope.ADMIN, audit="push_certificate.install")]
        remove = [auth.needs(Scope.ADMIN, audit="push_certificate.remove")]
        router.put(
            ONE,
            name="put_push_certificate",
            summary="Install or renew a push certificate",
            dependencies=put,
            responses=PUT,
            openapi_extra=body(InstallRequest),
        )(self.install)
        router.get(
            ONE,
            name="get_push_certificate",
            summary="A push certificate",
            dependencies=read,
            responses=GET,
        )(self.show)
        router.get(
            ALL,
            name="list_push_certificates",
            summary="All push certificates",
            dependencies=read,
            responses=LISTED,
        )(self.list)
        router.delete(
            ALL + "/{topic}",
            name="remove_push_certificate",
            summary="Remove the push certificates of a topic",
            dependencies=remove,
            responses=REMOVED,
        )(self.remove)

    async def install(self, request: Request, force_topic: Forced = None) -> JsonAnswer:
        """Install a push certificate, or renew one, on all replicas and without a restart. The one
        before stays in use until APNs has taken a push with the new one."""
        pair = await self._parsing.of(InstallRequest.read_pair, await read_body(request, LIMIT))
        describe(request, [pair.topic], f"serial number {pair.serial_number}")
        warnings = await self._installation.install(pair, force_topic)
        return JsonAnswer({"warnings": warnings} if warnings else {})

    async def show(
        self,
        topic: Annotated[
            str | None, Query(description="Default: the one that devices are to enroll under.")
        ] = None,
    ) -> JsonAnswer:
        """The push certificate, without its key."""
        found = await self._installation.shown(topic)
        warnings = self._installation.expiry(found)
        answer: PushCertificateOut = {"cert": base64.b64encode(found.der).decode()}
        if warnings:
            answer["warnings"] = warnings
        return JsonAnswer(answer)

    async def list(self) -> JsonAnswer:
        """All push certificates, with how many devices are enrolled under each topic."""
        return JsonAnswer(await self._installation.listing())

    async def remove(
        self,
        topic: Annotated[str, Path(description="Whose certificates to remove.")],
        force_topic: Forced = None,
    ) -> JsonAnswer:
        """Remove what was installed by API for a topic; a file of MDM_PUSH_CERT stays."""
        await self._installation.remove(topic, force_topic)
        return JsonAnswer({})
