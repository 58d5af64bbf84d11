"""Routes of devices: /mdm/checkin and /mdm/connect; /mdm and /checkin where NanoMDM enrolled them."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from services.checkin.pipeline.device_auth import DeviceAuthentication
from services.checkin.pipeline.requests import (
    DeviceRequests,
    Parse,
    headers_of,
    peer_of,
    see_who_hung_up,
)
from services.checkin.refusals.record import RefusalLog, RefusedSender
from shared.apple.messages.checkin import parse_checkin
from shared.apple.messages.connect import parse_connect, parse_either
from shared.telemetry.metrics import Reason
from shared.web.body import read_body
from shared.web.client_address import ClientAddresses
from shared.web.device_route import (
    DirectDeviceRoute,
    NoteRefused,
    begun_by,
    response_of,
)

TAG = {"name": "mdm", "description": "What enrolled devices call (Apple's MDM protocol)."}
_PLIST_CONTENT = {"application/xml": {"schema": {"type": "string", "format": "binary"}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Accepted and journaled. Empty, or a plist.", "content": _PLIST_CONTENT},
    400: {"description": "Refused: plist, signature, certificate or binding. Empty body."},
    413: {"description": "The body is over MDM_MAX_BODY. Empty body."},
    503: {"description": "Not now; come again after Retry-After seconds. Empty body."},
}
_USER_AUTHENTICATE: dict[str, Any] = {"description": "UserAuthenticate: no such users here."}
_BLOCKED: dict[str, Any] = {"description": "The device is blocked. Empty body."}
_SIGNATURE_PARAMETER = {
    "name": "Mdm-Signature",
    "in": "header",
    "description": "Base64 of a detached CMS signature (DER or BER) of the body, by the device's "
    "identity. Not needed where a trusted proxy hands on the client certificate.",
    "schema": {"type": "string"},
}


def _openapi(example: str) -> dict[str, Any]:
    content = {"application/x-apple-aspen-mdm": {"schema": {"type": "string"}, "example": example}}
    return {
        "parameters": [_SIGNATURE_PARAMETER],
        "requestBody": {"required": True, "content": content},
    }


_CHECKIN_EXAMPLE = (
    '<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    "<key>MessageType</key><string>CheckOut</string>"
    "<key>UDID</key><string>A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD</string></dict></plist>"
)
_CONNECT_EXAMPLE = (
    '<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    "<key>Status</key><string>Idle</string>"
    "<key>UDID</key><string>55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD</string></dict></plist>"
)


def router(requests: DeviceRequests) -> APIRouter:
    """The routes of devices."""
    routes = APIRouter(route_class=DirectDeviceRoute, tags=["mdm"])

    async def serve(parse: Parse, request: Request) -> Response:
        body = await read_body(request, requests.max_body)

        async def is_connected() -> bool:
            await see_who_hung_up()
            return not await request.is_disconnected()

        return response_of(await requests.serve(parse, request.scope, body, is_connected))

    @routes.put(
        "/mdm/checkin",
        summary="Authenticate, TokenUpdate, CheckOut, bootstrap tokens",
        response_class=Response,
        responses={**_RESPONSES, 410: _USER_AUTHENTICATE},
        openapi_extra=_openapi(_CHECKIN_EXAMPLE),
    )
    @begun_by(partial(requests.begin, parse_checkin))
    async def checkin(request: Request) -> Response:
        return await serve(parse_checkin, request)

    @routes.put(
        "/mdm/connect",
        summary="Report on a command, and get the next one",
        response_class=Response,
        responses={**_RESPONSES, 401: _BLOCKED},
        openapi_extra=_openapi(_CONNECT_EXAMPLE),
    )
    @begun_by(partial(requests.begin, parse_connect))
    async def connect(request: Request) -> Response:
        return await serve(parse_connect, request)

    @begun_by(partial(requests.begin, parse_either))
    async def either(request: Request) -> Response:
        return await serve(parse_either, request)

    for path, example in (("/mdm", _CONNECT_EXAMPLE), ("/checkin", _CHECKIN_EXAMPLE)):
        routes.put(
            path,
            summary="Both kinds of message, for devices that NanoMDM enrolled",
            description="MessageType makes a message a check-in, Status a connect; both or neither: 400.",
            name=f"either_{path[1:]}",
            response_class=Response,
            responses={**_RESPONSES, 401: _BLOCKED, 410: _USER_AUTHENTICATE},
            openapi_extra=_openapi(example),
        )(either)

    return routes


def refusal_listener(
    refusals: RefusalLog, devices: DeviceAuthentication, addresses: ClientAddresses
) -> NoteRefused:
    """Notes who was refused: proven before, or as its headers claim."""

    def note(request: Request, status: int, reason: Reason, detail: str) -> None:
        certificate, is_proven = getattr(request.state, "proven", None), True
        if certificate is None and refusals.may_read_claim():
            scope = request.scope
            certificate, is_proven = devices.claimed(headers_of(scope), peer_of(scope))
        sender = RefusedSender.of(
            addresses.address(request.scope), certificate, is_proven=is_proven
        )
        refusals.note(sender, status, reason, detail, request.scope["path"])

    return note
