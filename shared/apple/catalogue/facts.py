"""Apple\'s facts about commands, keys and values besides their form: on which systems they work, since
when, and for whom. Compiled from `catalogue.json` at start; only what differs is there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from shared.apple.values.names import json_name, json_name_in

Facts = Mapping[str, Any]
Version = tuple[int, ...]

_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,5}")
NOT_THERE = "n/a"


@lru_cache(maxsize=1024)
def version(text: str | None) -> Version | None:
    """A version that compares by its numbers, None where the text does not begin with one."""
    found = _VERSION.match(text or "")
    if found is None:
        return None
    numbers = [int(part) for part in found[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()  # 13 and 13.0 are the same
    return tuple(numbers)


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """One system. None: nothing is said here, so what is said of the level above holds.

    `user_channel` of iOS is that of a Shared iPad, the only place where iOS has one.
    """

    is_there: bool = True
    introduced: str | None = None
    deprecated: str | None = None
    removed: str | None = None
    needs_supervision: bool = False
    device_channel: bool | None = None
    user_channel: bool | None = None
    user_enrollment: bool | None = None

    @classmethod
    def of(cls, row: Facts) -> Self:
        introduced = row.get("introduced")
        shared = row.get("sharedipad", {})
        user_channel = row.get("userchannel", shared.get("userchannel"))
        if shared.get("mode") == "forbidden":
            user_channel = False
        enrollment = row.get("userenrollment", {}).get("mode")
        return cls(
            is_there=introduced != NOT_THERE,
            introduced=None if introduced == NOT_THERE else introduced,
            deprecated=row.get("deprecated"),
            removed=row.get("removed"),
            needs_supervision=row.get("supervised") is True,
            device_channel=row.get("devicechannel"),
            user_channel=user_channel,
            user_enrollment=None if enrollment is None else enrollment != "forbidden",
        )


Systems = Mapping[str, SystemFacts]


@dataclass(frozen=True, slots=True)
class FactTree:
    """The facts of one key (or of a whole command), and of what is inside its value.

    `item` is of a list; where its items are alternatives, `by` tells them apart and `alternatives`
    holds theirs. `values` holds the facts of single values that Apple knows. `name` is Apple's,
    `json` the one in our answers (empty for an item of a list).
    """

    name: str
    json: str
    systems: Systems
    keys: Mapping[str, "FactTree"]
    item: "FactTree | None" = None
    by: str = ""
    alternatives: Mapping[object, "FactTree"] | None = None
    values: Mapping[str, Systems] | None = None

    @property
    def is_bare(self) -> bool:
        """Nothing is said anywhere in it."""
        return not (self.systems or self.keys or self.item or self.alternatives or self.values)


def command_facts(request_type: str, facts: Facts) -> FactTree:
    keys = {
        row["name"]: _tree(row, json_name_in(request_type, row["name"])) for row in facts["keys"]
    }
    return FactTree(
        name=request_type,
        json=request_type,
        systems=_systems(facts.get("systems")),
        keys={name: tree for name, tree in keys.items() if not tree.is_bare},
    )


def _tree(row: Facts, json: str) -> FactTree:
    rows = row.get("items", ())
    item = _tree(rows[0], "") if len(rows) == 1 else None
    keys = {key["name"]: _tree(key, json_name(key["name"])) for key in row.get("keys", ())}
    return FactTree(
        name=row["name"],
        json=json,
        systems=_systems(row.get("systems")),
        keys={name: tree for name, tree in keys.items() if not tree.is_bare},
        item=None if item is None or item.is_bare else item,
        by=row.get("by", ""),
        alternatives=_alternatives(row) if "by" in row else None,
        values={value: _systems(of) for value, of in row.get("known_systems", {}).items()},
    )


def _alternatives(row: Facts) -> dict[object, FactTree]:
    found: dict[object, FactTree] = {}
    for alternative in row["items"]:
        [choice] = [key["allowed"][0] for key in alternative["keys"] if key["name"] == row["by"]]
        found[choice] = _tree(alternative, "")
    return found


def _systems(rows: Mapping[str, Facts] | None) -> dict[str, SystemFacts]:
    return {system: SystemFacts.of(row) for system, row in (rows or {}).items()}
