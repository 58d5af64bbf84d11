"""OpenAPI's view of the commands: JSON Schema made from the compiled catalogue, with examples.

Promise: what is taken in the preferred spelling fits the schema, and every example is taken.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.apple.catalogue.envelope_schema import ENVELOPE, ENVELOPE_NAMES, NEEDS_TARGET
from shared.apple.catalogue.example import command_example
from shared.apple.values.containers import Array, Dictionary, FreeDictionary, Union
from shared.apple.values.scalars import INTEGERS, Boolean, Data, Date, Integer, Real, Text, Value
from shared.apple.values.systems import systems_sentence

Schema = dict[str, object]
COMPONENTS = "#/components/schemas/"


def component_name(request_type: str) -> str:
    """The name of a command\'s schema among the components of the document."""
    return f"{request_type}Command"


def request_schema(forms: Iterable[Dictionary]) -> Schema:
    """All commands as alternatives, identified by `request_type`.

    Their own schemas are under `x-components`, for the components of the document."""
    forms = list(forms)
    mapping = {form.name: COMPONENTS + component_name(form.name) for form in forms}
    shared: dict[str, Schema] = {ENVELOPE_NAMES[name]: dict(ENVELOPE[name]) for name in ENVELOPE}
    for form in forms:
        shared[component_name(form.name)] = command_schema(form, shared)
    return {
        "oneOf": [{"$ref": ref} for ref in mapping.values()],
        "discriminator": {"propertyName": "request_type", "mapping": mapping},
        "x-components": shared,
    }


def command_schema(form: Dictionary, shared: dict[str, Schema] | None = None) -> Schema:
    """The flat form of one command. With `shared`, parts of it are put there and referred to."""
    schema = _Maker(form.name, shared).dictionary(form)
    own = schema["properties"]
    if not isinstance(own, dict):
        raise TypeError("a command's schema has properties")
    title, envelope = form.name, dict(ENVELOPE)
    if shared is not None:
        title = component_name(form.name)  # generators of clients call the model by its title
        envelope = {name: {"$ref": COMPONENTS + ENVELOPE_NAMES[name]} for name in ENVELOPE}
    kind: Schema = {"type": "string", "const": form.name}
    return {
        "title": title,
        "description": systems_sentence(form.systems),
        **schema,
        "properties": {"request_type": kind, **own, **envelope},
        "required": ["request_type", *(key.json for key in form.keys if key.required)],
        **NEEDS_TARGET,
        "example": command_example(form),
    }


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the schemas of one command's values."""

    request_type: str
    shared: dict[str, Schema] | None = field(default=None)

    def value(self, value: Value) -> Schema:
        match value:
            case Text():
                return _text(value)
            case Integer() | Real():
                return _number(value)
            case Array():
                bounds: Schema = {"minItems": value.at_least} if value.at_least else {}
                bounds |= {} if value.at_most is None else {"maxItems": value.at_most}
                return {"type": "array", "items": self.value(value.item), **bounds}
            case Dictionary():
                return self.dictionary(value)
            case Union():
                return self._union(value)
        return _fixed(value)

    def dictionary(self, value: Dictionary) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {key.json: self.value(key.value) for key in value.keys},
            "additionalProperties": False,
        }
        if required := [key.json for key in value.keys if key.required]:
            schema["required"] = required
        return schema

    def _union(self, value: Union) -> Schema:
        forms = {
            choice: {"title": choice, **self.dictionary(form)}
            for choice, form in value.forms.items()
        }
        if self.shared is None:
            return {"oneOf": list(forms.values())}
        names = {choice: f"{self.request_type}{choice}" for choice in forms}
        self.shared.update({names[choice]: schema for choice, schema in forms.items()})
        mapping = {choice: COMPONENTS + name for choice, name in names.items()}
        return {
            "oneOf": [{"$ref": ref} for ref in mapping.values()],
            "discriminator": {"propertyName": value.by.json, "mapping": mapping},
        }


_FIXED: Mapping[type, Schema] = {
    Boolean: {"type": "boolean"},
    Data: {"type": "string", "format": "byte", "contentEncoding": "base64"},
    Date: {"type": "string", "format": "date-time"},
    FreeDictionary: {"type": ["object", "string"], "description": "or a property list in base64"},
}


def _fixed(value: Value) -> Schema:
    if isinstance(value, Boolean) and value.takes_text:
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}]}
    return dict(_FIXED.get(type(value), {}))


def _text(value: Text) -> Schema:
    schema: Schema = {"type": ["string", "integer"] if value.takes_number else "string"}
    if value.pattern:
        # What JSON Schema calls a match may begin and end anywhere.
        schema["pattern"] = f"^(?:{value.pattern.pattern})$"
    if value.known:
        schema["examples"] = list(value.known)
    if value.allowed:
        schema["enum"] = list(value.allowed)
    return schema


def _number(value: Integer | Real) -> Schema:
    is_real = isinstance(value, Real)
    schema: Schema = {"type": "number"} if is_real else {"type": "integer", "format": "int64"}
    if isinstance(value, Integer) and value.takes_text:
        schema |= {"type": ["integer", "string"], "pattern": "^-?[0-9]{1,19}$"}
    lowest, highest = (-math.inf, math.inf) if is_real else INTEGERS
    if value.lowest != lowest:
        schema["minimum"] = value.lowest
    if value.highest != highest:
        schema["maximum"] = value.highest
    if isinstance(value, Integer) and value.allowed:
        schema["enum"] = list(value.allowed)
    return schema
