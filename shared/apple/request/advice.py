"""Advice about a command for one device: a refusal, or warnings.

Promise: only a command for devices that was sent to a user is refused, and never a raw one; all else
warns. Unknown facts (no system in the check-in, an unreadable version) cause no warning.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from shared.apple.values.containers import Array, Dictionary, Key, Union
from shared.apple.values.scalars import Text, Value
from shared.apple.values.systems import SystemFacts, Systems, parse_version
from shared.domain.enrollment import EnrollmentKey, Inventory
from shared.domain.errors import display_name

MAX_WARNINGS = 50
MOST_ITEMS = 1000
"""Items of one list that are looked at."""

_SYSTEMS = (
    ("iOS", ("iPhone", "iPad", "iPod")),
    ("macOS", ("Mac", "iMac", "VirtualMac", "Xserve")),
    ("tvOS", ("AppleTV",)),
    ("watchOS", ("Watch",)),
    ("visionOS", ("RealityDevice",)),
)
"""The beginnings of the model identifiers of each system."""


@lru_cache(maxsize=1024)
def system_of(product: str | None) -> str | None:
    """The system that runs on a model such as `iPhone14,2`; None for an unknown one."""
    for system, beginnings in _SYSTEMS:
        if product is not None and product.startswith(beginnings):
            return system
    return None


@dataclass(frozen=True, slots=True)
class Recipient:
    """The facts of check-in about the recipient of a command; None: unknown."""

    product: str | None
    os_version: str | None
    is_device_channel: bool
    is_user_enrollment: bool

    @classmethod
    def of(cls, key: EnrollmentKey, inventory: Inventory) -> Self:
        """`inventory` is that of the device."""
        products = (inventory.product_name, inventory.model, inventory.model_name)
        return cls(
            product=next((product for product in products if system_of(product)), None),
            os_version=inventory.os_version,
            is_device_channel=key.is_device_channel,
            is_user_enrollment=key.enrollment_id is not None,
        )


@dataclass(frozen=True, slots=True)
class Advice:
    """`refusal`: why the command must not be queued, None when it may. `warnings`: in a sentence each."""

    refusal: str | None = None
    warnings: tuple[str, ...] = ()


class Adviser:
    """Goes once over a command for one recipient."""

    def __init__(self, recipient: Recipient, *, says_apple: bool) -> None:
        self._recipient = recipient
        self._says_apple = says_apple
        self._system = system_of(recipient.product)
        self._version = parse_version(recipient.os_version)
        self._warnings: list[str] = []
        self._count = 0

    def advise(self, form: Dictionary, keys: Mapping[str, object], *, is_raw: bool) -> Advice:
        refusal = self._refusal(form)
        if refusal is not None and not is_raw:
            return Advice(refusal)
        if refusal is not None:
            self._warn(refusal)
        if self._system is not None:
            said = self._look(form.systems, form.name, frozenset())
            self._inside(form, keys, "Command" if self._says_apple else "", said)
        if self._count > MAX_WARNINGS:
            self._warnings.append(f"and {self._count - MAX_WARNINGS} more warnings")
        return Advice(None, tuple(self._warnings))

    def _refusal(self, form: Dictionary) -> str | None:
        if self._recipient.is_device_channel:
            return None
        own = form.systems.get(self._system or "")
        asked = [own] if own is not None and own.available else form.systems.values()
        answers = [facts.user_channel for facts in asked if facts.available]
        if True in answers or False not in answers:
            return None
        return f"request_type: {form.name} is for the device channel only, not for a user channel"

    # --- walking over the command

    def _inside(self, value: Value, given: object, path: str, said: frozenset[str]) -> None:
        if isinstance(value, Dictionary) and isinstance(given, dict):
            for name, inner in given.items():
                key = value.exact.get(name)
                if key is not None:
                    self._key(key, inner, path, said)
        elif isinstance(value, Array) and isinstance(given, list):
            for index, item in enumerate(given[:MOST_ITEMS]):
                self._one(value.item, item, f"{path}[{index}]", said)

    def _key(self, key: Key, given: object, path: str, said: frozenset[str]) -> None:
        spelt = key.name if self._says_apple else key.json
        at = f"{path}.{spelt}" if path else spelt
        if key.systems:
            said |= self._look(key.systems, _named(at, key.value, given), said)
        self._one(key.value, given, at, said)

    def _one(self, value: Value, given: object, path: str, said: frozenset[str]) -> None:
        if isinstance(given, str):
            if isinstance(value, Text) and value.known:
                self._look(value.known.get(given, {}), _named(path, value, given), said)
        elif isinstance(value, Union):
            choice = given.get(value.by.name) if isinstance(given, dict) else None
            form = value.forms.get(choice) if isinstance(choice, str) else None
            if form is not None:
                said |= self._look(form.systems, f"{path} ({form.name})", said)
                self._inside(form, given, path, said)
        elif isinstance(given, dict | list):
            self._inside(value, given, path, said)

    # --- one set of facts

    def _look(self, systems: Systems, name: str, said: frozenset[str]) -> frozenset[str]:
        """Warn of what these facts say, except for kinds of warnings that were given above."""
        facts = systems.get(self._system or "")
        if facts is None:
            return frozenset()
        found = dict(self._warnings_of(facts))
        for kind, text in found.items():
            if kind not in said and "absent" not in said:
                self._warn(f"{name}: {text}")
        return frozenset(found)

    def _warn(self, text: str) -> None:
        self._count += 1
        if self._count <= MAX_WARNINGS:
            self._warnings.append(text)

    def _warnings_of(self, facts: SystemFacts) -> Iterator[tuple[str, str]]:
        if not facts.available:
            yield "absent", f"is not available on {self._system}"
            return
        yield from self._warnings_of_age(facts)
        if facts.needs_supervision:
            yield "supervised", f"needs supervision on {self._system}"
        if facts.user_enrollment is False and self._recipient.is_user_enrollment:
            yield "enrollment", "is not available in a user enrollment"
        if self._recipient.is_device_channel and facts.device_channel is False:
            yield "channel", "is for the user channel only"
        if not self._recipient.is_device_channel and facts.user_channel is False:
            yield "channel", "is for the device channel only"

    def _warnings_of_age(self, facts: SystemFacts) -> Iterator[tuple[str, str]]:
        """Without a version of the device, only that something is on its way out can be said."""
        own, introduced = self._version, parse_version(facts.introduced)
        if own is not None and introduced is not None and own < introduced:
            device = f"the device has {display_name(self._recipient.os_version or '')}"
            yield "old", f"needs {self._system} {facts.introduced}, {device}"
        removed = parse_version(facts.removed)
        if removed is not None and own is not None and own >= removed:
            yield "removed", f"was removed in {self._system} {facts.removed}"
            return
        deprecated = parse_version(facts.deprecated)
        if deprecated is not None and (own is None or own >= deprecated):
            yield "deprecated", f"is deprecated since {self._system} {facts.deprecated}"


def _named(path: str, value: Value, given: object) -> str:
    """The path in a warning, with the value where Apple lists the values."""
    is_listed = isinstance(value, Text) and value.known and isinstance(given, str)
    return f"{path} ({display_name(str(given))})" if is_listed else path
