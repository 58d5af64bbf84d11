"""The route of SCEP clients: /scep, with `operation` in the query (RFC 8894, section 4).

Towards clients: 200 with what SCEP defines, a failure too; 400 for what is no SCEP message, 413, 503.
Never 401 or 403.
"""

import base64
from typing import Any

from fastapi import APIRouter, Request, Response

from services.checkin.scep.server import ScepServer
from shared.domain.errors import BadRequest, TooLarge, unfit
from shared.security.scep.message import LARGEST
from shared.web.body import read_body
from shared.web.problems import problem_of

TAG = {"name": "scep", "description": "Where devices get their certificates (SCEP, RFC 8894)."}
PKI_MESSAGE = "application/x-pki-message"
CA_CERTIFICATE = "application/x-x509-ca-cert"
LONGEST_MESSAGE = LARGEST * 3 // 2
"""Characters of a message in base64, some of them line ends."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_EXAMPLE = "(a CMS SignedData of message type 19, PKCSReq, in DER)"


def _problem(status: int, description: str, error: str) -> dict[int | str, dict[str, Any]]:
    example = problem_of(status, error)
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {status: {"description": description, "content": content}}


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "PKIOperation: a signed answer (CertRep), a failure too. GetCACaps: a word a "
        "line. GetCACert: the CA's certificate in DER.",
        "content": {
            PKI_MESSAGE: _BINARY,
            CA_CERTIFICATE: _BINARY,
            "text/plain": {"schema": {"type": "string"}, "example": "Renewal\nSHA-256\nAES\n"},
        },
    },
    **_problem(
        400,
        "Another operation, or no SCEP message.",
        "operation: expected GetCACaps, GetCACert or PKIOperation",
    ),
    **_problem(413, "The message is over 32 KiB.", f"the body is over {LARGEST} bytes"),
    **_problem(503, "Not now; come again after Retry-After seconds.", "MongoDB: no answer in time"),
}
_OPERATION = {
    "name": "operation",
    "in": "query",
    "required": True,
    "schema": {"type": "string", "enum": ["GetCACaps", "GetCACert", "PKIOperation"]},
    "example": "GetCACaps",
}
_MESSAGE = {
    "name": "message",
    "in": "query",
    "description": "PKIOperation: the message in base64. Else it does not matter.",
    "schema": {"type": "string"},
}


def router(scep: ScepServer) -> APIRouter:
    routes = APIRouter(tags=["scep"])

    async def operate(message: bytes) -> Response:
        return Response(await scep.operate(message), media_type=PKI_MESSAGE)

    @routes.get(
        "/scep",
        name="get_scep",
        summary="SCEP: capabilities, CA certificate, or a request in the URL",
        response_class=Response,
        responses=_RESPONSES,
        openapi_extra={"parameters": [_OPERATION, _MESSAGE]},
    )
    async def get(request: Request) -> Response:
        match request.query_params.get("operation"):
            case "GetCACaps":
                return Response(scep.capabilities(), media_type="text/plain")
            case "GetCACert":
                return Response(scep.ca_certificate(), media_type=CA_CERTIFICATE)
            case "PKIOperation":
                return await operate(from_query(request.query_params.get("message", "")))
        raise unfit("operation", "GetCACaps, GetCACert or PKIOperation")

    @routes.post(
        "/scep",
        name="post_scep",
        summary="SCEP: a request for a certificate, or for its renewal",
        response_class=Response,
        responses=_RESPONSES,
        openapi_extra={
            "parameters": [_OPERATION],
            "requestBody": {
                "required": True,
                "content": {PKI_MESSAGE: _BINARY | {"example": _EXAMPLE}},
            },
        },
    )
    async def post(request: Request) -> Response:
        body = await read_body(request, LARGEST)
        if request.query_params.get("operation") != "PKIOperation":
            raise unfit("operation", "PKIOperation")
        return await operate(body)

    return routes


def from_query(text: str) -> bytes:
    """Base64 as it comes out of a query string: of either alphabet, `+` as a space, with line ends,
    perhaps without its padding. Raises BadRequest, TooLarge."""
    if len(text) > LONGEST_MESSAGE:
        raise TooLarge(f"the message is over {LARGEST} bytes")
    plain = "".join(text.replace("\r", "").split("\n"))
    plain = plain.translate(str.maketrans(" -_", "++/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise BadRequest("message: expected base64") from None
