"""The tables and indexes that the file has.

The table `_indexes` lists the indexes; one that is not `ready` is being built, is maintained already, and
answers no query yet.
"""

import json
import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from shared.storage.indexes import Index
from shared.storage.sqlite.engine.tables import StoredIndex, Table

CATALOGUE = "_indexes"
_MAKE_CATALOGUE = f"""
CREATE TABLE IF NOT EXISTS "{CATALOGUE}" (
    collection TEXT NOT NULL, name TEXT NOT NULL, keys TEXT NOT NULL, is_unique INTEGER NOT NULL,
    is_sparse INTEGER NOT NULL, of_array INTEGER NOT NULL, expire_seconds INTEGER, ready INTEGER NOT NULL,
    PRIMARY KEY (collection, name)
) WITHOUT ROWID"""


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
