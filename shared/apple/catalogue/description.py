"""A command as facts for programs: keys, types, bounds, systems, all the way down.

The same facts as in OpenAPI and in docs/commands.md, from the same source: the values that read commands.
"""

import math
from collections.abc import Iterator, Mapping

from shared.apple.catalogue.example import command_example
from shared.apple.catalogue.schema import command_schema
from shared.apple.values.containers import Anything, Array, Dictionary, FreeDictionary, Union
from shared.apple.values.scalars import INTEGERS, Boolean, Data, Date, Integer, Real, Text, Value
from shared.apple.values.systems import Systems, systems_json

Members = dict[str, object]

TYPES: Mapping[type, str] = {
    Text: "string",
    Integer: "integer",
    Real: "real",
    Boolean: "boolean",
    Data: "data",
    Date: "date",
    Array: "array",
    Dictionary: "dictionary",
    FreeDictionary: "dictionary",
    Union: "dictionary",
    Anything: "any",
}
"""Apple's words for the types."""


def summary(form: Dictionary) -> Members:
    """One line of a list of commands."""
    return {
        "request_type": form.name,
        "required": [key.json for key in form.keys if key.required],
        "systems": systems_json(form.systems),
    }


def description(form: Dictionary) -> Members:
    """All about one command. `name` of a key is the one in our answers, `apple_name` is Apple's."""
    return {
        "request_type": form.name,
        "systems": systems_json(form.systems),
        "keys": _keys(form),
        "example": command_example(form),
        "schema": command_schema(form),
    }


def _keys(value: Dictionary) -> list[Members]:
    return [
        {
            "name": key.json,
            "apple_name": key.name,
            "required": key.required,
            **_value(key.value, key.systems),
        }
        for key in value.keys
    ]


def _value(value: Value, systems: Systems) -> Members:
    members: Members = {"type": TYPES[type(value)], **dict(_bounds(value))}
    members |= _facts(systems)
    match value:
        case Array(item=Union(by=by, forms=forms)):
            alternatives = [
                {"value": choice, **_value(form, form.systems)} for choice, form in forms.items()
            ]
            members["items"] = {
                "type": TYPES[Union],
                "told_apart_by": by.json,
                "alternatives": alternatives,
            }
        case Array(item=item):
            members["items"] = _value(item, {})
        case Dictionary():
            members["keys"] = _keys(value)
        case FreeDictionary():
            members["keys"] = None  # free ones
        case Text(known=known) if known:
            members["known"] = [{"value": each} | _facts(known[each]) for each in known]
    return members


def _facts(systems: Systems) -> Members:
    return {"systems": systems_json(systems)} if systems else {}


def _bounds(value: Value) -> Iterator[tuple[str, object]]:
    """The constraints of a value besides its type."""
    match value:
        case Text() | Integer() if value.allowed:
            yield "allowed", list(value.allowed)
        case Text() if value.pattern:
            yield "pattern", value.pattern.pattern
        case Integer() | Real():
            yield from _range(value.lowest, value.highest)
        case Array():
            yield from _range(value.at_least or -math.inf, value.at_most or math.inf)


def _range(lowest: float, highest: float) -> Iterator[tuple[str, object]]:
    if lowest not in (-math.inf, INTEGERS[0]):
        yield "minimum", lowest
    if highest not in (math.inf, INTEGERS[1]):
        yield "maximum", highest
