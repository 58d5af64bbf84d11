"""What OpenAPI says of the life of commands."""

from collections.abc import Mapping
from typing import Any

from services.commands.history.list_request import DEFAULT_LIMIT, MOST
from services.commands.openapi import UDID, UUID, Responses, Schema, errors
from shared.domain.command import EntryState

_STATES = [state.value for state in EntryState]
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_TEXT: Schema = {"type": ["string", "null"]}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


_ENTRY: Schema = {
    "udid": {"type": "string", "description": "Of the device, or `UDID:USER` of a user channel."},
    "command_uuid": {"type": "string"},
    "request_type": {"type": "string"},
    "state": {
        "type": "string",
        "enum": _STATES,
        "description": "queued, sent and not_now are open: the device may still answer.",
    },
    "priority": {"type": "integer", "description": "0 is handed out first, 9 last."},
    "collapse_key": _described(
        _TEXT,
        "The newest command of a collapse key replaces older ones (`supersede`: of its type's).",
    ),
    "superseded_by": _described(_TEXT, "CommandUUID of the newer command that ended this one."),
    "handed_out": {"type": "boolean", "description": "Whether the device has had it."},
    "attempts": {"type": "integer", "description": "How often it was handed out."},
    "unanswered_attempts": {
        "type": "integer",
        "description": "How often its device came back and had not answered it, since it was queued or put "
        "off. From the third on, and after 10 minutes, it goes behind all others.",
    },
    "accepted_at": _TIME,
    "not_before": _TIME,
    "expires_at": _TIME,
    "sent_at": _described(_TIME, "When it was last handed out."),
    "answered_at": _described(_TIME, "When the device last reported on it."),
    "finished_at": _TIME,
}
_ANSWER: Schema = {
    "type": ["object", "null"],
    "properties": {
        "event_id": {"type": "string"},
        "received_at": _TIME,
        "status": {"type": "string"},
        "error_chain": {"type": ["array", "null"], "items": {"type": "object"}},
        "response": {
            "type": ["object", "null"],
            "description": "The property list; data is base64, dates are RFC 3339 (text where a date is "
            "outside the years 1 to 9999). null when it cannot be shown, or for the scope `admin`.",
        },
        "response_error": {
            "type": ["string", "null"],
            "description": "Why `response` cannot be shown; `raw` has it all the same.",
        },
        "raw": {
            "type": ["string", "null"],
            "format": "byte",
            "description": "As the device sent it; null where it is for the scope `admin`.",
        },
    },
}
_PUSHES: Schema = {
    "type": ["object", "null"],
    "description": "The pushes for its device while one may be needed; null once it has connected.",
    "properties": {
        "attempts": {"type": "integer"},
        "last_at": _TIME,
        "pushed_at": _described(_TIME, "When APNs last took one."),
        "error": _TEXT,
        "next_at": _TIME,
    },
}
_REFUSAL: Schema = {
    "type": ["object", "null"],
    "description": "The last message of its device that was refused since the command was handed out and "
    "not answered: perhaps its answer.",
    "properties": {
        "at": _TIME,
        "reason": {"type": "string"},
        "detail": {"type": "string"},
        "path": {"type": "string"},
        "count": {"type": "integer", "description": "How many were refused alike."},
    },
}
_LATE: Schema = {
    "type": ["object", "null"],
    "description": "What the device reported after the command had ended otherwise.",
    "properties": {
        "state": {"type": "string", "enum": _STATES},
        "at": _TIME,
        "event_id": {"type": "string"},
        "answer": _ANSWER,
    },
}
COMMAND: Schema = {
    "type": "object",
    "properties": {
        **_ENTRY,
        "pushes": _PUSHES,
        "answer": _ANSWER,
        "last_refusal": _REFUSAL,
        "late_answer": _LATE,
    },
}
"""One command, wherever it is shown whole."""

_SHOWN = {
    "udid": UDID,
    "command_uuid": UUID,
    "request_type": "ProfileList",
    "state": "acknowledged",
    "priority": 5,
    "collapse_key": None,
    "superseded_by": None,
    "handed_out": True,
    "attempts": 1,
    "unanswered_attempts": 0,
    "accepted_at": "2026-01-02T03:04:05.006Z",
    "not_before": None,
    "expires_at": "2026-01-09T03:04:05.006Z",
    "sent_at": "2026-01-02T03:04:06.007Z",
    "answered_at": "2026-01-02T03:04:07.008Z",
    "finished_at": "2026-01-02T03:04:07.008Z",
}
_SHOWN_WHOLE = {
    **_SHOWN,
    "pushes": None,
    "answer": {
        "event_id": "0198f1d2-8a10-7c55-8d01-6a3f20c1e7b2",
        "received_at": "2026-01-02T03:04:07.007Z",
        "status": "Acknowledged",
        "error_chain": None,
        "response": {
            "CommandUUID": UUID,
            "ProfileList": [],
            "Status": "Acknowledged",
            "UDID": UDID,
        },
        "response_error": None,
        "raw": "PD94bWwgdmVyc2lvbj0iMS4w",
    },
    "last_refusal": None,
    "late_answer": None,
}
_CANCELLED = {
    **_SHOWN_WHOLE,
    "state": "cancelled",
    "answered_at": None,
    "answer": None,
}


def _answer(description: str, example: Schema, schema: Schema) -> Schema:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


ONE: Responses = {
    200: _answer("How it stands.", _SHOWN_WHOLE, COMMAND),
    **errors(400, 401, 403, 404, 409, 429, 503),
}
CANCEL: Responses = {
    200: _answer("It is cancelled; this is how it stands.", _CANCELLED, COMMAND),
    **errors(401, 403, 404, 409, 429, 503),
}
LIST: Responses = {
    200: _answer(
        "A page of commands. It may have fewer than `limit` commands, and even none, and go on.",
        {"commands": [_SHOWN], "next_cursor": "MTc2NzMyMzA0NTAwNjAwMC4wMTk4"},
        {
            "type": "object",
            "properties": {
                "commands": {"type": "array", "items": {"type": "object", "properties": _ENTRY}},
                "next_cursor": _described(_TEXT, "null at the end of the list."),
            },
        },
    ),
    **errors(400, 401, 403, 409, 429, 503),
}


def _parameter(name: str, schema: Mapping[str, Any], description: str) -> Schema:
    return {"name": name, "in": "query", "schema": dict(schema), "description": description}


_MOMENT: Schema = {"type": "string", "format": "date-time"}
LIST_PARAMETERS: Schema = {
    "parameters": [
        _parameter(
            "state",
            {"type": "array", "items": {"type": "string", "enum": _STATES}},
            "One or several, repeated or separated by commas.",
        ),
        _parameter("request_type", {"type": "string"}, "Apple's name, such as `ProfileList`."),
        _parameter("udid", {"type": "string"}, "Any unique name of one device or user."),
        _parameter("since", _MOMENT, "Accepted then or later."),
        _parameter("until", _MOMENT, "Accepted then or earlier."),
        _parameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT_LIMIT},
            "Commands in one page.",
        ),
        _parameter("cursor", {"type": "string"}, "`next_cursor` of the page before."),
    ]
}
