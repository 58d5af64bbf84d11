"""A command's form as facts for programs: keys, types, bounds, systems, all the way down.

The same facts as in OpenAPI and in docs/commands.md, and from the same place: what the validator
was compiled from.
"""

import math
from collections.abc import Iterator, Mapping

from shared.apple.catalogue.compiling import CommandForm
from shared.apple.catalogue.example import command_example
from shared.apple.catalogue.facts import FactTree
from shared.apple.catalogue.schema import command_schema
from shared.apple.catalogue.systems import systems_json
from shared.apple.values.containers import Anything, Array, Dictionary, FreeDictionary, Key, Union
from shared.apple.values.scalars import INTEGERS, Boolean, Data, Date, Integer, Real, Text, Value

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


def summary(form: CommandForm) -> Members:
    """One line of a list of commands."""
    return {
        "request_type": form.request_type,
        "required": [key.json for key in form.keys.keys if key.required],
        "systems": systems_json(form.facts.systems),
    }


def description(form: CommandForm) -> Members:
    """All about one command. `name` of a key is the one in our answers, `apple_name` is Apple's."""
    return {
        "request_type": form.request_type,
        "systems": systems_json(form.facts.systems),
        "keys": _keys(form.keys, form.facts),
        "example": command_example(form),
        "schema": command_schema(form),
    }


def _keys(value: Dictionary, facts: FactTree | None) -> list[Members]:
    return [_key(key, facts.keys.get(key.name) if facts else None) for key in value.keys]


def _key(key: Key, facts: FactTree | None) -> Members:
    return {
        "name": key.json,
        "apple_name": key.name,
        "required": key.required,
        **_value(key.value, facts),
    }


def _value(value: Value, facts: FactTree | None) -> Members:
    members: Members = {"type": TYPES[type(value)], **dict(_bounds(value))}
    if facts and facts.systems:
        members["systems"] = systems_json(facts.systems)
    match value:
        case Array(item=Union() as union):
            members |= {"items": _alternatives(union, facts)}
        case Array():
            members["items"] = _value(value.item, facts.item if facts else None)
        case Dictionary():
            members["keys"] = _keys(value, facts)
        case FreeDictionary():
            members["keys"] = None  # free ones
        case Text() if value.known:
            members["known"] = [_known(name, facts) for name in value.known]
    return members


def _known(name: str, facts: FactTree | None) -> Members:
    systems = (facts.values or {}).get(name) if facts else None
    return {"value": name} | ({"systems": systems_json(systems)} if systems else {})


def _alternatives(union: Union, facts: FactTree | None) -> Members:
    trees = (facts.alternatives if facts else None) or {}
    return {
        "type": TYPES[Union],
        "told_apart_by": union.by.json,
        "alternatives": [
            {"value": choice, **_value(form, trees.get(choice))}
            for choice, form in union.forms.items()
        ],
    }


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
