"""From the facts of `catalogue.json` to the values that read commands; done once, at start.

All differences between MicroMDM's clients and Apple's facts are here.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shared.apple.values.containers import Anything, Array, Dictionary, FreeDictionary, Key, Union
from shared.apple.values.scalars import INTEGERS, Boolean, Data, Date, Integer, Real, Text, Value
from shared.apple.values.systems import SystemFacts, Systems
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
"""The keys where the type that MicroMDM's clients send is accepted beside Apple's; the plist gets Apple's."""

BRANDS = {
    "FileVault": "filevault",
    "IPv6": "ip_v6",
    "VPNUUID": "vpn_uuid",
    "WiFi": "wifi",
    "eSIM": "esim",
    "iOS": "ios",
    "iTunes": "itunes",
}
"""Parts of Apple's names that are one word in a JSON name."""

WHOLE_KEYS = {"HostName": "hostname", "UserName": "username"}

MISSPELT = {
    ("ActiveNSExtensions", "FilterExtensionPoints"): "filter_extensions_points",
    ("InstalledApplicationList", "ManagedAppsOnly"): "managed_appd_only",
}
"""MicroMDM misspells two keys, and its clients with it; those are their JSON names."""

_BRAND = re.compile("(" + "|".join(map(re.escape, BRANDS)) + ")")
_WORD = re.compile("[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*|[0-9]+")


class UnusableCatalogue(Exception):
    """The facts hold something that this version cannot compile."""


def compile_command(request_type: str, facts: Facts) -> Dictionary:
    """The keys of one request type, and the systems on which it works."""
    rows = [*facts["keys"], *ALSO_KNOWN.get(request_type, ()), ALWAYS_KNOWN]
    keys = _keys(rows, request_type, lambda key: json_name_in(request_type, key))
    return Dictionary(keys, request_type, _systems(facts), is_command=True)


def json_name_in(request_type: str, key: str) -> str:
    """The JSON name of a key at the top of a command."""
    return MISSPELT.get((request_type, key)) or json_name(key)


def json_name(key: str) -> str:
    """The snake_case name of one of Apple's keys, as MicroMDM writes it. Answers and OpenAPI use it."""
    if key in WHOLE_KEYS:
        return WHOLE_KEYS[key]
    words: list[str] = []
    for part in _BRAND.split(key):
        words += [BRANDS[part]] if part in BRANDS else _WORD.findall(part)
    return "_".join(words).lower()


def _systems(facts: Facts) -> Systems:
    return {system: SystemFacts.of(row) for system, row in facts.get("systems", {}).items()}


def _keys(rows: Iterable[Facts], where: str, name: Callable[[str], str]) -> tuple[Key, ...]:
    keys = tuple(
        Key(
            row["name"],
            name(row["name"]),
            _value(row, f"{where}.{row['name']}"),
            bool(row.get("required")),
            _systems(row),
        )
        for row in rows
    )
    if len({folded(key.name) for key in keys}) != len(keys):
        raise UnusableCatalogue(f"{where}: two keys differ in letter case only")
    return keys


def _value(facts: Facts, where: str) -> Value:
    compile_kind = _KINDS.get(facts["type"])
    if compile_kind is None:
        raise UnusableCatalogue(f"{where}: type {facts['type']}")
    return compile_kind(facts, where)


def _text(facts: Facts, where: str) -> Value:
    pattern = re.compile(facts["format"]) if "format" in facts else None
    special = facts.get("known_systems", {})
    known = {name: _systems({"systems": special.get(name, {})}) for name in facts.get("known", ())}
    return Text(tuple(facts.get("allowed", ())), pattern, where in LENIENT, known)


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
    if len(items) == 1 and "systems" in items[0]:
        raise UnusableCatalogue(f"{where}: systems of the items of a list")
    item = _value(items[0], where) if len(items) == 1 else _union(facts, where)
    bounds = facts.get("repetition", {})
    return Array(item, bounds.get("min", 0), bounds.get("max"))


def _union(facts: Facts, where: str) -> Union:
    by = facts["by"]
    forms: dict[str, Dictionary] = {}
    for row in facts["items"]:
        if row["type"] != "dictionary" or "keys" not in row or "any" in row:
            raise UnusableCatalogue(f"{where}: an alternative without keys")
        keys = _keys(row["keys"], f"{where}.{row['name']}", json_name)
        [choice] = [key["allowed"][0] for key in row["keys"] if key["name"] == by]
        forms[choice] = Dictionary(keys, row["name"], _systems(row))
    return Union(Key(by, json_name(by), Text(tuple(forms)), required=True), forms)


def _dictionary(facts: Facts, where: str) -> Value:
    rows = facts.get("keys", ())
    if "any" in facts and (rows or facts["any"]["type"] != "any"):
        raise UnusableCatalogue(f"{where}: free keys of a type, or beside known ones")
    return Dictionary(_keys(rows, where, json_name)) if rows else FreeDictionary()


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
