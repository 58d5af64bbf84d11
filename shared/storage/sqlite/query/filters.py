"""Conditions on a document, and which of its fields are shown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from shared.storage.database import Document, Fields, Query
from shared.storage.sqlite.query.values import (
    MISSING,
    as_stored,
    equal,
    kind_of,
    rank,
    value_at,
)


class Condition(NamedTuple):
    """One comparison of the value at a path."""

    path: str
    operator: str
    operand: Any


def conditions_of(query: Query) -> list[Condition]:
    """The comparisons of a query, all of which must hold. NotImplementedError for another operator."""
    found: list[Condition] = []
    for path, wanted in query.items():
        if path.startswith("$"):
            raise NotImplementedError(f"the operator {path}")
        if not _is_operators(wanted):
            found.append(Condition(path, "$eq", as_stored(wanted)))
            continue
        for operator, operand in wanted.items():
            if operator not in _TESTS:
                raise NotImplementedError(f"the operator {operator}")
            found.append(Condition(path, operator, as_stored(operand)))
    return found


def _is_operators(wanted: object) -> bool:
    return isinstance(wanted, Mapping) and any(name.startswith("$") for name in wanted)


def matches(document: Document, conditions: Sequence[Condition]) -> bool:
    """Whether all of them hold."""
    for path, operator, operand in conditions:  # noqa: SIM110 - `all` costs twice as much
        if not _TESTS[operator](value_at(document, path), operand):
            return False
    return True


def _equals(value: Any, operand: Any) -> bool:
    """An array also by any of its elements; null also where there is nothing."""
    if type(value) is str and type(operand) is str:
        return value == operand
    if value is MISSING:
        return operand is None
    if isinstance(value, list) and any(equal(element, operand) for element in value):
        return True
    return equal(value, operand)


def _is_in(value: Any, operands: list[Any]) -> bool:
    return any(_equals(value, operand) for operand in operands)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, operand: Any) -> bool:
        """Only within one kind; an array by any of its elements."""
        if operand is None:
            raise NotImplementedError("an order of null")
        if isinstance(value, list):
            return any(holds(element, operand) for element in value)
        if value is MISSING or kind_of(value) != kind_of(operand):
            return False
        return test(rank(value), rank(operand))

    return holds


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equals,
    "$ne": lambda value, operand: not _equals(value, operand),
    "$in": _is_in,
    "$gt": _ordered(lambda value, operand: value > operand),
    "$gte": _ordered(lambda value, operand: value >= operand),
    "$lt": _ordered(lambda value, operand: value < operand),
    "$lte": _ordered(lambda value, operand: value <= operand),
    "$exists": lambda value, operand: (value is not MISSING) is bool(operand),
}


def shown(document: Document, fields: Fields | None) -> Document:
    """A document with the fields that are asked for: all of them, all but some, or some and `_id`."""
    if not fields:
        return document
    if not all(fields.values()):
        if any(fields.values()) or any("." in path for path in fields):
            raise NotImplementedError(
                "fields to show beside fields to leave out, or dotted ones to leave out"
            )
        return {name: value for name, value in document.items() if name not in fields}
    result: Document = {"_id": document["_id"]}
    for path in fields:
        value = value_at(document, path)
        *outer, last = path.split(".")
        inner, given = result, document
        for (
            name
        ) in outer:  # what holds the field is shown where it is there, without its other fields
            if not isinstance(given.get(name), dict):
                break
            inner, given = inner.setdefault(name, {}), given[name]
        else:
            if value is not MISSING:
                inner[last] = value
    return result
