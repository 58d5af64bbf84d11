"""Makes `catalogue.json` from Apple's device-management schema: a checkout, or a file of its facts.

    python -m shared.apple.catalogue.make --release NAME CHECKOUT|FACTS.json [OUTPUT]

A file of facts holds the commands by request type under Apple's own field names, as JSON. A tool for
developers (it needs PyYAML, an extra); nothing that runs imports it. Only facts are taken: names, types,
presence, allowed values, ranges, patterns, systems. Prose stays behind. A field that is known neither as a
fact nor as prose stops the run, so no new release slips something past us.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

PROSE = frozenset({"title", "content", "description", "notes", "behavior"})
SYSTEM_FACTS = frozenset(
    {
        "introduced",
        "deprecated",
        "removed",
        "accessrights",
        "supervised",
        "requiresdep",
        "userapprovedmdm",
        "devicechannel",
        "userchannel",
        "multiple",
        "allowmanualinstall",
        "allowed-enrollments",
        "allowed-scopes",
        "always-skippable",
        "beta",
        "mode",
    }
)
SYSTEM_MODES = frozenset({"sharedipad", "userenrollment"})
KEY_FACTS = {
    "rangelist": "allowed",
    "range": "range",
    "repetition": "repetition",
    "format": "format",
    "default": "default",
}
"""Apple\'s word and ours."""
UNUSED_KEY_FACTS = frozenset(
    {"valuetype", "subtype", "combinetype", "assettypes", "asset-content-types", "subkeytype"}
)
KEY_FIELDS = frozenset({"key", "type", "presence", "supportedOS", "subkeys"})
TYPES = frozenset(
    {"string", "integer", "real", "boolean", "date", "data", "array", "dictionary", "any"}
)
INNER = ("subkeys", "items", "values")
FACTS_ONLY = frozenset({*INNER, "any_key", "discriminator", "implied"})
"""Fields of a key in a file of facts that the schema has not, or has under another name."""
ENTRY_FIELDS = frozenset(
    {"payload", "payloadkeys", "responsekeys", "related-status-items", "reasons"}
)
PAYLOAD_FIELDS = frozenset({"requesttype", "supportedOS", "beta"})
SOURCE = "facts from apple/device-management; MIT License, Copyright (c) 2022-2026 Apple Inc."
CATALOGUE = Path(__file__).with_name("catalogue.json")

Facts = dict[str, Any]


class SchemaSurprise(Exception):
    """The schema holds something that this tool was not written for."""


