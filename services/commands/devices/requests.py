"""The bodies of the device routes: read as MicroMDM's clients write them.

Promises: names match without letter case, unknown names are ignored, unless they begin with `filter_`;
null is absent, an empty body asks for nothing in particular; what has a wrong type is told by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.apple.request.read_json import parse_json, without_case
from shared.domain.errors import unfit
from shared.nearest import nearest
from shared.ports.enrollments import DeviceQuery

MOST = 2**31
FILTERS = ("filter_serial", "filter_udid")
_SHOWN = 80
MOST_NAMED = 10_000
"""Devices that one request may name under one key."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Whom to remove."""

    udids: tuple[str, ...]
    serial_numbers: tuple[str, ...]


def read_query(body: bytes) -> DeviceQuery:
    """`{"page", "per_page", "filter_serial", "filter_udid"}`; an empty list filters nothing."""
    given = _object(body)
    _refuse_unknown_filters(given)
    return DeviceQuery(
        page=_number(given, "page"),
        per_page=_number(given, "per_page"),
        serial_numbers=_texts(given, "filter_serial") or None,
        udids=_texts(given, "filter_udid") or None,
    )


def read_removal(body: bytes) -> Removal:
    """`{"Opts": {"udids", "serials"}}`, or the two without `Opts`."""
    given = _object(body)
    inner = given.get("opts")
    if inner is not None and not isinstance(inner, dict):
        raise unfit("Opts", "an object")
    parts = [given, without_case(inner)] if isinstance(inner, dict) else [given]
    return Removal(
        udids=tuple(udid for part in parts for udid in _texts(part, "udids")),
        serial_numbers=tuple(serial for part in parts for serial in _texts(part, "serials")),
    )


def _refuse_unknown_filters(given: Mapping[str, object]) -> None:
    """A filter that is ignored because of a typo would mean "all"."""
    for name in given:
        if name.startswith("filter_") and name not in FILTERS:
            near = nearest(name, FILTERS) or " or ".join(FILTERS)
            raise unfit(name[:_SHOWN], f"a known filter (nearest: {near})")


def _object(body: bytes) -> dict[str, object]:
    return without_case(parse_json(body)) if body.strip() else {}


def _number(given: Mapping[str, object], name: str) -> int:
    value = given.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST:
        raise unfit(name, "a whole number from 0 on")
    return value


def _texts(given: Mapping[str, object], name: str) -> list[str]:
    value = given.get(name, [])
    if not isinstance(value, list) or len(value) > MOST_NAMED:
        raise unfit(name, f"a list of up to {MOST_NAMED} strings")
    return [_text(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _text(value: object, path: str) -> str:
    # A lone surrogate is JSON, but no store takes it.
    if not isinstance(value, str) or not value.isprintable():
        raise unfit(path, "a string")
    return value
