"""Tables of the file: one for each collection, with its columns and the elements of its arrays.

A table of the collection's name: `_id`, `_document` (BSON), and a column for each field of an index, named by
its path. An index of an array has a separate table, with a row for each element.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from shared.storage.database import Document
from shared.storage.indexes import Index
from shared.storage.sqlite.query.values import MISSING, column_value, value_at

Columns = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index in the file."""

    index: Index
    is_ready: bool
    paths: tuple[str, ...]
    sql_name: str
    """The name of the index, or of the table of an array's elements: both share one space of names."""

    @classmethod
    def of(cls, index: Index, *, is_ready: bool) -> "StoredIndex":
        paths = tuple(path for path, _ in index.keys)
        return cls(index, is_ready, paths, f"{index.collection}.{index.name}")


class Table:
    """One collection: its columns and indexes, and the statements that write its rows."""

    def __init__(self, name: str) -> None:
        if not name.isidentifier() or name.lower().startswith(("_", "sqlite")):
            raise NotImplementedError(f"a collection of the name {name}")
        self.name = name
        self.exists = False
        self.columns: list[str] = []
        self.indexes: dict[str, StoredIndex] = {}
        self.plans: dict[Any, Any] = {}
        """Plans of queries by their shapes; forgotten when an index comes or goes."""
        self.insert_sql = ""
        self.held_sql = ""
        """Reads what a change needs of a row, up to the list of ids."""
        self._update_sql: dict[tuple[int, ...], str] = {}
        """Statements that rewrite a document and some columns, by the numbers of these."""
        self._arrays: list[StoredIndex] = []
        self._paths: list[tuple[str, bool]] = []
        self._tops: list[str] = []
        self._needed: list[int] = []

    def renew(self, columns: Sequence[str], indexes: Iterable[StoredIndex]) -> None:
        """Take what the file has now."""
        self.exists = bool(columns)
        self.columns = [name for name in columns if name not in {"_id", "_document", "_row"}]
        self._paths = [(path, "." not in path) for path in self.columns]
        self._tops = [path.partition(".")[0] for path in self.columns]
        self.indexes = {known.index.name: known for known in indexes}
        self._arrays = [known for known in self.indexes.values() if known.index.of_array]
        self._needed = [
            self.columns.index(path)
            for known in self.indexes.values()
            if known.index.unique and not known.index.sparse
            for path in known.paths
            if path in self.columns
        ]
        self.plans.clear()
        self._update_sql.clear()
        # The length of a document is known without reading it.
        plain = "_id, _row, length(_document), iif(length(_document) <= ?, _document, NULL)"
        selected = ", ".join((plain, *map(quoted, self.columns)))
        self.held_sql = f"SELECT {selected} FROM {quoted(self.name)} WHERE _id IN "
        names = ", ".join(quoted(name) for name in ("_id", "_document", *self.columns))
        marks = ", ".join("?" * (len(self.columns) + 2))
        self.insert_sql = (
            f"INSERT INTO {quoted(self.name)} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        )

    def row_of(self, document: Document, blob: bytes) -> "Row":
        """NotImplementedError for a value that no index of ours can hold."""
        get = document.get
        columns = tuple(
            [
                value
                if (value := get(path) if is_plain else value_at(document, path)) is None
                or type(value) is str
                else column_value(value)
                for path, is_plain in self._paths
            ]
        )
        key = column_value(document.get("_id"))
        if key is None:
            self._refuse()
        if self._needed and any(columns[position] is None for position in self._needed):
            self._refuse()
        return Row(key, blob, columns, elements_of(document, self._arrays))

    def _refuse(self) -> NoReturn:
        # SQLite takes any number of them under a unique index, MongoDB one.
        raise NotImplementedError(f"{self.name}: a document without one of its unique keys")

    def touched_by(self, paths: Iterable[str]) -> "Touched":
        """What may change with these paths of a document."""
        tops = {path.partition(".")[0] for path in paths}
        positions = [n for n, top in enumerate(self._tops) if top in tops]
        arrays = [
            known
            for known in self._arrays
            if any(path.partition(".")[0] in tops for path in known.paths)
        ]
        return Touched(positions, arrays)

    def changed_columns(
        self, document: Document, before: Sequence[Any], positions: Sequence[int]
    ) -> dict[int, Any]:
        """By their numbers, those of these columns that were others before. NotImplementedError as of
        `row_of`."""
        changed = {}
        for position in positions:
            value = column_value(value_at(document, self.columns[position]))
            # Only here: an index in the making has not filled in its columns everywhere yet.
            if value is None and position in self._needed:
                self._refuse()
            if value != before[position]:
                changed[position] = value
        return changed

    def insert(self, connection: sqlite3.Connection, row: "Row") -> int | None:
        """The number of the new row; None: another document has one of its unique keys."""
        cursor = connection.execute(self.insert_sql, (row.id, row.blob, *row.columns))
        if cursor.rowcount == 0:
            return None
        number = cursor.lastrowid or 0
        if row.elements:
            change_elements(connection, number, self._arrays, _none(row.elements), row.elements)
        return number

    def replace(
        self, connection: sqlite3.Connection, number: int, blob: bytes, changed: Mapping[int, Any]
    ) -> bool:
        """Write a document and what changed of its columns. False: another one has one of its unique keys."""
        key = (*changed,)
        sql = self._update_sql.get(key)
        if sql is None:
            names = "".join(f", {quoted(self.columns[n])} = ?" for n in changed)
            sql = f"UPDATE OR IGNORE {quoted(self.name)} SET _document = ?{names} WHERE _row = ?"
            self._update_sql[key] = sql
        done = connection.execute(sql, (blob, *changed.values(), number))
        return done.rowcount != 0

    def delete(self, connection: sqlite3.Connection, number: int, old: "Row") -> None:
        connection.execute(f"DELETE FROM {quoted(self.name)} WHERE _row = ?", (number,))
        change_elements(connection, number, self._arrays, old.elements, _none(old.elements))

    def refill(
        self,
        connection: sqlite3.Connection,
        number: int,
        document: Document,
        known: StoredIndex,
        paths: Sequence[str],
    ) -> None:
        """Write some columns of a row, and its elements, for an index that is being built."""
        values = [column_value(value_at(document, path)) for path in paths]
        if known.index.unique and not known.index.sparse and None in values:
            self._refuse()
        if paths:
            columns = [quoted(path) for path in paths]
            names = ", ".join(f"{column} = ?" for column in columns)
            differs = " OR ".join(f"{column} IS NOT ?" for column in columns)
            sql = f"UPDATE {quoted(self.name)} SET {names} WHERE _row = ? AND ({differs})"
            connection.execute(sql, (*values, number, *values))
        if known.index.of_array:
            elements = elements_of(document, [known])
            change_elements(connection, number, [known], _none(elements), elements)

    @property
    def has_arrays(self) -> bool:
        return bool(self._arrays)


def change_elements(
    connection: sqlite3.Connection,
    number: int,
    arrays: Sequence[StoredIndex],
    before: Sequence[set[Columns]],
    after: Sequence[set[Columns]],
) -> None:
    """Write what changed of the elements of one row."""
    for known, old_keys, new_keys in zip(arrays, before, after, strict=True):
        if old_keys == new_keys:
            continue
        width = len(known.paths)
        for key in old_keys - new_keys:
            where = " AND ".join(f"k{n} IS ?" for n in range(width))
            sql = f"DELETE FROM {quoted(known.sql_name)} WHERE {where} AND r = ?"
            connection.execute(sql, (*key, number))
        for key in new_keys - old_keys:
            marks = ", ".join("?" * (width + 1))
            sql = f"INSERT OR IGNORE INTO {quoted(known.sql_name)} VALUES ({marks})"
            connection.execute(sql, (*key, number))


def _none(elements: Sequence[set[Columns]]) -> list[set[Columns]]:
    return [set()] * len(elements)


class Touched(NamedTuple):
    """The columns, by their numbers, and the indexes of arrays that an update may change."""

    positions: list[int]
    arrays: list[StoredIndex]


class Row(NamedTuple):
    """A document in its table; `elements`: for each index of an array, its keys."""

    id: Any
    blob: bytes
    columns: Columns
    elements: list[set[Columns]]


def elements_of(document: Document, arrays: Sequence[StoredIndex]) -> list[set[Columns]]:
    """For each of these indexes the keys of a document. NotImplementedError as of `Table.row_of`."""
    return [_elements(document, known.paths) for known in arrays]


def _elements(document: Document, paths: Sequence[str]) -> set[Columns]:
    value = value_at(document, paths[0])
    if value is MISSING:
        return set()
    if not isinstance(value, list):
        raise NotImplementedError(f"{paths[0]} without an array, under an index of arrays")
    rest = tuple([column_value(value_at(document, path)) for path in paths[1:]])
    return {(column_value(element), *rest) for element in value}


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
