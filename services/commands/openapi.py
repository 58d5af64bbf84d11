"""What OpenAPI says of the command API: bodies, answers and errors, each with an example."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from services.commands.devices.requests import MOST_NAMED
from shared.apple.catalogue.envelope_schema import ENVELOPE
from shared.apple.request.terms import TERMS

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"
UUID = "0198f1d2-7c3a-7d11-9a55-0c7f1b1d9a55"

TAGS: tuple[Schema, ...] = (
    {"name": "commands", "description": "Queue commands for devices, see and clear their queues."},
    {"name": "devices", "description": "List, remove and block devices."},
)

RAW_PLIST = (
    '<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    "<key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict>"
    f"<key>CommandUUID</key><string>{UUID}</string></dict></plist>"
)
PROBLEM: Schema = {
    "type": "object",
    "description": "`error` for people, the members of RFC 9457 for programs.",
    "properties": {
        "error": {"type": "string"},
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "expected": {"type": "string"}},
            },
        },
    },
    "required": ["error", "type", "title", "status", "detail"],
}

_FORBIDDEN = "this needs the scope admin"
_ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: (
        "What was sent cannot be used; `faults` lists all that is wrong.",
        "bad-request",
        "request_type: expected the name of one of Apple's commands",
    ),
    401: (
        "The API key or token is missing or wrong.",
        "unauthorized",
        "the API key or token is wrong",
    ),
    403: ("The token lacks the scope that the message names.", "forbidden", _FORBIDDEN),
    404: ("No such device.", "not-found", f"udid: no device or user {UDID} is enrolled"),
    409: (
        "The id names several enrollments, which the answer lists, or the CommandUUID another command. A "
        "UDID never does; name the device or user by its full id.",
        "conflict",
        f"command_uuid: {UUID} names another command of this device",
    ),
    413: ("The body is too large.", "too-large", "the body is over 4194304 bytes"),
    429: (
        "Too much, or too many failed authentications; come again after Retry-After seconds.",
        "too-many-requests",
        "too many failed authentications from this address",
    ),
    503: (
        "Not now; come again after Retry-After seconds.",
        "unavailable",
        "MongoDB: no answer in time",
    ),
}

_ACCEPTED = {
    "payload": {
        "command_uuid": UUID,
        "command": {"request_type": "DeviceInformation", "queries": ["OSVersion"]},
    }
}
_ACCEPTED_RAW = {
    "payload": {
        "udid": UDID,
        "command_uuid": UUID,
        "command": {"request_type": "ProfileList"},
        "payload": "PD94bWwgdmVyc2lvbj0iMS4w",
    }
}
_QUEUE = {"commands": [{"uuid": UUID, "payload": "PD94bWwgdmVyc2lvbj0iMS4w"}]}
_TEXTS = {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": MOST_NAMED}
_REMOVAL = {"udids": _TEXTS, "serials": _TEXTS}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _answer(description: str, example: Schema, schema: Schema) -> Schema:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


def errors(*statuses: int) -> Responses:
    """The errors of a route, each with an example. Where credentials can fail, they can fail too
    often."""
    found: Responses = {}
    for status in sorted({*statuses, 429} if 401 in statuses else statuses):
        description, kind, error = _ERRORS[status]
        example = {
            "error": "Unauthorized" if status == 401 else error,
            "type": f"urn:macromdm:problem:{kind}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": error,
        }
        found[status] = _answer(description, example, PROBLEM)
    return found


_WARNINGS = {
    "type": "array",
    "items": {"type": "string"},
    "description": "what may keep the command from working on this device; absent when nothing",
}


_COMMAND = {
    "type": "object",
    "description": "with `wait`, once it is final: as GET /v1/commands/{udid}/{command_uuid}",
}
_TIMED_OUT = {
    "type": "boolean",
    "description": "true where the `wait` was over before the command was final; else absent",
}
WAIT: Schema = {
    "name": "wait",
    "in": "query",
    "description": "Seconds (at most MDM_MAX_WAIT) for which to wait until the command is final. "
    "The answer to a POST has `command` then; when the time is over before, it has `timed_out`.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key again is the same command for the same device, for as long as a "
    "repeated `command_uuid` is, which the key becomes. A `command_uuid` in the body goes before it.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def _queued(example: Schema) -> Responses:
    properties = {"warnings": _WARNINGS, "command": _COMMAND, "timed_out": _TIMED_OUT}
    payload = _object({"payload": {"type": "object"}, **properties})
    again = "It is queued already, or the device has just answered it: a safe retry."
    return {
        200: _answer(again, example, payload),
        201: _answer("Stored durably, and queued.", example, payload),
        **errors(400, 401, 403, 404, 409, 413, 429, 503),
    }


def _body(schema: Schema, example: object, content_type: str = "application/json") -> Schema:
    content = {content_type: {"schema": schema, "example": example}}
    return {"requestBody": {"content": content}}


_NOTHING = _answer("Done.", {}, _object({}))

POST_COMMAND: Responses = _queued(_ACCEPTED)
POST_RAW: Responses = _queued(_ACCEPTED_RAW)
GET_QUEUE: Responses = {
    200: _answer(
        "All open commands, in the order in which the device gets them; `{}` when there are none.",
        _QUEUE,
        _object({"commands": {"type": "array", "items": {"type": "object"}}}),
    ),
    **errors(401, 403, 409, 503),
}
DELETE_QUEUE: Responses = {200: _NOTHING, **errors(401, 403, 409, 503)}
DELETE_DEVICES: Responses = {200: _NOTHING, **errors(400, 401, 403, 413, 503)}
BLOCK: Responses = {200: _NOTHING, **errors(401, 403, 404, 409, 503)}

RAW_BODY = _body({"type": "string"}, RAW_PLIST, "application/xml") | {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": dict(ENVELOPE[name])}
        for name in TERMS.values()
    ]
    + [WAIT]
}
LIST_BODY = (
    _body(
        _object(
            {
                "page": {"type": ["integer", "null"], "minimum": 0},
                "per_page": {"type": ["integer", "null"], "minimum": 0, "description": "0: all"},
                "filter_serial": _TEXTS,
                "filter_udid": _TEXTS,
            }
        ),
        {"page": 0, "per_page": 100, "filter_serial": ["C02W00D3HTD0"]},
    )
    | {}
)
REMOVAL_BODY = _body(_object({"Opts": _object(_REMOVAL), **_REMOVAL}), {"Opts": {"udids": [UDID]}})


def command_body(schema: Schema) -> Schema:
    """The body of POST /v1/commands; `schema` has an example for each request type."""
    example = {"udid": UDID, "request_type": "DeviceInformation", "queries": ["OSVersion"]}
    body = _body(schema, example)
    body["requestBody"] |= {"required": True, "description": _FORMS}
    return body | {"parameters": [WAIT, _IDEMPOTENCY_KEY]}


_FORMS = (
    "Keys in the spelling shown; letter case and underscores do not matter, so Apple's own spelling "
    "is fine too. Apple's own form is another way to say the same: "
    '`{"udid": "...", "Command": {"RequestType": "DeviceLock", "PIN": "123456"}}`.'
)
