"""JSON Schema of a request's envelope: the targets and terms beside a command's keys."""

from collections.abc import Mapping

from shared.apple.request.read_json import MAX_TARGETS
from shared.apple.request.terms import MAX_TTL, PRIORITIES
from shared.apple.values.reading import MAX_TEXT_ID

Schema = dict[str, object]

_ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_ID}

ENVELOPE: Mapping[str, Schema] = {
    "udid": {
        **_ID,
        "description": "UDID of a device, EnrollmentID of a user enrollment, or UserID of a channel",
    },
    "udids": {
        "type": "array",
        "items": dict(_ID),
        "minItems": 1,
        "maxItems": MAX_TARGETS,
        "description": "instead of `udid`: many at once; doubled ones count once",
    },
    "command_uuid": {
        "type": "string",
        "maxLength": MAX_TEXT_ID,
        "description": "names the command; made when absent. The same one again is a safe retry",
    },
    "priority": {
        "type": "integer",
        "minimum": PRIORITIES.start,
        "maximum": PRIORITIES.stop - 1,
        "description": "0 is handed out first, 9 last; 5 when absent (EraseDevice, DeviceLock: 0)",
    },
    "expires_at": {
        "type": "string",
        "format": "date-time",
        "description": "not handed out from then on",
    },
    "ttl": {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": int(MAX_TTL.total_seconds()),
        "description": "instead of `expires_at`: seconds from acceptance",
    },
    "not_before": {
        "type": "string",
        "format": "date-time",
        "description": "not handed out until then",
    },
    "collapse_key": {
        **_ID,
        "description": "the newest command with the same one replaces those not handed out yet",
    },
    "supersede": {
        "type": "boolean",
        "description": "true: a `collapse_key` of the command's type. InstallProfile has one (the "
        "profile's PayloadIdentifier), and each command that only asks something; 400 for others",
    },
}

ENVELOPE_NAMES: Mapping[str, str] = {
    "udid": "Target",
    "udids": "Targets",
    "command_uuid": "CommandUUID",
    "priority": "Priority",
    "expires_at": "ExpiresAt",
    "ttl": "TimeToLive",
    "not_before": "NotBefore",
    "collapse_key": "CollapseKey",
    "supersede": "Supersede",
}
"""Their names among the components of the document."""

NEEDS_TARGET: Schema = {
    "if": {"required": ["udid"]},
    "then": {"not": {"required": ["udids"]}},
    "else": {"required": ["udids"]},
}
"""Exactly one of the two. Generators of clients drop a schema that has `oneOf` beside `properties`."""
