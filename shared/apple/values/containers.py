"""The kinds of values in commands that hold others: lists, dictionaries, alternatives, free trees.

As with the simple kinds, `convert` gives what the property list gets and what the answer shows. It adds
nothing and drops nothing; a null is the same as an absent key. The order of keys is the catalogue's
(sorted where keys are free), so equal commands are equal bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.apple.plist.read import parse
from shared.apple.values.reading import Reading, is_writable
from shared.apple.values.scalars import (
    INTEGERS,
    MAX_UNSIGNED,
    NOTHING,
    Pair,
    Value,
    decode_base64,
    listed,
)
from shared.apple.values.systems import Systems
from shared.domain.errors import BadRequest, key_path
from shared.nearest import folded

MAX_DEPTH = 50
"""Levels of a free tree; devices read these, and no client has reason for more."""

ENVELOPE = frozenset({"udid", "requesttype", "commanduuid"})
"""MicroMDM's own scripts repeat these inside nested dictionaries, where they mean nothing."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a dictionary: Apple's name, and the name in our answers. Empty `systems`: those of the level
    above."""

    name: str
    json: str
    value: Value
    required: bool = False
    systems: Systems = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Array:
    item: Value
    at_least: int = 0
    at_most: int | None = None

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if not isinstance(value, list):
            reading.fault(path, "a list")
            return NOTHING
        if len(value) < self.at_least:
            reading.fault(path, f"a list of at least {self.at_least}")
        if self.at_most is not None and len(value) > self.at_most:
            reading.fault(path, f"a list of at most {self.at_most}")
        if not reading.spend(path, len(value)):
            return NOTHING
        pairs = [self.item.convert(v, f"{path}[{i}]", reading) for i, v in enumerate(value)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Known keys. A command and an alternative (`Union`) have Apple's name and systems of their own.
    `is_command`: the top of a command, without the names of the envelope."""

    keys: tuple[Key, ...]
    name: str = ""
    systems: Systems = field(default_factory=dict)
    is_command: bool = False
    exact: Mapping[str, Key] = field(init=False, repr=False, compare=False)
    """By Apple's names."""
    _folded: Mapping[str, Key] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exact", {key.name: key for key in self.keys})
        names = {folded(name): key for key in self.keys for name in (key.name, key.json)}
        object.__setattr__(self, "_folded", names)

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if not isinstance(value, dict):
            reading.fault(path, "an object")
            return NOTHING
        if not reading.spend(path, len(value)):
            return NOTHING
        given = self._given(value, path, reading)
        for_plist: dict[str, object] = {}
        for_answer: dict[str, object] = {}
        for key in self.keys:
            if key.name in given:
                name = given[key.name]
                pair = key.value.convert(value[name], key_path(path, name), reading)
                for_plist[key.name], for_answer[key.json] = pair
            elif key.required:
                missing = key.name if reading.exact else key.json
                reading.fault(key_path(path, missing), "a value: this key is required")
        return for_plist, for_answer

    def find(self, name: str) -> Key | None:
        """The key with this name, in any spelling."""
        return self._folded.get(folded(name))

    def _given(self, value: Mapping[str, object], path: str, reading: Reading) -> dict[str, str]:
        """Apple's name of each key that is given, with the name the client used."""
        given: dict[str, str] = {}
        for name, inner in value.items():
            if inner is None:
                continue
            key = self.exact.get(name) if reading.exact else self.find(name)
            if key is None:
                if self.is_command or reading.exact or folded(name) not in ENVELOPE:
                    known = [key.name if reading.exact else key.json for key in self.keys]
                    reading.unknown(key_path(path, name), name, known)
            elif key.name in given:
                expected = f"one spelling only, {given[key.name]} is given too"
                reading.fault(key_path(path, name), expected)
            else:
                given[key.name] = name
        return given


@dataclass(frozen=True, slots=True)
class Union:
    """A dictionary of one of several forms; the value of one key says which."""

    by: Key
    forms: Mapping[str, Dictionary]

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if not isinstance(value, dict):
            reading.fault(path, "an object")
            return NOTHING
        spelling = str if reading.exact else folded
        for name, choice in value.items():
            if choice is None or spelling(name) != spelling(self.by.name):
                continue
            form = self.forms.get(choice) if isinstance(choice, str) else None
            if form is not None:
                return form.convert(value, path, reading)
            reading.fault(key_path(path, name), listed(tuple(self.forms)))
            return NOTHING
        missing = self.by.name if reading.exact else self.by.json
        reading.fault(key_path(path, missing), "a value: this key is required")
        return NOTHING


@dataclass(frozen=True, slots=True)
class FreeDictionary:
    """Free keys, never renamed. MicroMDM's form is taken too: a property list in base64."""

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if isinstance(value, dict):
            return Anything().convert(value, path, reading)
        decoded = decode_base64(value)
        if decoded is None:
            reading.fault(path, "an object, or a property list in base64")
            return NOTHING
        try:
            tree = parse(decoded[0])
        except BadRequest as refusal:
            reading.fault(path, f"base64 of a property list that is a dictionary ({refusal})")
            return NOTHING
        return _free(tree, path, reading, MAX_DEPTH), decoded[1]


@dataclass(frozen=True, slots=True)
class Anything:
    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        tree = _free(value, path, reading, MAX_DEPTH)
        return tree, tree


def _free(value: object, path: str, reading: Reading, levels: int) -> object:
    """A tree without a schema, as far as a property list can hold it."""
    if isinstance(value, dict | list):
        if not levels:
            reading.fault(path, f"no more than {MAX_DEPTH} levels")
        elif reading.spend(path, len(value)):
            if isinstance(value, dict):
                return _free_dictionary(value, path, reading, levels - 1)
            return [_free(v, f"{path}[{i}]", reading, levels - 1) for i, v in enumerate(value)]
    elif not _is_plain(value):
        reading.fault(path, "a value that a property list can hold")
    return value


def _free_dictionary(
    value: Mapping[str, object], path: str, reading: Reading, levels: int
) -> object:
    tree: dict[str, object] = {}
    for name in sorted(value):
        if value[name] is not None:
            at = key_path(path, name)
            if not is_writable(name):
                reading.fault(at, "a key without control characters")
            tree[name] = _free(value[name], at, reading, levels)
    return tree


def _is_plain(value: object) -> bool:
    match value:
        case str():
            return is_writable(value)
        case bool() | bytes() | datetime():
            return True
        case int():
            return INTEGERS[0] <= value <= MAX_UNSIGNED
        case float():
            return math.isfinite(value)
    return False
