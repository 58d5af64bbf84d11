"""The kinds of values in commands that hold others: lists, dictionaries, alternatives, free trees.

Same promise as the simple kinds: `convert` gives what the property list gets and what the answer
shows. Nothing is added, nothing is dropped; a null is the same as an absent key. The order of keys is
the catalogue's (sorted where keys are free), so equal commands are equal bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.apple.plist.read import parse
from shared.apple.values.key_paths import inside
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
from shared.domain.errors import BadRequest
from shared.nearest import folded

MAX_DEPTH = 50
"""Levels of a free tree; devices read these, and no client has reason for more."""

ENVELOPE = frozenset({"udid", "requesttype", "commanduuid"})
"""MicroMDM's own scripts repeat these inside nested dictionaries, where they mean nothing."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a dictionary: Apple's name, and the name in our answers."""

    name: str
    json: str
    value: Value
    required: bool = False


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
    """Known keys. `is_command`: the top of a command, where the envelope's names were taken out."""

    keys: tuple[Key, ...]
    is_command: bool = False
    _exact: Mapping[str, Key] = field(init=False, repr=False, compare=False)
    _folded: Mapping[str, Key] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_exact", {key.name: key for key in self.keys})
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
                pair = key.value.convert(value[name], inside(path, name), reading)
                for_plist[key.name], for_answer[key.json] = pair
            elif key.required:
                missing = key.name if reading.exact else key.json
                reading.fault(inside(path, missing), "a value: this key is required")
        return for_plist, for_answer

    def find(self, name: str) -> Key | None:
        """The key that a name stands for in any of its spellings."""
        return self._folded.get(folded(name))

    def _given(self, value: Mapping[str, object], path: str, reading: Reading) -> dict[str, str]:
        """Apple's name of each key that is given, with the name the client used."""
        given: dict[str, str] = {}
        for name, inner in value.items():
            if inner is None:
                continue
            key = self._exact.get(name) if reading.exact else self.find(name)
            if key is None:
                self._unknown(name, path, reading)
            elif key.name in given:
                reading.fault(
                    inside(path, name), f"one spelling only, {given[key.name]} is given too"
                )
            else:
                given[key.name] = name
        return given

    def _unknown(self, name: str, path: str, reading: Reading) -> None:
        if self.is_command or reading.exact or folded(name) not in ENVELOPE:
            known = [key.name if reading.exact else key.json for key in self.keys]
            reading.unknown(inside(path, name), name, known)


@dataclass(frozen=True, slots=True)
class Union:
    """A dictionary of one of several forms, told apart by the value of one key."""

    by: Key
    forms: Mapping[str, Dictionary]

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if not isinstance(value, dict):
            reading.fault(path, "an object")
            return NOTHING
        for name, choice in value.items():
            if choice is None or not self._is_choice(name, reading):
                continue
            form = self.forms.get(choice) if isinstance(choice, str) else None
            if form is not None:
                return form.convert(value, path, reading)
            reading.fault(inside(path, name), listed(tuple(self.forms)))
            return NOTHING
        missing = self.by.name if reading.exact else self.by.json
        reading.fault(inside(path, missing), "a value: this key is required")
        return NOTHING

    def _is_choice(self, name: str, reading: Reading) -> bool:
        return name == self.by.name if reading.exact else folded(name) == folded(self.by.name)


@dataclass(frozen=True, slots=True)
class FreeDictionary:
    """Free keys, never renamed. MicroMDM's form is taken too: a property list in base64."""

    def convert(self, value: object, path: str, reading: Reading) -> Pair:
        if isinstance(value, str):
            return self._embedded(value, path, reading)
        if not isinstance(value, dict):
            reading.fault(path, "an object, or a property list in base64")
            return NOTHING
        tree = _free(value, path, reading, MAX_DEPTH)
        return tree, tree

    def _embedded(self, value: str, path: str, reading: Reading) -> Pair:
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
            return _free_list(value, path, reading, levels - 1)
    elif not _is_plain(value):
        reading.fault(path, "a value that a property list can hold")
    return value


def _free_dictionary(
    value: Mapping[str, object], path: str, reading: Reading, levels: int
) -> object:
    tree: dict[str, object] = {}
    for name in sorted(value):
        if value[name] is not None:
            if not is_writable(name):
                reading.fault(inside(path, name), "a key without control characters")
            tree[name] = _free(value[name], inside(path, name), reading, levels)
    return tree


def _free_list(value: list[object], path: str, reading: Reading, levels: int) -> object:
    return [_free(item, f"{path}[{i}]", reading, levels) for i, item in enumerate(value)]


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
