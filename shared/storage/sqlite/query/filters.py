"""Conditions on a document, and which of its fields are shown."""

from collections.abc import Callable, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

from shared.storage.database import Document, Fields, Query
from shared.storage.sqlite.query.values import (
    MISSING,
    as_stored,
    equal,
    rank,
    refuse_overlaps,
    refuse_unlisted,
    value_at,
    value_kind,
)

Projection = Callable[[Document], Document]


class Condition(NamedTuple):
    """One comparison of the value at a path."""

    path: str
    operator: str
    operand: Any
    choices: frozenset[str | None] | None = None
    """The operand of `$in`, where it lists only texts and null."""


def conditions_of(query: Query) -> list[Condition]:
    """The comparisons of a query, all of which must hold. NotImplementedError for another operator, or
    an operand that it does not take."""
    found: list[Condition] = []
    for path, wanted in query.items():
        if path.startswith("$"):
            raise NotImplementedError(f"the operator {path}")
        # A text first: to ask for a Mapping costs as much as all else here.
        is_operators = (
            type(wanted) is not str
            and isinstance(wanted, Mapping)
            and any(name[:1] == "$" for name in wanted)
        )
        for operator, operand in wanted.items() if is_operators else [("$eq", wanted)]:
            if operator not in _TESTS:
                raise NotImplementedError(f"the operator {operator}")
            found.append(_condition(path, operator, operand))
    return found


def _condition(path: str, operator: str, operand: Any) -> Condition:
    stored = as_stored(operand)
    if operator == "$in":
        if not isinstance(operand, list | tuple):
            raise NotImplementedError("$in of something else than a list")
    elif operator == "$exists":
        if not isinstance(operand, bool):
            raise NotImplementedError("$exists of something else than a truth value")
    elif operator not in {"$eq", "$ne"}:
        if operand is None:
            raise NotImplementedError("an order of null")
        rank(stored)
    if type(stored) is not str:
        refuse_unlisted(stored)
    return Condition(path, operator, stored, _choices(stored) if operator == "$in" else None)


def _choices(operands: Sequence[Any]) -> frozenset[str | None] | None:
    is_plain = all(each is None or type(each) is str for each in operands)
    return frozenset(operands) if is_plain else None


def matches(document: Document, conditions: Sequence[Condition]) -> bool:
    """True where all of them hold."""
    for path, operator, operand, choices in conditions:
        value = document.get(path, MISSING) if "." not in path else value_at(document, path)
        if choices is not None and type(value) is str:
            if value not in choices:
                return False
        elif not _TESTS[operator](value, operand):
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


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, operand: Any) -> bool:
        """Only within one kind; an array by any of its elements."""
        if isinstance(value, list):
            return any(holds(element, operand) for element in value)
        if value is MISSING or value_kind(value) != value_kind(operand):
            return False
        return test(value, operand)

    return holds


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equals,
    "$ne": lambda value, operand: not _equals(value, operand),
    "$in": lambda value, operands: any(_equals(value, operand) for operand in operands),
    "$gt": _ordered(gt),
    "$gte": _ordered(ge),
    "$lt": _ordered(lt),
    "$lte": _ordered(le),
    "$exists": lambda value, operand: (value is not MISSING) is bool(operand),
}


def projection_of(fields: Fields) -> Projection:
    """A document with `_id` and the fields that are asked for, or with all but some. NotImplementedError for
    a mixture of both, and for dotted fields to leave out."""
    is_known = all(shows in (0, 1) for shows in fields.values())
    if not fields or not is_known or not fields.get("_id", 1):
        raise NotImplementedError(f"fields to show: {dict(fields)}")
    refuse_overlaps(fields)
    if all(fields.values()):
        paths = [path.split(".") for path in fields]
        return lambda document: _with(document, paths)
    if any(fields.values()) or any("." in path for path in fields):
        raise NotImplementedError(f"fields to leave out: {dict(fields)}")
    return lambda document: {k: value for k, value in document.items() if k not in fields}


def _with(document: Document, paths: Sequence[Sequence[str]]) -> Document:
    result: Document = {"_id": document["_id"]}
    for *outer, last in paths:
        inner, given = result, document
        # What holds the field is shown where it is there, without its other fields.
        for name in outer:
            held = given.get(name)
            if isinstance(held, list):
                raise NotImplementedError(f"fields to show inside the array {name}")
            if not isinstance(held, dict):
                break
            inner, given = inner.setdefault(name, {}), held
        else:
            if last in given:
                inner[last] = given[last]
    return result
