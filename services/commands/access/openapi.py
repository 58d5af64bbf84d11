"""What OpenAPI says of tokens and of the audit log: bodies, answers and errors, with examples."""

from services.commands.openapi import UDID, UUID, Responses, Schema, errors
from shared.domain.access import Scope

TAG: Schema = {"name": "access", "description": "Tokens of the API, and who changed what."}


def _fields(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _answer(description: str, example: Schema, schema: Schema) -> Schema:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_SCOPES: Schema = {"type": "array", "items": {"type": "string", "enum": [*Scope]}, "minItems": 1}

_TOKEN = {
    "id": UUID,
    "name": "ci",
    "scopes": ["commands", "read"],
    "created_at": "2026-01-02T03:04:05Z",
    "created_by": "api-key",
    "expires_at": "2027-01-02T03:04:05Z",
    "revoked_at": None,
    "last_used_at": None,
}
_TOKEN_SCHEMA = _fields(
    {
        "id": _TEXT,
        "name": _TEXT,
        "scopes": _SCOPES,
        "created_at": _TIME,
        "created_by": _TEXT,
        "expires_at": _TIME,
        "revoked_at": _TIME,
        "last_used_at": _TIME | {"description": "Up to an hour behind."},
    }
)
_NEW_TOKEN = _TOKEN | {"token": "mdm_kJ2x0Q0m3cWc1b7t0b1lq1X0y2mHq0Z8mO2sXy4J3pE"}
_ENTRY = {
    "id": UUID,
    "at": "2026-01-02T03:04:05.678Z",
    "caller": "ci",
    "address": "192.0.2.7",
    "route": "POST /v1/commands",
    "action": "command.queue",
    "targets": [UDID],
    "targets_left_out": 0,
    "detail": "DeviceLock",
    "status": 201,
    "request_id": None,
}
_ENTRY_SCHEMA = _fields(
    {
        "id": _TEXT,
        "at": _TIME,
        "caller": _TEXT,
        "address": _TEXT,
        "route": _TEXT,
        "action": _TEXT,
        "targets": {"type": "array", "items": _TEXT},
        "targets_left_out": {"type": "integer"},
        "detail": _MAYBE,
        "status": {"type": "integer"},
        "request_id": _MAYBE,
    }
)

_ASKED = {"name": "ci", "scopes": ["read", "commands"], "expires_at": "2027-01-02T03:04:05Z"}
_ASKED_SCHEMA = _fields({"name": _TEXT, "scopes": _SCOPES, "expires_at": _TIME})
TOKEN_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _ASKED_SCHEMA | {"required": ["name", "scopes"]},
                "example": _ASKED,
            }
        },
    }
}
CREATE_TOKEN: Responses = {
    201: _answer("Made. `token` is shown this once.", _NEW_TOKEN, _TOKEN_SCHEMA),
    **errors(400, 401, 403, 409, 413, 503),
}
LIST_TOKENS: Responses = {
    200: _answer(
        "All tokens, the oldest first.",
        {"tokens": [_TOKEN]},
        _fields({"tokens": {"type": "array", "items": _TOKEN_SCHEMA}}),
    ),
    **errors(400, 401, 403, 503),
}
REVOKE_TOKEN: Responses = {
    200: _answer("Revoked.", _TOKEN | {"revoked_at": "2026-02-02T03:04:05Z"}, _TOKEN_SCHEMA),
    **errors(401, 403, 404, 503),
}
AUDIT: Responses = {
    200: _answer(
        "A page; `next` is null on the last one.",
        {"entries": [_ENTRY], "next": None},
        _fields({"entries": {"type": "array", "items": _ENTRY_SCHEMA}, "next": _MAYBE}),
    ),
    **errors(400, 401, 403, 503),
}
