"""What OpenAPI says of devices and of migration: bodies, answers and errors, each with an example."""

from services.commands.openapi import UDID, UUID, Responses, Schema, errors
from shared.domain.identity import BoundBy, QuarantineReason

MIGRATION_TAG: Schema = {
    "name": "migration",
    "description": "Take over the enrollments of another MDM server.",
}


def _answer(description: str, example: Schema, schema: Schema) -> Schema:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


def _fields(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_STATUS: Schema = {
    "type": "string",
    "enum": ["authenticated", "enrolled", "checked_out"],
    "description": "`enrolled` from the first TokenUpdate on.",
}
_PUSH: Schema = {
    "type": ["object", "null"],
    "description": "What a push needs is there; null before the first TokenUpdate.",
    "properties": {
        "topic": _TEXT,
        "token_updated_at": _TIME,
        "is_token_dead": {"type": "boolean", "description": "APNs said that nobody has it."},
    },
}
DEVICE: Schema = {
    "serial_number": _TEXT,
    "udid": {"type": "string", "description": "Empty for a user enrollment."},
    "enrollment_status": {"type": "boolean"},
    "last_seen": {
        "type": "string",
        "format": "date-time",
        "description": "A few seconds behind; 0001-01-01T00:00:00Z: never here.",
    },
    "dep_profile_status": _TEXT,
    "enrollment_id": {"type": "string", "description": "Of a user enrollment only."},
    "status": _STATUS,
    "blocked": {"type": "boolean"},
    "model": _MAYBE,
    "model_name": _MAYBE,
    "product_name": _MAYBE,
    "device_name": _MAYBE,
    "os_version": _MAYBE,
    "build_version": _MAYBE,
    "imei": _MAYBE,
    "meid": _MAYBE,
    "push": _PUSH,
    "generation": _MAYBE
    | {"description": "The event_id of the Authenticate that enrolled it; renewals keep it."},
    "certificate_sha256": _MAYBE
    | {"description": "Of the certificate that speaks for it, in hex."},
    "identity": {
        "type": ["object", "null"],
        "description": "The certificate that speaks for it; null where none is bound.",
        "properties": {
            "subject": _TEXT,
            "serial": {"type": "string", "description": "Its serial number, in hex."},
            "not_before": _TIME,
            "not_after": _TIME,
            "bound_at": _TIME,
            "bound_by": {"type": "string", "enum": [*BoundBy]},
        },
    },
    "quarantine": {
        "type": ["object", "null"],
        "description": "It asks in vain; null: it does not.",
        "properties": {
            "since": _TIME,
            "last_seen": _TIME,
            "reason": {"type": "string", "enum": [*QuarantineReason]},
            "certificate_sha256": {"type": "string", "description": "That it showed last."},
        },
    },
    "migrating_until": _TIME
    | {"description": "It came by migration; until then it may show its certificate."},
}
EXAMPLE: Schema = {
    "serial_number": "C02W00D3HTD0",
    "udid": UDID,
    "enrollment_status": True,
    "last_seen": "2026-01-02T03:04:05Z",
    "dep_profile_status": "",
    "status": "enrolled",
    "blocked": False,
    "model": "Mac16,1",
    "model_name": "MacBook Pro",
    "product_name": "Mac16,1",
    "device_name": "Anna's MacBook",
    "os_version": "15.1",
    "build_version": "24B83",
    "imei": None,
    "meid": None,
    "push": {
        "topic": "com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04",
        "token_updated_at": "2026-01-02T03:04:05Z",
        "is_token_dead": False,
    },
    "generation": UUID,
    "certificate_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "identity": {
        "subject": "CN=MacroMDM Identity,O=MacroMDM",
        "serial": "4f1c2a",
        "not_before": "2026-01-02T03:04:05Z",
        "not_after": "2027-01-02T03:04:05Z",
        "bound_at": "2026-01-02T03:04:05Z",
        "bound_by": "authenticate",
    },
    "quarantine": None,
    "migrating_until": None,
}
_USER: Schema = {
    "id": {"type": "string", "description": "`UDID:USER`, by which commands are queued for it."},
    "user": _TEXT,
    "status": _STATUS,
    "last_seen": _TIME,
    "push": _PUSH,
}
_USER_EXAMPLE = {
    "id": f"{UDID}:F151140B-3988-45A9-9471-E96B49F27D93",
    "user": "F151140B-3988-45A9-9471-E96B49F27D93",
    "status": "enrolled",
    "last_seen": "2026-01-02T03:04:05Z",
    "push": EXAMPLE["push"],
}
_REFUSAL: Schema = {
    "at": {"type": "string", "format": "date-time", "description": "Of the last one."},
    "reason": {
        "type": "string",
        "description": "The label of macromdm_requests_refused_total: `plist`, `binding`, ...",
    },
    "detail": {"type": "string", "description": "What was wrong, as the log says it."},
    "path": _TEXT,
    "count": {"type": "integer", "description": "How many were refused alike."},
}
_REFUSAL_EXAMPLE = {
    "at": "2026-01-02T03:04:05Z",
    "reason": "plist",
    "detail": "PushMagic: missing",
    "path": "/mdm/checkin",
    "count": 3,
}
_SHOWN: Schema = _fields(
    {
        **DEVICE,
        "retired_certificates_sha256": {
            "type": "array",
            "items": _TEXT,
            "description": "Spoke for it once, and are not heard again; the latest 100.",
        },
        "unreadable": _MAYBE | {"description": "Why its secrets cannot be opened."},
        "refusals": {
            "type": "array",
            "items": _fields(_REFUSAL),
            "description": "Its latest messages that were refused, newest first: at most five kinds. A few"
            " seconds behind; what a process saw last before a crash is missing.",
        },
        "users": {"type": "array", "items": _fields(_USER)},
        "next_cursor": _MAYBE | {"description": "Leads to more `users`; null: these are all."},
    }
)

