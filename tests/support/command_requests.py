"""Short words for the tests of command requests."""

import plistlib
from typing import Any

import pytest

from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.apple.request.plist import PreparedCommand
from shared.domain.errors import BadRequest
from tests.support.command_strategies import UDID

CATALOGUE = CommandCatalogue.load()
FORMS = list(CATALOGUE.forms.values())


def prepare(body: dict[str, Any]) -> PreparedCommand:
    return CATALOGUE.prepare(body, lambda: "MADE-BY-US")


def command_of(prepared: PreparedCommand) -> dict[str, Any]:
    command: dict[str, Any] = plistlib.loads(prepared.command.plist)["Command"]
    return command


def with_types(value: object) -> object:
    """A form in which 1, 1.0 and True differ and the order of keys does not matter."""
    match value:
        case dict():
            return {key: with_types(inner) for key, inner in value.items()}
        case list():
            return [with_types(inner) for inner in value]
    return type(value).__name__, value


def refused(body: dict[str, Any]) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        prepare(body)
    return caught.value


def paths(refusal: BadRequest) -> list[str]:
    return [fault.path for fault in refusal.faults]


def lock(**keys: Any) -> dict[str, Any]:
    return {"udid": UDID, "request_type": "DeviceLock", **keys}


def settings(*items: dict[str, Any]) -> dict[str, Any]:
    return {"udid": UDID, "request_type": "Settings", "settings": list(items)}
