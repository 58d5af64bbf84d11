"""Insertions, updates and deletions of rows, on the connection that writes.

Promise: every reason to refuse is found before a row changes, and each document changes as a whole.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.ports.clock import Clock
from shared.storage.database import BulkResult, Document, Query
from shared.storage.sqlite.engine.documents import decoded, encoded
from shared.storage.sqlite.engine.submission import NO_LIMIT, IsLarge, Write
from shared.storage.sqlite.engine.tables import Table, change_elements, elements_of
from shared.storage.sqlite.query.filters import Condition, matches
from shared.storage.sqlite.query.updates import steps_of, updated, upserted
from shared.storage.sqlite.query.values import column_value


@dataclass(frozen=True, slots=True)
class RowChange:
    """An update (None: a deletion) of those of some documents that match when it is done."""

    ids: Sequence[Any]
    conditions: Sequence[Condition]
    update: Query | None
    is_single: bool = False
    """At most one document changes."""
    upserts: bool = False


class Done(NamedTuple):
    """The number of documents that a change matched, and of those that it inserted."""

    matched: int
    upserted: int = 0


@dataclass(slots=True)
class _Held:
    """A row under change; `document` is None once it is deleted."""

    number: int
    blob: bytes
    document: Document | None
    columns: list[Any]


class _KeyTaken(Exception):
    """Another document has a unique key of this one."""


def insert(
    table: Table,
    documents: Sequence[tuple[int, Document, bytes]],
    connection: sqlite3.Connection,
    limit: int,
) -> set[int]:
    """Insert numbered documents; the numbers of those with a duplicate key."""
    # Here, since a column may have come since they were submitted.
    rows = [(number, table.row_of(document, blob)) for number, document, blob in documents]
    return {number for number, row in rows if table.insert(connection, row) is None}


def change(
    table: Table,
    changes: Sequence[RowChange],
    clock: Clock,
    connection: sqlite3.Connection,
    limit: int,
) -> list[Done | None]:
    """The result of each change, None for a duplicate key. IsLarge before anything large is read."""
    ids = list({column_value(id_): None for each in changes for id_ in each.ids})
    marks = ", ".join("?" * len(ids))
    rows = connection.execute(f"{table.held_sql}({marks})", (limit, *ids)).fetchall()
    if sum(row[2] for row in rows) > limit:
        raise IsLarge
    held = {row[0]: _Held(row[1], row[3], decoded(row[3]), [*row[4:]]) for row in rows}
    return [_changed(table, connection, each, held, clock) for each in changes]


def counted(changes: Sequence[RowChange], done: Sequence[Done | None]) -> BulkResult:
    """The result of changes, of which deletions are not counted."""
    pairs = zip(changes, done, strict=True)
    hits = sum(d.matched + d.upserted for c, d in pairs if d is not None and c.update is not None)
    return hits, {number for number, each in enumerate(done) if each is None}


def insert_part(
    table: Table,
    documents: Sequence[tuple[int, Document, bytes]],
    connection: sqlite3.Connection,
    limit: int,
) -> BulkResult:
    """`insert` as a part of `in_order`."""
    met = insert(table, documents, connection, limit)
    return len(documents) - len(met), met


def change_part(
    table: Table,
    changes: Sequence[RowChange],
    clock: Clock,
    connection: sqlite3.Connection,
    limit: int,
) -> BulkResult:
    """`change` as a part of `in_order`."""
    return counted(changes, change(table, changes, clock, connection, limit))


def in_order(
    parts: Sequence[Write[BulkResult]], connection: sqlite3.Connection, limit: int
) -> list[BulkResult]:
    """Do one part after the other; one that meets a duplicate key is the last."""
    results: list[BulkResult] = []
    for part in parts:
        # Refused as large, a later one would leave those before it done.
        results.append(part(connection, NO_LIMIT if results else limit))
        if results[-1][1]:
            break
    return results


def _changed(
    table: Table,
    connection: sqlite3.Connection,
    change: RowChange,
    held: dict[Any, _Held],
    clock: Clock,
) -> Done | None:
    hits = 0
    update = None if change.update is None else _Update(table, change.update, clock)
    try:
        for key in map(column_value, change.ids):
            row = held.get(key)
            if row is None or row.document is None or not matches(row.document, change.conditions):
                continue
            if update is None:
                table.delete(connection, row.number, table.row_of(row.document, b""))
                row.document = None
            else:
                update.apply(connection, row)
            hits += 1
            if change.is_single:
                break
        if not hits and change.upserts:
            held[column_value(change.ids[0])] = _inserted(table, connection, change, clock)
            return Done(0, 1)
    except _KeyTaken:
        return None
    return Done(hits)


class _Update:
    """One update of some rows: what is the same for all of them is worked out once."""

    def __init__(self, table: Table, update: Query, clock: Clock) -> None:
        self._table = table
        self._steps = steps_of(update, clock.now())
        self._touched = table.touched_by(path for fields in update.values() for path in fields)

    def apply(self, connection: sqlite3.Connection, row: _Held) -> None:
        assert row.document is not None
        positions, arrays = self._touched
        before = elements_of(row.document, arrays)
        updated(row.document, self._steps)
        blob = encoded(row.document)
        if blob == row.blob:
            return
        changed = self._table.changed_columns(row.document, row.columns, positions)
        after = elements_of(row.document, arrays)
        if not self._table.replace(connection, row.number, blob, changed):
            row.document = decoded(row.blob)
            raise _KeyTaken
        change_elements(connection, row.number, arrays, before, after)
        row.blob = blob
        for position, value in changed.items():
            row.columns[position] = value


def _inserted(
    table: Table, connection: sqlite3.Connection, change: RowChange, clock: Clock
) -> _Held:
    assert change.update is not None
    document = upserted(change.conditions, change.update, clock.now())
    row = table.row_of(document, encoded(document))
    number = table.insert(connection, row)
    if number is None:
        raise _KeyTaken
    return _Held(number, row.blob, document, [*row.columns])