def read_commands(checkout: Path) -> dict[str, Facts]:
    """All commands of the checkout, by request type."""
    commands: dict[str, Facts] = {}
    for path in sorted((checkout / "mdm" / "commands").glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        _only(document, ENTRY_FIELDS, path.name)
        _only(document["payload"], PAYLOAD_FIELDS, path.name)
        name = str(document["payload"]["requesttype"])
        if name in commands:
            raise SchemaSurprise(f"{path.name}: a second {name}")
        keys, systems = document.get("payloadkeys") or [], document["payload"].get("supportedOS")
        commands[name] = _entry(name, keys, systems)
    if not commands:
        raise SchemaSurprise(f"{checkout}: no commands found")
    return commands


def read_facts(path: Path) -> dict[str, Facts]:
    """All commands of a file of facts, by request type."""
    return {
        name: _entry(name, map(schema_key, facts["keys"]), facts.get("supportedOS"))
        for name, facts in json.loads(path.read_text(encoding="utf-8")).items()
    }


def _entry(name: str, keys: Iterable[Facts], supported: Facts | None) -> Facts:
    systems = _systems(supported, name)
    return {"keys": [_key(key, name) for key in keys]} | ({"systems": systems} if systems else {})


def schema_key(key: Mapping[str, Any]) -> Facts:
    """A key of a file of facts, as the schema writes it: all that is inside of it is in `subkeys`."""
    named = {f: v for f, v in key.items() if f not in FACTS_ONLY}
    inner = [each for field in INNER for each in key.get(field, ())]
    if "any_key" in key:
        inner.append({"key": "ANY", **key["any_key"]})
    if inner:
        named["subkeys"] = [schema_key(each) for each in inner]
    return named


def _only(block: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    if unknown := set(block) - set(known) - PROSE:
        raise SchemaSurprise(f"{where}: unknown fields {sorted(unknown)}")


def _systems(block: Mapping[str, Any] | None, where: str) -> Facts:
    systems: Facts = {}
    for name, facts in (block or {}).items():
        _only(facts, SYSTEM_FACTS | SYSTEM_MODES, f"{where}, {name}")
        row = {field: facts[field] for field in facts if field in SYSTEM_FACTS}
        for mode in sorted(SYSTEM_MODES & set(facts)):
            _only(facts[mode], SYSTEM_FACTS, f"{where}, {name}, {mode}")
            row[mode] = {field: v for field, v in facts[mode].items() if field in SYSTEM_FACTS}
        systems[name] = row
    return systems


def _key(block: Mapping[str, Any], where: str) -> Facts:
    name = str(block["key"])
    where = f"{where}.{name}"
    if isinstance(block["key"], bool):
        raise SchemaSurprise(f"{where}: YAML reads this key as a boolean")
    _only(block, KEY_FIELDS | set(KEY_FACTS) | UNUSED_KEY_FACTS, where)
    kind = str(block["type"]).removeprefix("<").removesuffix(">")
    if kind not in TYPES:
        raise SchemaSurprise(f"{where}: type {block['type']}")
    row: Facts = {"name": name, "type": kind}
    if block.get("presence") == "required":
        row["required"] = True
    row |= {ours: block[theirs] for theirs, ours in KEY_FACTS.items() if theirs in block}
    row |= _inner(kind, [_key(inner, where) for inner in block.get("subkeys") or []], where)
    if systems := _systems(block.get("supportedOS"), where):
        row["systems"] = systems
    return row


def _inner(kind: str, inner: list[Facts], where: str) -> Facts:
    """The content: `items` of an array, `keys` and `any` of a dictionary, `known` values of text
    (with `known_systems`)."""
    if kind == "array":
        return {"items": inner} | ({"by": _discriminator(inner, where)} if len(inner) > 1 else {})
    if kind != "dictionary":
        return _known(inner) if inner else {}
    free = [row for row in inner if row["name"].split(" ")[0] == "ANY"]
    named = [row for row in inner if row not in free]
    if len(free) > 1:
        raise SchemaSurprise(f"{where}: more than one key for any name")
    found: Facts = {"keys": named} if named else {}
    return found | ({"any": {f: v for f, v in free[0].items() if f != "name"}} if free else {})


def _known(values: list[Facts]) -> Facts:
    """Values that Apple knows, and what is special about each; newer systems know more."""
    special = {row["name"]: row["systems"] for row in values if "systems" in row}
    return {"known": [row["name"] for row in values]} | (
        {"known_systems": special} if special else {}
    )


def _discriminator(alternatives: list[Facts], where: str) -> str:
    """The key whose single allowed value identifies the alternatives of an array's item. Where the schema
    of a few alternatives has lost it, and it equals the label in all others, they get it back."""
    for name in [row["name"] for row in alternatives[0].get("keys", [])]:
        values = [_single_value(alternative, name) for alternative in alternatives]
        without = [each for each, value in zip(alternatives, values, strict=True) if value is None]
        if without and any(
            v not in (None, a["name"]) for v, a in zip(values, alternatives, strict=True)
        ):
            continue
        known = {a["name"] if v is None else v for v, a in zip(values, alternatives, strict=True)}
        if len(known) == len(alternatives) > 2 * len(without):
            for each in without:
                implied = {"name": name, "type": "string", "required": True}
                each["keys"] = [implied | {"allowed": [each["name"]]}, *each.get("keys", [])]
            return str(name)
    raise SchemaSurprise(f"{where}: no key identifies the alternatives")


def _single_value(alternative: Facts, name: str) -> object:
    """The one value that this key may have; None where the key is not there. A key of several values
    identifies nothing, and is the same for all."""
    for row in alternative.get("keys", []):
        if row["name"] == name:
            allowed = row.get("allowed", ())
            return allowed[0] if len(allowed) == 1 else ""
    return None


def as_text(commands: Mapping[str, Facts], release: str) -> str:
    """The file: JSON, one line for each command, so that a new release shows as a short diff."""
    rows = [
        f"{json.dumps(name)}: {json.dumps(commands[name], default=str, separators=(',', ':'))}"
        for name in sorted(commands)
    ]
    head = f'{{"source": {json.dumps(SOURCE)},\n"release": {json.dumps(release)},\n"commands": {{\n'
    return head + ",\n".join(rows) + "\n}}\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make_catalogue", description=__doc__)
    parser.add_argument(
        "--release", default="unnamed", help="what to call the release of the schema"
    )
    parser.add_argument("schema", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=CATALOGUE)
    chosen = parser.parse_args(arguments)
    source: Path = chosen.schema
    commands = read_facts(source) if source.is_file() else read_commands(source)
    chosen.output.write_text(as_text(commands, chosen.release), encoding="utf-8")
    sys.stdout.write(f"{chosen.output}: {len(commands)} commands\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
