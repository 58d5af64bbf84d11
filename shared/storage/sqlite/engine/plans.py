"""The choice of an index for a query, and the statement that goes along it.

Promise: a statement looks at no row that it does not return, and returns them in the order of its index:
it can be ended after any row. What its index does not decide is left to `conditions`, document by
document. The statement names the index for SQLite, whose plan is checked once for each shape of a query.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from typing import Any

from shared.storage.database import Sort
from shared.storage.sqlite.engine.tables import StoredIndex, Table, quoted
from shared.storage.sqlite.query.filters import Condition
from shared.storage.sqlite.query.values import column_value

LISTED_TOGETHER = 64
"""Values of one list in a statement; longer lists are looked up in several."""
DIRECTIONS = {1: "", -1: " DESC"}
_RANGES = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class Way(Enum):
    """The way in which a statement finds its rows."""

    IDS = "by `_id`: no more rows than ids"
    INDEX = "by an index: any number of rows"
    ID_ORDER = "all, or a range, in the order of `_id`"
    ALL = "all, in the order of their insertion"


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The way of all queries of one shape. `exact`, `many`, `ranges`: the positions of the conditions that
    it decides by equality, by a list, and by a range. `paired`: that of a second list, each value of which
    is sought beside each one of the first."""

    way: Way
    known: StoredIndex | None = None
    exact: tuple[int, ...] = ()
    many: int | None = None
    paired: int | None = None
    ranges: tuple[int, ...] = ()
    order: str = ""
    is_sorted: bool = True
    """The rows come in the order that was asked for."""
    texts: dict[tuple[int, ...], str] = field(default_factory=dict, compare=False)
    """The texts of statements, by the lengths of their lists."""

    @property
    def is_onwards(self) -> bool:
        """A read can go on behind any row that it has seen."""
        return self.known is None and self.way is not Way.IDS


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with its values; selects `_row` and `_document`."""

    sql: str
    values: tuple[Any, ...]
    rest: Sequence[Condition]
    """The conditions that it does not decide."""


def read_plan_of(table: Table, conditions: Sequence[Condition], sort: Sort) -> ReadPlan:
    """The way for these conditions. NotImplementedError for an order that no index gives: it would have to
    look at everything first."""
    plan = _plan_of(table, conditions, sort)
    if plan is None:
        raise NotImplementedError(f"{table.name}: no index gives the order {list(sort)}")
    return plan


def _plan_of(table: Table, conditions: Sequence[Condition], sort: Sort) -> ReadPlan | None:
    """The way, remembered by the shape of the conditions; None: there is none."""
    shape = (
        tuple(sort),
        *[
            (each.path, each.operator, _can_decide(each), each.operand is None)
            for each in conditions
        ],
    )
    if shape not in table.plans:
        table.plans[shape] = _chosen(table, conditions, sort)
    plan: ReadPlan | None = table.plans[shape]
    return plan


def alternatives(
    table: Table, conditions: Sequence[Condition], sort: Sort
) -> Sequence[Sequence[Condition]]:
    """The conditions once for each choice from their lists, where an index gives the order only then:
    what is found by all of them is the match set. One alternative in any other case."""
    lists = [n for n, each in enumerate(conditions) if each.operator == "$in"]
    if not sort or not lists or _plan_of(table, conditions, sort) is not None:
        return [conditions]
    choices = []
    for operands in product(*(conditions[n].operand for n in lists)):
        choice = list(conditions)
        for n, operand in zip(lists, operands, strict=True):
            choice[n] = Condition(choice[n].path, "$eq", operand)
        choices.append(choice)
    return choices


def _can_decide(condition: Condition) -> bool:
    """A column can decide it, or at least leave out what does not match."""
    if condition.operator == "$in":
        return None not in (condition.choices or condition.operand)
    return condition.operator == "$eq"


def _can_seek(condition: Condition) -> bool:
    """The same, of a field without which no document has a row."""
    return _can_decide(condition) and condition.operand is not None


def _chosen(table: Table, conditions: Sequence[Condition], sort: Sort) -> ReadPlan | None:
    by_id = [n for n, each in enumerate(conditions) if each.path == "_id" and _can_seek(each)]
    is_by_id = list(sort) in ([], [("_id", 1)], [("_id", -1)])
    if by_id and is_by_id:
        many = conditions[by_id[0]].operator == "$in"
        return ReadPlan(
            Way.IDS,
            exact=() if many else (by_id[0],),
            many=by_id[0] if many else None,
            is_sorted=not sort,
        )
    plans = [
        plan
        for known in table.indexes.values()
        if known.is_ready and (plan := _by_index(known, conditions, sort)) is not None
    ]
    usable = [plan for plan in plans if plan.is_sorted or is_by_id]
    if usable:
        return max(usable, key=_worth)
    if not is_by_id:
        return None
    ranges = tuple(
        n for n, each in enumerate(conditions) if each.path == "_id" and each.operator in _RANGES
    )
    if sort or ranges:
        direction = sort[0][1] if sort else 1
        return ReadPlan(Way.ID_ORDER, ranges=ranges, order="_id" + DIRECTIONS[direction])
    return ReadPlan(Way.ALL)


def _worth(plan: ReadPlan) -> tuple[int, bool, int, bool]:
    """Rank a plan by how few rows it reads: more equalities, an index that leaves most documents out, or a
    range with two ends."""
    assert plan.known is not None
    equal = len(plan.exact) + (plan.many is not None) + (plan.paired is not None)
    is_one = plan.known.index.unique and equal == len(plan.known.paths)
    is_small = plan.known.index.leaves_out
    return equal + 10 * is_one, is_small, len(plan.ranges), plan.is_sorted


def _by_index(known: StoredIndex, conditions: Sequence[Condition], sort: Sort) -> ReadPlan | None:
    """Equalities with its first fields, a list among them, or two where no order is asked for, then a range
    of the next one; None: useless."""
    exact: list[int] = []
    many: int | None = None
    paired: int | None = None
    fixed = 0
    ranges: tuple[int, ...] = ()
    for number, path in enumerate(known.paths):
        here = [n for n, each in enumerate(conditions) if each.path == path]
        has_gaps = known.index.leaves_out or known.index.of_array
        decides = _can_seek if has_gaps and not number else _can_decide
        decided = [n for n in here if decides(conditions[n])]
        single = [n for n in decided if conditions[n].operator == "$eq"]
        if single:
            exact.append(single[0])
            fixed += many is None
        elif decided and many is None:
            many = decided[0]
        elif decided and paired is None and not sort:
            paired = decided[0]
        else:
            if number or not known.index.of_array:
                ranges = tuple(n for n in here if conditions[n].operator in _RANGES)
            break
    if not exact and many is None and not ranges:
        return None
    order = _order(known, fixed, sort)
    return ReadPlan(
        Way.INDEX,
        known,
        tuple(exact),
        many,
        paired,
        ranges,
        order or "",
        is_sorted=not sort or order is not None,
    )


def _order(known: StoredIndex, exact: int, sort: Sort) -> str | None:
    """The ORDER BY that the index gives behind its fields with one value each, of which a list may be the
    first; None: not that one."""
    fixed = set(known.paths[:exact])
    wanted = [(path, direction) for path, direction in sort if path not in fixed]
    given = known.index.keys[exact : exact + len(wanted)]
    if [path for path, _ in wanted] != [path for path, _ in given]:
        return None
    turned = {direction * kept for (_, direction), (_, kept) in zip(wanted, given, strict=True)}
    if len(turned) > 1:
        return None
    columns = _columns(known)
    return ", ".join(columns[path] + DIRECTIONS[direction] for path, direction in wanted)


def _columns(known: StoredIndex) -> dict[str, str]:
    if known.index.of_array:
        return {path: f"s.k{number}" for number, path in enumerate(known.paths)}
    return {path: quoted(path) for path in known.paths}


def statement_of(table: Table, plan: ReadPlan, conditions: Sequence[Condition]) -> Statement:
    """The statement of one query. Its first list is one part of a longer one."""
    values: list[Any] = []
    lengths: dict[int, int] = {}
    decided: set[int] = set()
    for number in plan.exact:
        operand = conditions[number].operand
        if operand is not None:
            values.append(column_value(operand))
        if operand is None or isinstance(operand, str):
            decided.add(number)
    for listed in _sought(plan, conditions):
        wanted = list(dict.fromkeys(map(column_value, conditions[listed].operand)))
        # Lists have few lengths, so that few statements are compiled; the last value is repeated.
        lengths[listed] = 1 << max(0, len(wanted) - 1).bit_length()
        values += wanted + wanted[-1:] * (lengths[listed] - len(wanted))
        if conditions[listed].choices is not None:
            decided.add(listed)
    values += [column_value(conditions[number].operand) for number in plan.ranges]
    key = (*lengths.values(),)
    sql = plan.texts.get(key)
    if sql is None:
        sql = plan.texts[key] = _text(table, plan, conditions, lengths)
    # Texts and null compare as in MongoDB; a column does not distinguish a number from a time.
    rest = [each for number, each in enumerate(conditions) if number not in decided]
    return Statement(sql, tuple(values), rest)


def _sought(plan: ReadPlan, conditions: Sequence[Condition]) -> Sequence[int]:
    """Its lists, without a second one that is long, empty, or not of texts only: it may hold what no column
    holds, and is left to the conditions."""
    if plan.many is None or plan.paired is None:
        return () if plan.many is None else (plan.many,)
    is_short = 0 < len(conditions[plan.paired].choices or ()) <= LISTED_TOGETHER
    return (plan.many, plan.paired) if is_short else (plan.many,)


def _text(
    table: Table, plan: ReadPlan, conditions: Sequence[Condition], lengths: Mapping[int, int]
) -> str:
    """The text of a statement, which is the same for all queries of one shape with lists of these lengths."""
    columns = _columns(plan.known) if plan.known is not None else {"_id": "_id"}
    where = []
    for number in plan.exact:
        path, _, operand, _ = conditions[number]
        where.append(f"{columns[path]} {'IS NULL' if operand is None else '= ?'}")
    for number, length in lengths.items():
        where.append(f"{columns[conditions[number].path]} IN ({', '.join('?' * length)})")
    for number in plan.ranges:
        where.append(f"{columns[conditions[number].path]} {_RANGES[conditions[number].operator]} ?")
    sql = _from(table, plan)
    if where:
        sql += " WHERE " + " AND ".join(where)
    return f"{sql} ORDER BY {plan.order}" if plan.order else sql


def _from(table: Table, plan: ReadPlan) -> str:
    name = quoted(table.name)
    if plan.known is None:
        return f"SELECT _row, _document FROM {name}"
    if plan.known.index.of_array:
        elements = quoted(plan.known.sql_name)
        return f"SELECT d._row, d._document FROM {elements} s CROSS JOIN {name} d ON d._row = s.r"
    return f"SELECT _row, _document FROM {name} INDEXED BY {quoted(plan.known.sql_name)}"


def check(connection: sqlite3.Connection, statement: Statement) -> None:
    """RuntimeError where SQLite would sort, or look through a whole table behind our back."""
    found = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", statement.values).fetchall()
    steps = [str(step[-1]) for step in found]
    if any("TEMP B-TREE" in step or "AUTOMATIC" in step for step in steps):
        raise RuntimeError(f"not along an index: {statement.sql}: {steps}")
    if " WHERE " in statement.sql and any(step.startswith("SCAN") for step in steps):
        raise RuntimeError(f"not by an index: {statement.sql}: {steps}")
