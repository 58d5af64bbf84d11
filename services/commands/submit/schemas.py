"""Requests that queue commands, and their answers; the catalogue of commands as programs read it."""

from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from services.commands.history.schemas import CommandOut
from services.commands.jobs.schemas import JobDetails, JobOut
from shared.apple.catalogue.envelope_schema import ENVELOPE
from shared.apple.request.terms import TERMS
from shared.web.api.openapi import IDEMPOTENCY_KEY, UDID, UUID, WAIT, Schema, about, like

_PLIST = (
    '<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    "<key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict>"
    f"<key>CommandUUID</key><string>{UUID}</string></dict></plist>"
)
_COMMAND = {"request_type": "DeviceInformation", "queries": ["OSVersion"]}
_FORMS = (
    "Keys in the spelling shown; letter case and underscores do not matter, so Apple's own spelling "
    "is fine too. Apple's own form is another way to say the same: "
    '`{"udid": "...", "Command": {"RequestType": "DeviceLock", "PIN": "123456"}}`.'
)
RAW_BODY: Schema = {
    "requestBody": {
        "content": {
            kind: {"schema": {"type": "string"}, "example": _PLIST}
            for kind in ("application/xml", "application/octet-stream")
        }
    },
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": dict(ENVELOPE[name])}
        for name in TERMS.values()
    ]
    + [WAIT],
}


def command_body(schema: Schema) -> Schema:
    """The body of POST /v1/commands; `schema` has an example for each request type."""
    content = {"application/json": {"schema": schema, "example": {"udid": UDID, **_COMMAND}}}
    request = {"required": True, "description": _FORMS, "content": content}
    return {"requestBody": request, "parameters": [WAIT, IDEMPOTENCY_KEY]}


class QueuedAnswer(TypedDict, total=False):
    warnings: Annotated[
        list[str],
        about("what may keep the command from working on this device; absent when nothing"),
    ]
    command: Annotated[
        CommandOut,
        about("with `wait`, once it is final: as GET /v1/commands/{udid}/{command_uuid}"),
    ]
    timed_out: Annotated[
        bool, about("true where the `wait` was over before the command was final; else absent")
    ]


class QueuedCommand(QueuedAnswer):
    payload: Annotated[dict[str, Any], like({"command_uuid": UUID, "command": _COMMAND})]
    job: NotRequired[
        Annotated[
            JobDetails | JobOut, about("with `udids`, when it is finished: as GET /v1/jobs/{id}")
        ]
    ]


class QueuedPlist(QueuedAnswer):
    payload: Annotated[
        dict[str, Any],
        like(
            {
                "udid": UDID,
                "command_uuid": UUID,
                "command": {"request_type": "ProfileList"},
                "payload": "PD94bWwgdmVyc2lvbj0iMS4w",
            }
        ),
    ]


class JobStarted(TypedDict):
    payload: Annotated[
        dict[str, Any],
        like({"command_uuid": UUID, "command": {"request_type": "DeviceInformation"}}),
    ]
    job: JobDetails | JobOut


Release = Annotated[
    str, like("27.0 (iOS, iPadOS, macOS, tvOS, visionOS, watchOS), as of November 2026")
]
RequestType = Annotated[str, like("RemoveProfile")]
Systems = Annotated[
    dict[str, Any], like({"iOS": {"available": True, "introduced": "4.0", "user_channel": False}})
]


class RequestTypeSummary(TypedDict):
    request_type: RequestType
    required: Annotated[list[str], like(["identifier"])]
    systems: Systems


class RequestTypeList(TypedDict):
    release: Release
    request_types: list[RequestTypeSummary]


class RequestTypeOut(TypedDict):
    release: Release
    request_type: RequestType
    systems: Systems
    keys: Annotated[
        list[dict[str, Any]],
        like(
            [{"name": "identifier", "apple_name": "Identifier", "required": True, "type": "string"}]
        ),
    ]
    example: Annotated[
        dict[str, Any],
        like({"udid": UDID, "request_type": "RemoveProfile", "identifier": "com.example.app"}),
    ]
    schema: Annotated[dict[str, Any], like({"type": "object"})]
