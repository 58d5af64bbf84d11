"""Writes the tables of docs/commands.md from the catalogue, or says whether they are current.

    python deploy/local/command_tables.py [--check]

What stands above the mark is written by hand.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from generated import below, write_or_check  # noqa: E402 - beside this script

from shared.apple.catalogue.catalogue import CommandCatalogue  # noqa: E402 - after the path to it
from shared.apple.catalogue.description import TYPES  # noqa: E402
from shared.apple.catalogue.example import command_example  # noqa: E402
from shared.apple.request.defaults import QUERIES  # noqa: E402
from shared.apple.values.containers import Array, Dictionary, FreeDictionary, Key, Union  # noqa: E402
from shared.apple.values.scalars import Boolean, Integer, Real, Text, Value  # noqa: E402
from shared.apple.values.systems import Systems, systems_sentence  # noqa: E402

PAGE = ROOT / "docs" / "commands.md"
MARK = "<!-- From here on written by deploy/local/command_tables.py; do not edit. -->\n"
EVERYWHERE = "RequestRequiresNetworkTether"


def tables(catalogue: CommandCatalogue) -> Iterator[str]:
    yield "\n## All commands\n\n"
    yield f"{len(catalogue.forms)} commands of Apple's schema, {catalogue.release}.\n\n"
    yield "| Command | Required keys | Works on (from version) |\n|---|---|---|\n"
    for form in catalogue.forms.values():
        name = form.name
        required = ", ".join(f"`{key.json}`" for key in form.keys if key.required)
        yield f"| [{name}](#{name.lower()}) | {required} | {_works_on(form)} |\n"
    for form in catalogue.forms.values():
        yield from _section(form)


def _works_on(form: Dictionary) -> str:
    return systems_sentence(form.systems).rstrip(".")


def _section(form: Dictionary) -> Iterator[str]:
    yield f"\n### {form.name}\n\nWorks on {systems_sentence(form.systems)}"
    if form.name in QUERIES:
        yield " A question: with `supersede` it replaces the same question where that still waits."
    yield "\n\n"
    rows = list(_rows(form, ""))
    if rows:
        yield "| Key | Apple's name | Type | | Notes |\n|---|---|---|---|---|\n"
        yield from rows
        yield "\n"
    yield f"```json\n{json.dumps(command_example(form), ensure_ascii=False)}\n```\n"


def _rows(value: Dictionary, path: str) -> Iterator[str]:
    for key in value.keys:
        if key.name != EVERYWHERE or path:
            yield from _key(key, path)


def _key(key: Key, path: str) -> Iterator[str]:
    name = f"{path}{key.json}"
    notes = [*_bounds(key.value), *_differences(key.systems)]
    yield _row(name, key.name, _type(key.value), "required" if key.required else "", notes)
    value, suffix = key.value, ""
    while isinstance(value, Array):
        value, suffix = value.item, suffix + "[]"
    if isinstance(value, Dictionary):
        yield from _rows(value, f"{name}{suffix}.")
    elif isinstance(value, Union):
        yield from _alternatives(value, f"{name}{suffix}")


def _alternatives(union: Union, path: str) -> Iterator[str]:
    for choice, form in union.forms.items():
        notes = list(_differences(form.systems))
        yield _row(f"{path}: {union.by.json} {choice}", "", "object", "", notes)
        without = Dictionary(tuple(key for key in form.keys if key.name != union.by.name))
        yield from _rows(without, f"{path}.")


def _row(path: str, apple: str, kind: str, required: str, notes: list[str]) -> str:
    shown = f"`{apple}`" if apple else ""
    return f"| `{path}` | {shown} | {kind} | {required} | {'; '.join(notes)} |\n"


def _type(value: Value) -> str:
    match value:
        case Array():
            return f"list of {_type(value.item)}"
        case Dictionary() | Union():
            return "object"
        case FreeDictionary():
            return "object with any keys"
    return TYPES[type(value)]


def _bounds(value: Value) -> Iterator[str]:
    while isinstance(value, Array):
        value = value.item
    match value:
        case Text() | Integer() if value.allowed:
            yield "one of " + ", ".join(f"`{each}`" for each in value.allowed)
        case Text() if value.pattern:
            yield f"like `{value.pattern.pattern}`"
        case Text() if value.known:
            yield "known so far: " + ", ".join(f"`{each}`" for each in value.known)
        case Real():
            yield f"{value.lowest} to {value.highest}"
    yield from _tolerances(value)


def _tolerances(value: Value) -> Iterator[str]:
    match value:
        case Text(takes_number=True):
            yield "a number is taken too"
        case Integer(takes_text=True):
            yield "a number as text is taken too"
        case Boolean(takes_text=True):
            yield '`"true"` and `"false"` are taken too'


def _differences(systems: Systems) -> Iterator[str]:
    """What holds for this key and not for all of the command."""
    there = {name: facts for name, facts in systems.items() if facts.available}
    if told := [systems_sentence({n: f}).rstrip(".") for n, f in there.items() if _tells(f)]:
        yield ", ".join(told)
    if absent := sorted(systems.keys() - there.keys()):
        yield "not on " + ", ".join(absent)


def _tells(facts: object) -> bool:
    names = ("introduced", "deprecated", "removed", "needs_supervision")
    return any(getattr(facts, name) for name in names)


def main(arguments: list[str]) -> int:
    page = below(PAGE, MARK, "".join(tables(CommandCatalogue.load())))
    return write_or_check({PAGE: page}, arguments, "command_tables.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
