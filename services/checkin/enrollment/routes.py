"""Routes of enrollment: /mdm/enroll, /ota/enroll, /ota/phase23.

Promises: a refusal is 400 with an empty body and leaves nothing behind; answers are never cached, since
each holds a challenge.
"""

import hmac
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from services.checkin.answers import DeviceRefused
from services.checkin.enrollment.ota import OverTheAir
from services.checkin.enrollment.profiles import EnrollmentProfiles
from shared.apple.profiles.payloads import CONTENT_TYPE, with_parameters
from shared.telemetry.metrics import Reason
from shared.web.body import read_body
from shared.web.device_route import DeviceRoute

TAG = {"name": "enrollment", "description": "The profiles that devices fetch to enroll."}
TOKEN = "token"
MOST_PARAMETERS = 20
LONGEST_QUERY = 2048
"""Characters of the parameters in a URL of the profile, percent-encoded."""

_PROFILE = {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "A profile, signed where a certificate is set.", "content": _PROFILE},
    400: {"description": "Refused: token, signature, certificate or challenge. Empty body."},
    413: {"description": "The body is over MDM_MAX_BODY. Empty body."},
    503: {"description": "Not now; come again after Retry-After seconds. Empty body."},
}
_SIGNED = {
    "requestBody": {
        "content": {
            "application/pkcs7-signature": {
                "schema": {"type": "string", "format": "binary"},
                "example": "(CMS, DER: a property list with UDID, SERIAL, PRODUCT, VERSION)",
            }
        }
    }
}
_QUERY = {
    "parameters": [
        {
            "name": TOKEN,
            "in": "query",
            "description": "MDM_ENROLL_TOKEN, where it is set. All other parameters go into ServerURL "
            "and CheckInURL, and so into `url_params` of the device's events.",
            "schema": {"type": "string"},
        }
    ]
}
_SUMMARIES = {
    "/mdm/enroll": "The profile that enrolls a device",
    "/ota/enroll": "The first profile of over-the-air enrollment",
    "/ota/phase23": "The second and the third profile of over-the-air enrollment",
}


class EnrollTokens:
    """The tokens of MDM_ENROLL_TOKEN: a URL of enrollment needs one of them, where there are any."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(token.encode() for token in tokens)

    def checked(self, request: Request) -> dict[str, str]:
        """The other parameters of the URL. Raises DeviceRefused without a good token."""
        parameters = parameters_of(request)
        if self._tokens:
            given = parameters.pop(TOKEN, "").encode()
            # All are compared, so that the time says nothing of which one is near.
            if not sum(hmac.compare_digest(given, token) for token in self._tokens):
                raise DeviceRefused(Reason.UNAUTHENTICATED, "token: missing or wrong")
        return parameters


def parameters_of(request: Request) -> dict[str, str]:
    """The first value of each name in the query string; DeviceRefused where there is too much."""
    parameters: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        parameters.setdefault(name, value)
    if len(parameters) > MOST_PARAMETERS or len(with_parameters("", parameters)) > LONGEST_QUERY:
        raise DeviceRefused(Reason.MESSAGE, "the URL has too many parameters, or too long ones")
    return parameters


def router(
    profiles: EnrollmentProfiles,
    ota: OverTheAir,
    tokens: EnrollTokens,
    max_body: int,
) -> APIRouter:
    routes = APIRouter(route_class=DeviceRoute, tags=["enrollment"])

    async def enroll(request: Request) -> Response:
        parameters = tokens.checked(request)
        device = await ota.vouched_device(await read_body(request, max_body))
        return _profile(await profiles.enrollment(parameters, device))

    async def ota_enroll(request: Request) -> Response:
        return _profile(await profiles.profile_service(tokens.checked(request)))

    async def ota_phase_2_and_3(request: Request) -> Response:
        parameters = parameters_of(request)
        return _profile(await ota.answer(await read_body(request, max_body), parameters))

    for method, path, endpoint, described in (
        ("GET", "/mdm/enroll", enroll, _QUERY),
        ("POST", "/mdm/enroll", enroll, _QUERY | _SIGNED),
        ("GET", "/ota/enroll", ota_enroll, _QUERY),
        ("POST", "/ota/phase23", ota_phase_2_and_3, _SIGNED),
    ):
        routes.add_api_route(
            path,
            endpoint,
            methods=[method],
            summary=_SUMMARIES[path],
            operation_id=f"{path.strip('/').replace('/', '_')}_{method.lower()}",
            response_class=Response,
            responses=_RESPONSES,
            openapi_extra=described,
        )
    return routes


def _profile(content: bytes) -> Response:
    return Response(content, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
