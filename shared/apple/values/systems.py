"""The systems on which commands, keys and values work: since when, until when, and for whom."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Self

Version = tuple[int, ...]

_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,5}")
NOT_THERE = "n/a"


@lru_cache(maxsize=1024)
def parse_version(text: str | None) -> Version | None:
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
    """Apple's facts about one system. None: the level above decides.

    `user_channel` of iOS is that of a Shared iPad, the only place where iOS has one.
    """

    available: bool = True
    introduced: str | None = None
    deprecated: str | None = None
    removed: str | None = None
    needs_supervision: bool | None = None
    device_channel: bool | None = None
    user_channel: bool | None = None
    user_enrollment: bool | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The facts of one row of `catalogue.json`."""
        introduced = row.get("introduced")
        shared = row.get("sharedipad", {})
        user_channel = row.get("userchannel", shared.get("userchannel"))
        enrollment = row.get("userenrollment", {}).get("mode")
        return cls(
            available=introduced != NOT_THERE,
            introduced=None if introduced == NOT_THERE else introduced,
            deprecated=row.get("deprecated"),
            removed=row.get("removed"),
            needs_supervision=row.get("supervised") or None,
            device_channel=row.get("devicechannel"),
            user_channel=False if shared.get("mode") == "forbidden" else user_channel,
            user_enrollment=None if enrollment is None else enrollment != "forbidden",
        )


Systems = Mapping[str, SystemFacts]
_NAMES = [each.name for each in fields(SystemFacts)]


def systems_json(systems: Systems) -> dict[str, dict[str, object]]:
    """The facts of each system for programs; a fact that Apple does not state is left out."""
    return {
        system: {name: fact for name in _NAMES if (fact := getattr(facts, name)) is not None}
        for system, facts in sorted(systems.items())
    }


def systems_sentence(systems: Systems) -> str:
    """The facts for people, such as `iOS 4.0, macOS 10.7 (device channel only).`"""
    available = {name: facts for name, facts in sorted(systems.items()) if facts.available}
    return ", ".join(f"{name}{_in_words(facts)}" for name, facts in available.items()) + "."


def _in_words(facts: SystemFacts) -> str:
    words = {
        f"deprecated since {facts.deprecated}": facts.deprecated,
        f"removed in {facts.removed}": facts.removed,
        "supervised": facts.needs_supervision,
        "device channel only": facts.user_channel is False,
        "user channel only": facts.device_channel is False,
    }
    limits = ", ".join(text for text, holds in words.items() if holds)
    return (f" {facts.introduced}" if facts.introduced else "") + (f" ({limits})" if limits else "")
