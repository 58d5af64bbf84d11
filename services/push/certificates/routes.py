"""Push certificates by API: MicroMDM's /v1/config/certificate, a list of all, and removal.

Promises: MicroMDM's clients work unchanged; `warnings` stands beside its answers where there is
something to say; no answer shows a private key.
"""

import base64
from typing import Annotated, Any

from fastapi import Path, Query, Request

from services.push.certificates.install import Installation
from services.push.certificates.requests import LIMIT, read_installation
from services.push.certificates.schemas import shown
from services.push.openapi import Responses, error
from shared.domain.access import Scope
from shared.ports.clock import Clock
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import Parsing
from shared.web.body import read_body

ONE = "/v1/config/certificate"
ALL = "/v1/config/certificates"
TAG = {"name": "push certificates", "description": "Apple's permission to push to our devices."}

TOPIC = "com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04"
_BASE64 = {"type": "string", "format": "byte"}
_WARNINGS = {"type": "array", "items": {"type": "string"}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["cert", "key"],
                    "properties": {
                        "cert": _BASE64
                        | {"description": "Base64 of the PEM file that Apple's portal gave."},
                        "key": _BASE64
                        | {"description": "Base64 of its private key in PEM: PKCS#1 or PKCS#8."},
                        "password": {
                            "type": "string",
                            "description": "Of a key that is encrypted; `passphrase` is the same.",
                        },
                    },
                },
                "example": {"cert": "LS0tLS1CRUdJTi...", "key": "LS0tLS1CRUdJTi..."},
            }
        },
    }
}
_ENTRY = {
    "topic": TOPIC,
    "serial_number": "4C0A1B2C3D4E5F60",
    "not_before": "2026-01-02T03:04:05+00:00",
    "not_after": "2027-01-02T03:04:05+00:00",
    "days_left": 341,
    "state": "current",
    "source": "api",
    "installed_at": "2026-01-02T03:10:00+00:00",
    "is_default": True,
    "enrollments": 512,
    "previous": None,
}
LIST = {"certificates": [_ENTRY], "without_certificate": []}
_COMMON: Responses = {
    401: error(401, "Unauthorized", "the API key or token is wrong"),
    403: error(403, "Forbidden", "this needs the scope admin"),
    429: error(429, "Too Many Requests", "too many failed authentications from this address"),
    503: error(503, "Service Unavailable", "MongoDB: no answer in time"),
}
_NONE = error(404, "Not Found", "there is no push certificate")
_UNKNOWN = error(400, "Bad Request", "topics: expected a known query parameter (nearest: topic)")
_LEFT = error(409, "Conflict", "512 enrolled devices could not be pushed any more; ...")


def _answers(description: str, example: object, properties: dict[str, Any]) -> Responses:
    schema = {"type": "object", "properties": properties}
    content = {"application/json": {"schema": schema, "example": example}}
    return {200: {"description": description, "content": content}, **_COMMON}


_OTHER_TOPIC = (
    f"the certificate is of topic {TOPIC}, but 512 devices are enrolled under another one (...)"
)
PUT: Responses = _answers("Installed; `warnings` only if any.", {}, {"warnings": _WARNINGS}) | {
    400: error(400, "Bad Request", "key: is not the key of the certificate"),
    409: error(409, "Conflict", _OTHER_TOPIC),
    413: error(413, "Request Entity Too Large", f"the body is over {LIMIT} bytes"),
}
GET: Responses = _answers(
    "The certificate, base64 of its DER; `warnings` only if it ends within 60 days.",
    {"cert": "MIIFdjCCBF6gAwIBAgI..."},
    {"cert": _BASE64, "warnings": _WARNINGS},
) | {400: _UNKNOWN, 404: _NONE}
LISTED: Responses = _answers(
    "One entry per topic, and topics of enrolled devices that have no certificate.",
    LIST,
    {
        "certificates": {"type": "array", "items": {"type": "object"}},
        "without_certificate": {"type": "array", "items": {"type": "object"}},
    },
) | {400: _UNKNOWN}
REMOVED: Responses = _answers("Removed.", {}, {}) | {404: _NONE, 409: _LEFT}

Forced = Annotated[
    str | None,
    Query(description="The topic: do it although devices are enrolled, as the 409 explains."),
]


class CertificateRoutes:
    """Makes the router; every route needs the scope `admin`."""

    def __init__(self, installation: Installation, clock: Clock, auth: ApiAuth) -> None:
        self._installation = installation
        self._clock = clock
        self._parsing = Parsing()
        self.router = router = auth.router(tags=[TAG["name"]])
        read = [auth.needs(Scope.ADMIN)]
        put = [auth.needs(Scope.ADMIN, audit="push_certificate.install")]
        remove = [auth.needs(Scope.ADMIN, audit="push_certificate.remove")]
        router.put(
            ONE, name="put_push_certificate", dependencies=put, responses=PUT, openapi_extra=BODY
        )(self.install)
        router.get(ONE, name="get_push_certificate", dependencies=read, responses=GET)(self.show)
        router.get(ALL, name="list_push_certificates", dependencies=read, responses=LISTED)(
            self.list
        )
        router.delete(
            ALL + "/{topic}",
            name="remove_push_certificate",
            dependencies=remove,
            responses=REMOVED,
        )(self.remove)

    async def install(self, request: Request, force_topic: Forced = None) -> JsonAnswer:
        """Install a push certificate, or renew one, on all replicas and without a restart. The one
        before stays in use until APNs has taken a push with the new one."""
        pair = await self._parsing.of(read_installation, await read_body(request, LIMIT))
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
        answer: dict[str, object] = {"cert": base64.b64encode(found.der).decode()}
        return JsonAnswer(answer | ({"warnings": warnings} if warnings else {}))

    async def list(self) -> JsonAnswer:
        """All push certificates, with how many devices are enrolled under each topic."""
        listing = await self._installation.listing()
        return JsonAnswer(shown(listing.book, listing.enrolled, self._clock.now()))

    async def remove(
        self,
        topic: Annotated[str, Path(description="Whose certificates to remove.")],
        force_topic: Forced = None,
    ) -> JsonAnswer:
        """Remove what was installed by API for a topic; a file of MDM_PUSH_CERT stays."""
        await self._installation.remove(topic, force_topic)
        return JsonAnswer({})
