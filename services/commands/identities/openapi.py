"""What OpenAPI says of devices' certificates."""

from services.commands.identities.schemas import OTHER, OURS, UNKNOWN
from services.commands.openapi import UDID, UUID, Responses, Schema, errors
from shared.domain.identity import BoundBy, QuarantineReason, RenewalFailure

LONGEST_PATIENCE = 30
"""Days."""
DEFAULT_PATIENCE = 7

_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}
_SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_BOUND = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SHOWN = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"


def _fields(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


_CERTIFICATE: Schema = {
    "sha256": _SHA256,
    "subject": _TEXT,
    "serial": {"type": "string", "description": "Its serial number, in hex."},
    "not_before": _TIME,
    "not_after": _TIME,
}
_IDENTITY: Schema = {
    "udid": {"type": "string", "description": "Or the EnrollmentID of a user enrollment."},
    "certificate": {
        "type": ["object", "null"],
        "description": "The one that speaks for it; null: none, after a reset.",
        "properties": {
            **_CERTIFICATE,
            "issuer": {
                "type": "string",
                "enum": [OURS, OTHER, UNKNOWN],
                "description": "Our SCEP, or another CA that is trusted.",
            },
        },
    },
    "bound_at": _TIME,
    "bound_by": {"type": ["string", "null"], "enum": [*BoundBy, None]},
    "next": {
        "type": "array",
        "description": "Given out to follow it. The first that the device shows takes its place.",
        "items": _fields(
            {
                "sha256": _SHA256,
                "subject": _TEXT,
                "serial": _TEXT,
                "issued_at": _TIME,
                "not_after": _TIME,
            }
        ),
    },
    "retired_certificates_sha256": {
        "type": "array",
        "items": _SHA256,
        "description": "Spoke for it once, and are not heard again; the latest 100.",
    },
    "reset_from_sha256": _MAYBE | {"description": "What the last reset took away."},
    "expired_accepted_until": _TIME
    | {"description": "Until then the certificate is good although its time is over."},
    "quarantine": {
        "type": ["object", "null"],
        "description": "It asks in vain; null: it does not.",
        "properties": {
            "since": _TIME,
            "last_seen": _TIME,
            "reason": {"type": "string", "enum": [*QuarantineReason]},
            "certificate": _fields(_CERTIFICATE) | {"description": "The one that it showed last."},
        },
    },
    "renewal": {
        "type": ["object", "null"],
        "description": "What was done to renew the certificate.",
        "properties": {
            "attempts": {"type": "integer"},
            "asked_at": _TIME,
            "command_uuid": _TEXT,
            "failed": {"type": ["string", "null"], "enum": [*RenewalFailure, None]},
        },
    },
}
_EXAMPLE: Schema = {
    "udid": UDID,
    "certificate": {
        "sha256": _BOUND,
        "subject": "CN=MacroMDM Identity,O=MacroMDM",
        "serial": "4f1c2a",
        "not_before": "2026-01-02T03:04:05Z",
        "not_after": "2027-01-02T03:04:05Z",
        "issuer": OURS,
    },
    "bound_at": "2026-01-02T03:04:05Z",
    "bound_by": BoundBy.AUTHENTICATE.value,
    "next": [],
    "retired_certificates_sha256": [],
    "reset_from_sha256": None,
    "expired_accepted_until": None,
    "quarantine": {
        "since": "2026-06-02T03:04:05Z",
        "last_seen": "2026-06-02T04:04:05Z",
        "reason": QuarantineReason.OTHER_CERTIFICATE.value,
        "certificate": {
            "sha256": _SHOWN,
            "subject": "CN=MacroMDM Identity,O=MacroMDM",
            "serial": "5a9d01",
            "not_before": "2026-05-02T03:04:05Z",
            "not_after": "2027-05-02T03:04:05Z",
        },
    },
    "renewal": {
        "attempts": 1,
        "asked_at": "2026-06-02T03:04:05Z",
        "command_uuid": UUID,
        "failed": None,
    },
}
_ANSWER: Schema = {
    "description": "The certificate of the device, and what is known besides.",
    "content": {"application/json": {"schema": _fields(_IDENTITY), "example": _EXAMPLE}},
}

GET: Responses = {200: _ANSWER, **errors(400, 401, 403, 404, 409, 503)}
POST: Responses = {200: _ANSWER, **errors(400, 401, 403, 404, 409, 413, 503)}
DELETE: Responses = {
    200: {
        "description": "Nothing is bound to the device any more.",
        "content": {"application/json": {"schema": {"type": "object"}, "example": {}}},
    },
    **errors(401, 403, 404, 409, 503),
}
BODY: Schema = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["certificate_sha256"],
                    "properties": {
                        "certificate_sha256": _SHA256,
                        "accept_expired_days": {
                            "type": ["integer", "null"],
                            "minimum": 1,
                            "maximum": LONGEST_PATIENCE,
                            "default": DEFAULT_PATIENCE,
                        },
                    },
                },
                "example": {"certificate_sha256": _SHOWN},
            }
        },
    }
}
