"""Comparison of values as MongoDB does it: by kind first, so that a number is never less than a text."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Any

from shared.storage.database import Document
from shared.times import EPOCH, to_milliseconds

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "MISSING"})()
"""The value at a path that leads to nothing."""

_KINDS: dict[type, int] = {
    type(None): 0, int: 1, float: 1, str: 2, dict: 3, list: 4, bytes: 5, bool: 7, datetime: 8,
}  # fmt: skip
"""In the order in which MongoDB sorts them."""

_AS_THEY_ARE = {str, int, bool, type(None), bytes, float}
NUMBER = _KINDS[int]

_LARGEST = 2**63
_MILLISECOND = timedelta(milliseconds=1)


def value_kind(value: object) -> int:
    """The kind of a value. Raises NotImplementedError for one that no document of ours has."""
    kind = _KINDS.get(type(value))
    if kind is None:
        for known, number in _KINDS.items():
            if isinstance(value, known) and not isinstance(value, bool):
                return number  # a StrEnum, or the driver's 64-bit number
        raise NotImplementedError(f"values of type {type(value).__name__}")
    return kind


def as_stored(value: Any) -> Any:
    """A value as it comes back from the store: times are cut to milliseconds, in UTC."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return to_milliseconds(value)
    if isinstance(value, Mapping):
        return {name: as_stored(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_stored(inner) for inner in value]
    return value


def equal(one: Any, other: Any) -> bool:
    """Numbers are equal by value; documents also by the order of their fields."""
    if type(one) is str and type(other) is str:
        return one == other
    if value_kind(one) != value_kind(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(equal, one.values(), other.values()))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def rank(value: Any) -> tuple[int, Any]:
    """Sorts as MongoDB does. NotImplementedError for documents, arrays, bytes and NaN."""
    kind = value_kind(value)
    if isinstance(value, dict | list | bytes) or (type(value) is float and isnan(value)):
        raise NotImplementedError(f"an order of values of type {type(value).__name__}")
    return kind, 0 if value is None else value


def refuse_unlisted(value: Any) -> None:
    """NotImplementedError for a value that no document of ours has, as a pattern; and for NaN."""
    if isinstance(value, float) and isnan(value):
        raise NotImplementedError("NaN")
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        value_kind(value)
    elif any(type(element) is not str for element in value):
        for element in value:
            refuse_unlisted(element)


def refuse_overlaps(paths: Iterable[str]) -> None:
    """NotImplementedError where one path is, or leads through, another: MongoDB refuses those."""
    seen: set[str] = set()
    for path in paths:
        if path in seen or "$" in path:
            raise NotImplementedError(f"the path {path} beside {sorted(seen)}")
        seen.add(path)
    for path in seen:
        names = path.split(".")
        if any(".".join(names[:length]) in seen for length in range(1, len(names))):
            raise NotImplementedError(f"the path {path} beside one that it leads through")


def value_at(document: Document, path: str) -> Any:
    """The value at a dotted path, or MISSING. NotImplementedError for a path through an array."""
    if "." not in path:
        return document.get(path, MISSING)
    value: Any = document
    for name in path.split("."):
        if isinstance(value, list):
            raise NotImplementedError(f"the path {path} through an array")
        if not isinstance(value, dict) or name not in value:
            return MISSING
        value = value[name]
    return value


def column_value(value: Any) -> Any:
    """A value as a column of an index holds it: times as milliseconds since 1970, a missing one as NULL.
    Values of one field are of one kind, so columns sort as MongoDB does. Raises NotImplementedError."""
    kind = type(value)
    if kind is str or value is None or (kind is int and -_LARGEST <= value < _LARGEST):
        return value
    if value is MISSING:
        return None
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // _MILLISECOND
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return int(value)
    if isinstance(value, bytes):
        return value
    raise NotImplementedError(f"an index of values of type {type(value).__name__}")
