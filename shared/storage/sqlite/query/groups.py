"""`$group` by one field, a document at a time: no document is kept."""

from collections.abc import Sequence
from operator import gt, lt
from typing import Any

from shared.storage.database import Document, Query
from shared.storage.sqlite.query.values import MISSING, rank, value_at

_BETTER = {"$min": lt, "$max": gt}
"""The first one of equal values stays, of any type."""


class Groups:
    """The groups of a pipeline of `$match` and `$group`; NotImplementedError for another one."""

    def __init__(self, pipeline: Sequence[Query]) -> None:
        if [list(stage) for stage in pipeline] != [["$match"], ["$group"]]:
            raise NotImplementedError("a pipeline other than $match and $group")
        match, group = pipeline
        self.match: Query = match["$match"]
        self._by = _field(group["$group"]["_id"])
        self._sums = {name: _sum(how) for name, how in group["$group"].items() if name != "_id"}
        self._found: dict[Any, Document] = {}

    def add(self, document: Document) -> None:
        key = value_at(document, self._by)
        key = None if key is MISSING else key
        if isinstance(key, dict | list):
            raise NotImplementedError("a group by documents or arrays")
        group = self._found.setdefault(rank(key), {"_id": key})
        for name, (operator, operand) in self._sums.items():
            if operator == "$sum":
                group[name] = group.get(name, 0) + operand
                continue
            value = value_at(document, operand)
            value = None if value is MISSING else value
            best = group.get(name)
            if value is None:
                group.setdefault(name, None)
            elif best is None or _BETTER[operator](rank(value), rank(best)):
                group[name] = value

    @property
    def found(self) -> list[Document]:
        return list(self._found.values())


def _field(expression: Any) -> str:
    if not isinstance(expression, str) or not expression[:1] == "$" != expression[1:2]:
        raise NotImplementedError("a group by something else than a field")
    return expression[1:]


def _sum(how: Query) -> tuple[str, Any]:
    [(operator, operand)] = how.items()
    if operator == "$sum" and isinstance(operand, int):
        return operator, operand
    if operator in {"$min", "$max"}:
        return operator, _field(operand)
    raise NotImplementedError(f"the accumulator {operator} of {operand}")
