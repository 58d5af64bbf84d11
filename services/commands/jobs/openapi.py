"""What OpenAPI says of commands for many devices."""

from services.commands.jobs.schemas import MOST, USUAL
from services.commands.openapi import UDID, UUID, Responses, Schema, errors

TAG: Schema = {
    "name": "jobs",
    "description": "Commands for many devices: how far they are, and whom they were not queued for.",
}


def _fields(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _answer(description: str, example: Schema, schema: Schema) -> Schema:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content}


JOB_ID = "0198f1d2-9b00-7c55-8f3a-52f1f6f0a0b7"
_BRIEF: Schema = {
    "id": JOB_ID,
    "command_uuid": UUID,
    "request_type": "DeviceInformation",
    "caller": "api-key-1",
    "state": "finished",
    "total": 3,
    "queued": 2,
    "already_queued": 0,
    "refused_total": 1,
    "warnings": [{"text": "the device must be supervised", "count": 1, "udids": [UDID]}],
    "created_at": "2026-01-02T03:04:05Z",
    "finished_at": "2026-01-02T03:04:06Z",
    "error": None,
}
EXAMPLE: Schema = {
    **_BRIEF,
    "refused": [{"udid": "nobody", "error": "udid: no device or user nobody is enrolled"}],
    "next_cursor": None,
}
"""A job as routes show it."""

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_PROPERTIES: Schema = {
    "id": _TEXT,
    "command_uuid": _TEXT,
    "request_type": _TEXT,
    "caller": _TEXT,
    "state": {"enum": ["running", "finished", "failed"]},
    "total": {**_COUNT, "description": "Targets."},
    "queued": {**_COUNT, "description": "Targets in whose queues it is by this job."},
    "already_queued": {**_COUNT, "description": "Targets that had it from an earlier request."},
    "refused_total": _COUNT,
    "warnings": {
        "type": "array",
        "description": "Each with the number of its targets, and the first few of them.",
        "items": _fields(
            {"text": _TEXT, "count": _COUNT, "udids": {"type": "array", "items": _TEXT}}
        ),
    },
    "created_at": _TEXT,
    "finished_at": _TEXT_OR_NULL,
    "error": {
        **_TEXT_OR_NULL,
        "description": "Why it failed; `refused_total` has all others then.",
    },
}
SCHEMA = _fields(
    {
        **_PROPERTIES,
        "refused": {"type": "array", "items": _fields({"udid": _TEXT, "error": _TEXT})},
        "next_cursor": _TEXT_OR_NULL,
    }
)
"""Of `EXAMPLE`."""

GET_JOB: Responses = {
    200: _answer("How far it is; `refused` is one page.", EXAMPLE, SCHEMA),
    **errors(400, 401, 403, 404, 429, 503),
}
LIST_JOBS: Responses = {
    200: _answer(
        "Jobs, newest first.",
        {"jobs": [_BRIEF], "next_cursor": None},
        _fields(
            {
                "jobs": {"type": "array", "items": _fields(_PROPERTIES)},
                "next_cursor": _TEXT_OR_NULL,
            }
        ),
    ),
    **errors(400, 401, 403, 429, 503),
}
PAGE = {
    "parameters": [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL},
        },
        {
            "name": "cursor",
            "in": "query",
            "description": "`next_cursor` of the page before.",
            "schema": _TEXT,
        },
    ]
}

STARTED: Responses = {
    202: _answer(
        "With `udids`: the job is stored, and goes on; 201 with the same content when it is finished.",
        {
            "payload": {"command_uuid": UUID, "command": {"request_type": "DeviceInformation"}},
            "job": {**EXAMPLE, "state": "running", "queued": 0, "finished_at": None},
        },
        _fields({"payload": {"type": "object"}, "job": SCHEMA}),
    ),
}
