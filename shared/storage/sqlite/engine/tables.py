"""Tables of the file: one for each collection, with its columns and indexes.

A table of the collection's name: `_id`, `_document` (BSON), and a column for each field of an index, named by
its path. An index of an array has a separate table, with a row for each element. The table `_indexes` lists
the indexes; one that is not `ready` is being built, is maintained already, and answers no query yet.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from shared.storage.database import Document
from shared.storage.indexes import Index
from shared.storage.sqlite.query.values import MISSING, column_value, value_at

CATALOGUE = "_indexes"
_MAKE_CATALOGUE = f"""
CREATE TABLE IF NOT EXISTS "{CATALOGUE}" (
    collection TEXT NOT NULL, name TEXT NOT NULL, keys TEXT NOT NULL, is_unique INTEGER NOT NULL,
    is_sparse INTEGER NOT NULL, of_array INTEGER NOT NULL, expire_seconds INTEGER, ready INTEGER NOT NULL,
    PRIMARY KEY (collection, name)
) WITHOUT ROWID"""

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
        self._arrays: list[StoredIndex] = []
        self._paths: list[tuple[str, bool]] = []
        self._needed: list[int] = []

    def renew(self, columns: Sequence[str], indexes: Iterable[StoredIndex]) -> None:
        """Take what the file has now."""
        self.exists = bool(columns)
        self.columns = [name for name in columns if name not in {"_id", "_document", "_row"}]
        self._paths = [(path, "." not in path) for path in self.columns]
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
        elements = [_elements(document, known.paths) for known in self._arrays]
        key = column_value(document.get("_id"))
        if key is None or any(columns[position] is None for position in self._needed):
            # SQLite takes any number of them under a unique index, MongoDB one.
            raise NotImplementedError(f"{self.name}: a document without one of its unique keys")
        return Row(key, blob, columns, elements)

    def insert(self, connection: sqlite3.Connection, row: "Row") -> int | None:
        """The number of the new row; None: another document has one of its unique keys."""
        cursor = connection.execute(self.insert_sql, (row.id, row.blob, *row.columns))
        if cursor.rowcount == 0:
            return None
        number = cursor.lastrowid or 0
        if row.elements:
            self._change_elements(connection, number, [set()] * len(row.elements), row)
        return number

    def replace(self, connection: sqlite3.Connection, number: int, old: "Row", new: "Row") -> bool:
        """Write what changed. False: another document has one of its unique keys."""
        changed = [
            (name, value)
            for name, value, before in zip(self.columns, new.columns, old.columns, strict=True)
            if value != before
        ]
        names = "".join(f", {quoted(name)} = ?" for name, _ in changed)
        done = connection.execute(
            f"UPDATE OR IGNORE {quoted(self.name)} SET _document = ?{names} WHERE _row = ?",
            (new.blob, *(value for _, value in changed), number),
        )
        if done.rowcount == 0:
            return False
        if self._arrays:
            self._change_elements(connection, number, old.elements, new)
        return True

    def delete(self, connection: sqlite3.Connection, number: int, old: "Row") -> None:
        connection.execute(f"DELETE FROM {quoted(self.name)} WHERE _row = ?", (number,))
        none = old._replace(elements=[set()] * len(old.elements))
        self._change_elements(connection, number, old.elements, none)

    def refill(self, connection: sqlite3.Connection, number: int, document: Document) -> None:
        """Rewrite the columns and elements of a row, for an index that is being built."""
        row = self.row_of(document, b"")
        if self.columns:
            names = ", ".join(f"{quoted(name)} = ?" for name in self.columns)
            sql = f"UPDATE {quoted(self.name)} SET {names} WHERE _row = ?"
            connection.execute(sql, (*row.columns, number))
        self._change_elements(connection, number, [set()] * len(row.elements), row)

    @property
    def has_arrays(self) -> bool:
        return bool(self._arrays)

    def _change_elements(
        self, connection: sqlite3.Connection, number: int, before: list[set[Columns]], new: "Row"
    ) -> None:
        for known, old_keys, new_keys in zip(self._arrays, before, new.elements, strict=True):
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


class Row(NamedTuple):
    """A document in its table; `elements`: for each index of an array, its keys."""

    id: Any
    blob: bytes
    columns: Columns
    elements: list[set[Columns]]


def _elements(document: Document, paths: Sequence[str]) -> set[Columns]:
    value = value_at(document, paths[0])
    if value is MISSING:
        return set()
    if not isinstance(value, list):
        raise NotImplementedError(f"{paths[0]} without an array, under an index of arrays")
    rest = tuple([column_value(value_at(document, path)) for path in paths[1:]])
    return {(column_value(element), *rest) for element in value}


class Tables:
    """All tables of a file, as the catalogue has them."""

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}

    def __getitem__(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(name)
            table.renew((), ())
        return table

    def names(self) -> list[str]:
        return sorted(name for name, table in self._tables.items() if table.exists)

    def load(self, connection: sqlite3.Connection) -> None:
        """Read what the file has; the catalogue is made where there is none."""
        connection.execute(_MAKE_CATALOGUE)
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall()
        for (name,) in names:
            if not name.startswith("_") and "." not in name:
                self.renew(connection, name)

    def renew(self, connection: sqlite3.Connection, name: str, unready: str = "") -> None:
        """Take what the file has of one collection; `unready` names an index that no query goes by yet."""
        columns = connection.execute("SELECT name FROM pragma_table_info(?)", (name,)).fetchall()
        known = connection.execute(
            f'SELECT * FROM "{CATALOGUE}" WHERE collection = ?', (name,)
        ).fetchall()
        self[name].renew([column for (column,) in columns], [_known(row, unready) for row in known])


def _known(row: Sequence[Any], unready: str) -> StoredIndex:
    collection, name, keys, is_unique, is_sparse, of_array, expire_seconds, is_ready = row
    index = Index(
        collection,
        [(path, direction) for path, direction in json.loads(keys)],
        unique=bool(is_unique),
        sparse=bool(is_sparse),
        of_array=bool(of_array),
        expire_after=None if expire_seconds is None else timedelta(seconds=expire_seconds),
    )
    return StoredIndex.of(index, is_ready=bool(is_ready) and name != unready)


def note(connection: sqlite3.Connection, index: Index, *, ready: bool) -> None:
    """Write an index into the catalogue, or over its entry there."""
    expire = None if index.expire_after is None else int(index.expire_after.total_seconds())
    keys = json.dumps(list(index.keys))
    flags = (index.unique, index.leaves_out, index.of_array)
    connection.execute(
        f'INSERT OR REPLACE INTO "{CATALOGUE}" VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        (index.collection, index.name, keys, *flags, expire, ready),
    )


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
