"""OpenAPI's view of the commands: JSON Schema made from the compiled catalogue, with examples."""

import math
from collections.abc import Iterable, Mapping

from shared.apple.catalogue_compile import CommandForm
from shared.apple.command_containers import Array, Dictionary, FreeDictionary, Union
from shared.apple.command_scalars import (
    INTEGERS,
    Boolean,
    Data,
    Date,
    Integer,
    Real,
    Text,
    Value,
)

Schema = dict[str, object]

ENVELOPE: Schema = {
    "udid": {
        "type": "string",
        "description": "UDID of a device, EnrollmentID of a user enrollment, or UserID of a channel",
        "minLength": 1,
        "maxLength": 256,
    },
    "command_uuid": {
        "type": "string",
        "description": "names the command; made when absent. The same one again is a safe retry",
        "maxLength": 256,
    },
}
EXAMPLE_UDID = "55693EB3-DF03-5FD1-9263-F7CDB8AD7FFD"


def request_schema(forms: Iterable[CommandForm]) -> Schema:
    """All commands as alternatives, told apart by `request_type`."""
    return {
        "oneOf": [command_schema(form) for form in forms],
        "discriminator": {"propertyName": "request_type"},
    }


def command_schema(form: CommandForm) -> Schema:
    """The flat form of one command."""
    schema = _dictionary(form.keys)
    own = schema["properties"]
    required = [key.json for key in form.keys.keys if key.required]
    if not isinstance(own, dict):
        raise TypeError("a command's schema has properties")
    kind: Schema = {"type": "string", "const": form.request_type}
    return schema | {
        "title": form.request_type,
        "properties": {**ENVELOPE, "request_type": kind, **own},
        "required": ["udid", "request_type", *required],
        "example": command_example(form),
    }


def command_example(form: CommandForm) -> Schema:
    """A request with the required keys, or all simple ones where none is required."""
    envelope: Schema = {"udid": EXAMPLE_UDID, "request_type": form.request_type}
    return envelope | _example_keys(form.keys)


def value_schema(value: Value) -> Schema:
    match value:
        case Text() | Integer() | Real():
            return _ranged(value)
        case Array():
            bounds: Schema = {"minItems": value.at_least} if value.at_least else {}
            bounds |= {} if value.at_most is None else {"maxItems": value.at_most}
            return {"type": "array", "items": value_schema(value.item), **bounds}
        case Dictionary():
            return _dictionary(value)
        case Union():
            return {"oneOf": [_dictionary(form, title) for title, form in value.forms.items()]}
    return dict(_FIXED.get(type(value), {}))


_FIXED: Mapping[type, Schema] = {
    Boolean: {"type": "boolean"},
    Data: {"type": "string", "format": "byte", "contentEncoding": "base64"},
    Date: {"type": "string", "format": "date-time"},
    FreeDictionary: {"type": ["object", "string"], "description": "or a property list in base64"},
}


def _dictionary(value: Dictionary, title: str = "") -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": {key.json: value_schema(key.value) for key in value.keys},
        "additionalProperties": False,
    }
    if required := [key.json for key in value.keys if key.required]:
        schema["required"] = required
    return schema | ({"title": title} if title else {})


def _ranged(value: Text | Integer | Real) -> Schema:
    schema: Schema = {}
    match value:
        case Text():
            schema["type"] = "string"
            if value.pattern:
                schema["pattern"] = value.pattern.pattern
            if value.known:
                schema["examples"] = list(value.known)
        case Integer():
            schema |= {"type": "integer", "format": "int64"}
            _add_range(schema, value, INTEGERS)
        case Real():
            schema["type"] = "number"
            _add_range(schema, value, (-math.inf, math.inf))
            return schema
    if value.allowed:
        schema["enum"] = list(value.allowed)
    return schema


def _add_range(schema: Schema, value: Integer | Real, widest: tuple[float, float]) -> None:
    if value.lowest != widest[0]:
        schema["minimum"] = value.lowest
    if value.highest != widest[1]:
        schema["maximum"] = value.highest


def _example_keys(value: Dictionary) -> Schema:
    chosen = [key for key in value.keys if key.required]
    if not chosen:
        simple = (Text, Integer, Boolean)
        chosen = [key for key in value.keys if isinstance(key.value, simple)][:2]
        chosen = [key for key in chosen if key.name != "RequestRequiresNetworkTether"]
    return {key.json: _example(key.value, key.json) for key in chosen}


def _example(value: Value, name: str) -> object:
    match value:
        case Text():
            return (value.allowed or value.known or (name.replace("_", " "),))[0]
        case Integer():
            return value.allowed[0] if value.allowed else max(1, value.lowest)
        case Array():
            return [_example(value.item, name)]
        case Dictionary():
            return _example_keys(value)
        case Union():
            return _example_keys(min(value.forms.values(), key=lambda form: len(form.keys)))
    return _EXAMPLES.get(type(value), {})


_EXAMPLES: Mapping[type, object] = {
    Real: 0.5,
    Boolean: True,
    Data: "ZXhhbXBsZQ==",
    Date: "2024-10-21T07:00:00Z",
}
