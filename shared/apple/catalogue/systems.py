"""On which systems commands and keys work: the facts as words for people and as JSON for programs."""

from collections.abc import Iterator

from shared.apple.catalogue.facts import SystemFacts, Systems


def systems_json(systems: Systems) -> dict[str, dict[str, object]]:
    """The facts of each system; a fact that Apple does not state is left out."""
    return {system: dict(_members(facts)) for system, facts in sorted(systems.items())}


def systems_sentence(systems: Systems) -> str:
    """Such as `iOS 4.0, macOS 10.7 (device channel only).`"""
    there = [
        f"{system}{_since(facts)}{_limits(facts)}"
        for system, facts in sorted(systems.items())
        if facts.is_there
    ]
    return ", ".join(there) + "."


def _since(facts: SystemFacts) -> str:
    return f" {facts.introduced}" if facts.introduced else ""


def _limits(facts: SystemFacts) -> str:
    limits = list(_words(facts))
    return f" ({', '.join(limits)})" if limits else ""


def _words(facts: SystemFacts) -> Iterator[str]:
    if facts.deprecated:
        yield f"deprecated since {facts.deprecated}"
    if facts.removed:
        yield f"removed in {facts.removed}"
    if facts.needs_supervision:
        yield "supervised"
    if facts.user_channel is False:
        yield "device channel only"
    if facts.device_channel is False:
        yield "user channel only"


def _members(facts: SystemFacts) -> Iterator[tuple[str, object]]:
    yield "available", facts.is_there
    for name in ("introduced", "deprecated", "removed"):
        if (text := getattr(facts, name)) is not None:
            yield name, text
    if facts.needs_supervision:
        yield "needs_supervision", True
    for name in ("device_channel", "user_channel", "user_enrollment"):
        if (is_allowed := getattr(facts, name)) is not None:
            yield name, is_allowed
