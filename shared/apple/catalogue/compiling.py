"""From the facts of `catalogue.json` to the values that read commands; done once, at start.

Here is also all in which MicroMDM's clients differ from Apple's facts.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.apple.catalogue.facts import FactTree, command_facts
from shared.apple.values.containers import Anything, Array, Dictionary, FreeDictionary, Key, Union
from shared.apple.values.names import json_name, json_name_in
from shared.apple.values.scalars import INTEGERS, Boolean, Data, Date, Integer, Real, Text, Value
from shared.nearest import folded

Facts = Mapping[str, Any]

ALWAYS_KNOWN: Facts = {"name": "RequestRequiresNetworkTether", "type": "boolean"}
"""Apple documents it for every command; its schema leaves it out."""

ALSO_KNOWN: Mapping[str, Sequence[Facts]] = {
    "SetRecoveryLock": [{"name": "AllowOroms", "type": "boolean"}],
}
"""Keys that MicroMDM sends and Apple does not list."""

LENIENT = frozenset(
    {
        "RequestMirroring.ScanTime",  # MicroMDM: text
        "RemoveMedia.iTunesStoreID",  # MicroMDM: a number
        "SetFirmwarePassword.AllowOroms",  # its scripts send "true"
        "SetFirmwarePassword.RequestRequiresNetworkTether",
        "SetRecoveryLock.AllowOroms",
        "SetRecoveryLock.RequestRequiresNetworkTether",
    }
)
"""The keys where the type that MicroMDM\'s clients send is accepted beside Apple's; the plist gets
Apple's."""


class UnusableCatalogue(Exception):
    """The facts hold something that this version cannot compile."""


@dataclass(frozen=True, slots=True)
class CommandForm:
    """One request type: how its keys are read, and what else Apple says of it."""

    request_type: str
    keys: Dictionary
    facts: FactTree


def compile_command(request_type: str, facts: Facts) -> CommandForm:
    rows = [*facts["keys"], *ALSO_KNOWN.get(request_type, ()), ALWAYS_KNOWN]
    keys = tuple(
        Key(
            row["name"],
            json_name_in(request_type, row["name"]),
            _value(row, f"{request_type}.{row['name']}"),
            bool(row.get("required")),
        )
        for row in rows
    )
    _refuse_collisions(request_type, keys)
    tree = command_facts(request_type, facts)
    return CommandForm(request_type, Dictionary(keys, is_command=True), tree)


def _refuse_collisions(where: str, keys: Sequence[Key]) -> None:
    names = {folded(key.name) for key in keys}
    if len(names) != len(keys):
        raise UnusableCatalogue(f"{where}: two keys differ in letter case only")


def _value(facts: Facts, where: str) -> Value:
    compile_kind = _KINDS.get(facts["type"])
    if compile_kind is None:
        raise UnusableCatalogue(f"{where}: type {facts['type']}")
    return compile_kind(facts, where)


def _text(facts: Facts, where: str) -> Value:
    pattern = re.compile(facts["format"]) if "format" in facts else None
    allowed, known = tuple(facts.get("allowed", ())), tuple(facts.get("known", ()))
    return Text(allowed, pattern, where in LENIENT, known)


def _integer(facts: Facts, where: str) -> Value:
    bounds = facts.get("range", {})
    lowest, highest = bounds.get("min", INTEGERS[0]), bounds.get("max", INTEGERS[1])
    return Integer(tuple(facts.get("allowed", ())), lowest, highest, where in LENIENT)


def _real(facts: Facts, _where: str) -> Value:
    bounds = facts.get("range", {})
    return Real(bounds.get("min", -math.inf), bounds.get("max", math.inf))


def _array(facts: Facts, where: str) -> Value:
    items = facts["items"]
    if not items:
        return Array(Anything())
    item = _value(items[0], where) if len(items) == 1 else _union(facts, where)
    bounds = facts.get("repetition", {})
    return Array(item, bounds.get("min", 0), bounds.get("max"))


def _union(facts: Facts, where: str) -> Union:
    by = facts["by"]
    forms: dict[str, Dictionary] = {}
    for row in facts["items"]:
        form = _dictionary(row, f"{where}.{row['name']}")
        if not isinstance(form, Dictionary):
            raise UnusableCatalogue(f"{where}: an alternative without keys")
        [choice] = [key["allowed"][0] for key in row["keys"] if key["name"] == by]
        forms[choice] = form
    return Union(Key(by, json_name(by), Text(tuple(forms)), required=True), forms)


def _dictionary(facts: Facts, where: str) -> Value:
    rows = facts.get("keys", ())
    if "any" in facts and (rows or facts["any"]["type"] != "any"):
        raise UnusableCatalogue(f"{where}: free keys of a type, or beside known ones")
    if not rows:
        return FreeDictionary()
    keys = tuple(
        Key(
            row["name"],
            json_name(row["name"]),
            _value(row, f"{where}.{row['name']}"),
            bool(row.get("required")),
        )
        for row in rows
    )
    _refuse_collisions(where, keys)
    return Dictionary(keys)


_KINDS: Mapping[str, Callable[[Facts, str], Value]] = {
    "array": _array,
    "dictionary": _dictionary,
    "string": _text,
    "integer": _integer,
    "real": _real,
    "boolean": lambda _facts, where: Boolean(where in LENIENT),
    "data": lambda _facts, _where: Data(),
    "date": lambda _facts, _where: Date(),
    "any": lambda _facts, _where: Anything(),
}
