"""Routes of devices: /mdm/checkin and /mdm/connect; /mdm and /checkin where NanoMDM enrolled them.

Order for bytes from outside: size limit, signature, certificate, and only then the plist.
"""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.exchange import DeviceExchange
from services.checkin.messages import HANDLERS
from services.checkin.pipeline.device_auth import SMALL_BODY, DeviceAuthentication
from services.checkin.refusals.record import RefusalLog, RefusedSender
from shared.apple.messages.checkin import CheckinMessage, parse_checkin
from shared.apple.messages.connect import Connect, parse_connect, parse_either
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.heavy_work import HeavyWork
from shared.domain.errors import BadRequest
from shared.telemetry.metrics import Reason
from shared.web.body import read_body
from shared.web.client_address import ClientAddresses
from shared.web.device_route import DirectDeviceRoute, NoteRefused

PLIST = "application/xml; charset=utf-8"
TAG = {"name": "mdm", "description": "What enrolled devices call (Apple's MDM protocol)."}
MAX_URL_PARAMS = 100

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


def router(
    batches: BatchExecutor[DeviceExchange, Answer],
    devices: DeviceAuthentication,
    work: HeavyWork,
    max_body: int,
) -> APIRouter:
    """The routes of the check-in service; `work` reads large bodies."""
    routes = APIRouter(route_class=DirectDeviceRoute, tags=["mdm"])

    async def serve(
        request: Request, parse: Callable[[bytes], CheckinMessage | Connect]
    ) -> Response:
        headers, peer = _headers_of(request), _peer_of(request)
        body = await read_body(request, max_body)
        certificate, signed_at = await devices.prove(headers, peer, body)
        request.state.proven = certificate
        try:
            message = parse(body) if len(body) <= SMALL_BODY else await work.do(parse, body)
        except BadRequest as exc:
            raise DeviceRefused(Reason.PLIST, str(exc)) from exc

        async def is_connected() -> bool:
            return not await request.is_disconnected()

        exchange = DeviceExchange(
            message,
            HANDLERS[type(message)],
            certificate,
            body,
            _url_params(request),
            is_connected,
            signed_at,
        )
        answer = await batches.submit(exchange, key=message.key.device)
        return Response(answer.body, answer.status, media_type=PLIST if answer.body else None)

    @routes.put(
        "/mdm/checkin",
        summary="Authenticate, TokenUpdate, CheckOut, bootstrap tokens",
        response_class=Response,
        responses={**_RESPONSES, 410: _USER_AUTHENTICATE},
        openapi_extra=_openapi(_CHECKIN_EXAMPLE),
    )
    async def checkin(request: Request) -> Response:
        return await serve(request, parse_checkin)

    @routes.put(
        "/mdm/connect",
        summary="Report on a command, and get the next one",
        response_class=Response,
        responses={**_RESPONSES, 401: _BLOCKED},
        openapi_extra=_openapi(_CONNECT_EXAMPLE),
    )
    async def connect(request: Request) -> Response:
        return await serve(request, parse_connect)

    async def either(request: Request) -> Response:
        return await serve(request, parse_either)

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


def _url_params(request: Request) -> dict[str, str] | None:
    """The first value of each name in the query string; None where there is none."""
    if not request.scope["query_string"]:
        return None
    params: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        params.setdefault(name, value)
    if len(params) > MAX_URL_PARAMS:
        raise DeviceRefused(Reason.MESSAGE, f"more than {MAX_URL_PARAMS} URL parameters")
    return params or None


def refusal_listener(
    refusals: RefusalLog, devices: DeviceAuthentication, addresses: ClientAddresses
) -> NoteRefused:
    """Notes who was refused: proven before, or as its headers claim."""

    def note(request: Request, status: int, reason: Reason, detail: str) -> None:
        certificate, is_proven = getattr(request.state, "proven", None), True
        if certificate is None and refusals.may_read_claim():
            certificate, is_proven = devices.claimed(_headers_of(request), _peer_of(request))
        sender = RefusedSender.of(addresses.address(request), certificate, is_proven=is_proven)
        refusals.note(sender, status, reason, detail, request.scope["path"])

    return note


def _headers_of(request: Request) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in request.scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return headers


def _peer_of(request: Request) -> str | None:
    return request.client.host if request.client else None
