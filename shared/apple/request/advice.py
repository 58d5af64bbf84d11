"""Advice about a command for one device: a refusal, or warnings.

Promise: only a command for devices that was sent to a user is refused, and never a raw one; all else
warns. Nothing is said about what is not known: a system that check-in did not name, a version that
cannot be read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from shared.apple.catalogue.facts import FactTree, SystemFacts, Systems, Version, version
from shared.apple.values.key_paths import shown
from shared.domain.enrollment import EnrollmentKey, Inventory

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
    """The system that runs on a model such as `iPhone14,2`; None for one that nobody knows."""
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


NO_ADVICE = Advice()


@dataclass(slots=True)
class Adviser:
    """Goes once over a command for one recipient."""

    recipient: Recipient
    says_apple: bool
    system: str | None = field(init=False)
    _version: Version | None = field(init=False)
    _warnings: list[str] = field(init=False, default_factory=list)
    _count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.system = system_of(self.recipient.product)
        self._version = version(self.recipient.os_version)

    def advise(self, tree: FactTree, keys: Mapping[str, object], *, is_raw: bool) -> Advice:
        refusal = self._refusal(tree)
        if refusal is not None and not is_raw:
            return Advice(refusal)
        if refusal is not None:
            self._warn(refusal)
        if self.system is not None:
            said = self._look(tree.systems, tree.name, frozenset())
            self._inside(tree, keys, "Command" if self.says_apple else "", said)
        if self._count > MAX_WARNINGS:
            self._warnings.append(f"and {self._count - MAX_WARNINGS} more warnings")
        return Advice(None, tuple(self._warnings))

    def _refusal(self, tree: FactTree) -> str | None:
        if self.recipient.is_device_channel:
            return None
        own = tree.systems.get(self.system or "")
        if own is not None and own.is_there:
            answers = [own.user_channel]
        else:
            answers = [facts.user_channel for facts in tree.systems.values() if facts.is_there]
        if True in answers or False not in answers:
            return None
        return f"request_type: {tree.name} is for the device channel only, not for a user channel"

    # --- walking over the command

    def _inside(self, tree: FactTree, value: object, path: str, said: frozenset[str]) -> None:
        if isinstance(value, dict) and tree.keys:
            for name, inner in value.items():
                below = tree.keys.get(name)
                if below is not None:
                    spelt = below.name if self.says_apple else below.json
                    self._one(below, inner, f"{path}.{spelt}" if path else spelt, said)
        elif isinstance(value, list) and (tree.item or tree.alternatives):
            for index, item in enumerate(value[:MOST_ITEMS]):
                found = self._of_item(tree, item)
                if found is not None:
                    self._one(found, item, f"{path}[{index}]", said)

    def _of_item(self, tree: FactTree, item: object) -> FactTree | None:
        if tree.alternatives is None:
            return tree.item
        choice = item.get(tree.by) if isinstance(item, dict) else None
        return tree.alternatives.get(choice) if isinstance(choice, str) else None

    def _one(self, tree: FactTree, value: object, path: str, said: frozenset[str]) -> None:
        named = f"{path} ({shown(value)})" if isinstance(value, str) and tree.values else path
        if isinstance(value, dict) and not tree.json:
            named = f"{path} ({tree.name})"
        said |= self._look(tree.systems, named, said)
        if tree.values and isinstance(value, str):
            self._look(tree.values.get(value, {}), named, said)
        self._inside(tree, value, path, said)

    # --- one set of facts

    def _look(self, systems: Systems, name: str, said: frozenset[str]) -> frozenset[str]:
        """Warn of what these facts say, except for kinds of warnings that were given above."""
        facts = systems.get(self.system or "")
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
        if not facts.is_there:
            yield "absent", f"is not available on {self.system}"
            return
        yield from self._warnings_of_age(facts)
        if facts.needs_supervision:
            yield "supervised", f"needs supervision on {self.system}"
        if facts.user_enrollment is False and self.recipient.is_user_enrollment:
            yield "enrollment", "is not available in a user enrollment"
        if self.recipient.is_device_channel and facts.device_channel is False:
            yield "channel", "is for the user channel only"
        if not self.recipient.is_device_channel and facts.user_channel is False:
            yield "channel", "is for the device channel only"

    def _warnings_of_age(self, facts: SystemFacts) -> Iterator[tuple[str, str]]:
        """Without a version of the device, only that something is on its way out can be said."""
        own, introduced = self._version, version(facts.introduced)
        if own is not None and introduced is not None and own < introduced:
            device = f"the device has {shown(self.recipient.os_version or '')}"
            yield "old", f"needs {self.system} {facts.introduced}, {device}"
        removed = version(facts.removed)
        if removed is not None and own is not None and own >= removed:
            yield "removed", f"was removed in {self.system} {facts.removed}"
            return
        deprecated = version(facts.deprecated)
        if deprecated is not None and (own is None or own >= deprecated):
            yield "deprecated", f"is deprecated since {self.system} {facts.deprecated}"
