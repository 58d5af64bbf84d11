"""Updates of a document in memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import gt, lt
from typing import Any, NamedTuple

from shared.domain.errors import StoreUnavailable
from shared.storage.database import Document, Query
from shared.storage.sqlite.query.filters import Condition
from shared.storage.sqlite.query.values import (
    MISSING,
    NUMBER,
    as_stored,
    equal,
    rank,
    refuse_overlaps,
    refuse_unlisted,
    value_kind,
)


def check(update: Query) -> None:
    """NotImplementedError for what no document can be updated by: here, or in MongoDB."""
    if not update:
        raise NotImplementedError("an update without an operator")
    for operator, fields in update.items():
        if operator not in _CHANGES:
            raise NotImplementedError(f"the operator {operator}")
        for path, operand in fields.items():
            if path == "_id" or path.startswith("_id."):
                raise NotImplementedError("an update of _id")
            if not _takes(operator, as_stored(operand)):
                raise NotImplementedError(f"the operator {operator} of such a value")
    refuse_overlaps(path for fields in update.values() for path in fields)


def _takes(operator: str, operand: Any) -> bool:
    if operator == "$inc":
        return value_kind(operand) == NUMBER
    if operator == "$currentDate":
        return operand is True
    if operator == "$addToSet":
        refuse_unlisted(operand)
        if isinstance(operand, dict) and any(name.startswith("$") for name in operand):
            return list(operand) == ["$each"] and isinstance(operand["$each"], list)
    if operator in {"$min", "$max"}:
        rank(operand)
    return True


class Step(NamedTuple):
    """The change of one field by an update."""

    change: Callable[[Document, str, Any], None]
    outer: Sequence[str]
    """The names on the way to the document that holds the field."""
    name: str
    operand: Any
    makes: bool
    """What is missing on the way is made."""


def steps_of(update: Query, now: datetime) -> list[Step]:
    """An update that was checked, for any number of documents."""
    return [
        _step(operator, path, now if operator == "$currentDate" else operand)
        for operator, fields in update.items()
        for path, operand in fields.items()
    ]


def _step(operator: str, path: str, operand: Any) -> Step:
    *outer, name = path.split(".")
    return Step(_CHANGES[operator], outer, name, as_stored(operand), operator != "$unset")


def updated(document: Document, steps: Iterable[Step]) -> None:
    """Change a document in place. StoreUnavailable where MongoDB refuses the write: the field has a value of
    another kind."""
    for change, outer, name, operand, makes in steps:
        inner = _holder(document, outer, makes=makes) if outer else document
        if inner is not None:
            # Each document has lists of its own.
            is_list = type(operand) in (list, dict)
            change(inner, name, as_stored(operand) if is_list else operand)


def upserted(conditions: Iterable[Condition], update: Query, now: datetime) -> Document:
    """The document that an upsert inserts: what the conditions say is equal, then the update."""
    document: Document = {}
    for path, operator, operand, _ in conditions:
        if operator == "$eq":
            updated(document, [_step("$set", path, operand)])
    updated(document, steps_of(update, now))
    return document


def _holder(document: Document, names: Iterable[str], *, makes: bool) -> Document | None:
    """The document that these names lead to; made on the way, or None where there is none."""
    inner = document
    for name in names:
        if name not in inner:
            if not makes:
                return None
            inner[name] = {}
        value = inner[name]
        if isinstance(value, list):
            raise NotImplementedError(f"a path through the array {name}")
        if not isinstance(value, dict):
            if makes:
                raise StoreUnavailable(f"the store cannot make a field inside the value of {name}")
            return None
        inner = value
    return inner


def _increase(inner: Document, name: str, operand: Any) -> None:
    value = inner.get(name, 0)
    if value_kind(value) != NUMBER:
        raise StoreUnavailable(f"the store cannot increase {name}")
    inner[name] = value + operand


def _keep(is_better: Callable[[Any, Any], bool]) -> Callable[[Document, str, Any], None]:
    def change(inner: Document, name: str, operand: Any) -> None:
        value = inner.get(name, MISSING)
        if value is MISSING or is_better(rank(operand), rank(value)):
            inner[name] = operand

    return change


def _add_to_set(inner: Document, name: str, operand: Any) -> None:
    added = operand["$each"] if isinstance(operand, Mapping) and "$each" in operand else [operand]
    elements = inner.setdefault(name, [])
    if not isinstance(elements, list):
        raise StoreUnavailable(f"the store cannot add to {name}")
    for each in added:
        if not any(equal(each, element) for element in elements):
            elements.append(each)


_CHANGES: dict[str, Callable[[Document, str, Any], None]] = {
    "$set": dict.__setitem__,
    "$unset": lambda inner, name, _: inner.pop(name, None),
    "$inc": _increase,
    "$min": _keep(lt),
    "$max": _keep(gt),
    "$addToSet": _add_to_set,
    "$currentDate": dict.__setitem__,
}