LIST_ALL: Responses = {
    200: _answer(
        "Devices by id. A user enrollment has an empty `udid`, and `enrollment_id`.",
        {"devices": [EXAMPLE]},
        _fields({"devices": {"type": "array", "items": _fields(DEVICE)}}),
    ),
    **errors(400, 401, 403, 413, 503),
}
LIST: Responses = {
    200: _answer(
        "Devices by id. `next_cursor` leads on; null: there are no more.",
        {"devices": [EXAMPLE], "next_cursor": "NTU2OTNFQjMtREYwMy01RkQxLTkyNjMtRjdDREI4QUQ3RkZE"},
        _fields(
            {"devices": {"type": "array", "items": _fields(DEVICE)}, "next_cursor": _MAYBE},
        ),
    ),
    **errors(400, 401, 403, 503),
}
ONE: Responses = {
    200: _answer(
        "The device, and its user channels.",
        {
            **EXAMPLE,
            "retired_certificates_sha256": [],
            "unreadable": None,
            "refusals": [_REFUSAL_EXAMPLE],
            "users": [_USER_EXAMPLE],
            "next_cursor": None,
        },
        _SHOWN,
    ),
    **errors(400, 401, 403, 404, 409, 503),
}


def secret(name: str) -> Responses:
    """Of a route that shows a secret of a device."""
    schema = _fields({"udid": _TEXT, name: {"type": "string", "format": "byte"}})
    return {
        200: _answer("The token, base64.", {"udid": UDID, name: "AAECAwQFBgc="}, schema),
        **errors(400, 401, 403, 404, 409, 503),
    }


_PLIST = (
    '<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    "<key>MessageType</key><string>Authenticate</string>"
    "<key>Topic</key><string>com.apple.mgmt.External.3a7c95f2-c214-4b53-a585-a553c2623e04</string>"
    f"<key>UDID</key><string>{UDID}</string></dict></plist>"
)
MIGRATION_BODY: Schema = {
    "requestBody": {
        "required": True,
        "description": "The message as a property list, under any Content-Type; no signature.",
        "content": {"application/xml": {"schema": _TEXT, "example": _PLIST}},
    }
}
MIGRATION: Responses = {
    200: _answer(
        "It is stored durably, or was already.",
        {
            "outcome": "imported",
            "message_type": "Authenticate",
            "id": UDID,
            "migrating_until": "2026-02-01T03:04:05Z",
        },
        _fields(
            {
                "outcome": {"type": "string", "enum": ["imported", "unchanged"]},
                "message_type": _TEXT,
                "id": {"type": "string", "description": "Of the enrollment."},
                "migrating_until": _TIME
                | {"description": "Of a device that was imported; null of a user channel."},
            }
        ),
    ),
    **errors(400, 401, 403, 404, 409, 413, 503),
}
