"""POST /v1/challenge: a one-time SCEP challenge for a profile that somebody else makes.

Promises: MicroMDM's path and answer; the challenge is for one certificate, and only for the device that
is named, if one is. Whoever has it may enroll a device: it needs the scope `admin`, and is audited.
"""

from collections.abc import Mapping

from fastapi import APIRouter, Request

from services.commands.openapi import Responses, Schema, errors
from shared.apple.request.read_json import parse_json, without_case
from shared.domain.access import Scope
from shared.domain.errors import unfit
from shared.security.challenges import ChallengeBook
from shared.web.answers import JsonAnswer
from shared.web.api.audit import describe
from shared.web.api.auth import ApiAuth
from shared.web.api.parsing import Parsing
from shared.web.body import JSON_LIMIT, read_body

LONGEST_NAME = 128
"""Characters of a UDID or serial number."""

TAG: Schema = {"name": "challenges", "description": "SCEP challenges for profiles of your own."}
_EXAMPLE = {"udid": "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"}
_SECRET = "0123456789abcdef0123456789abcdef"
_TEXT = {"type": ["string", "null"], "maxLength": LONGEST_NAME}
_BODY: Schema = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"udid": _TEXT, "serial_number": _TEXT},
                },
                "example": _EXAMPLE,
            }
        }
    }
}
_RESPONSES: Responses = {
    200: {
        "description": "The challenge, which is shown this once. `string` is MicroMDM's name for it.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "challenge": {"type": "string"},
                        "string": {"type": "string"},
                    },
                },
                "example": {"challenge": _SECRET, "string": _SECRET},
            }
        },
    },
    **errors(400, 401, 403, 413, 503),
}


def challenge_routes(challenges: ChallengeBook, auth: ApiAuth) -> APIRouter:
    """POST /v1/challenge."""
    routes = auth.router(tags=["challenges"])
    parsing = Parsing()

    @routes.post(
        "/v1/challenge",
        dependencies=[auth.needs(Scope.ADMIN, audit="challenge.create")],
        summary="Make a one-time SCEP challenge",
        responses=_RESPONSES,
        openapi_extra=_BODY,
    )
    async def post_challenge(request: Request) -> JsonAnswer:
        """Good for one certificate within MDM_SCEP_CHALLENGE_VALIDITY. With `udid` or
        `serial_number` the certificate counts for that device only. The body may be empty."""
        body = await read_body(request, JSON_LIMIT)
        udid, serial_number = await parsing.of(read_bound, body)
        describe(request, [each for each in (udid, serial_number) if each])
        secret = await challenges.issue_once(udid, serial_number)
        return JsonAnswer({"challenge": secret, "string": secret})

    return routes


def read_bound(body: bytes) -> tuple[str | None, str | None]:
    """`{"udid", "serial_number"}`, both optional; names match without letter case, null is absent."""
    given = parse_json(body) if body.strip() else {}
    folded = without_case(given)
    return _name(folded, "udid"), _name(folded, "serial_number")


def _name(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME or not value.isprintable():
        raise unfit(name, f"a string of 1 to {LONGEST_NAME} characters")
    return value
