"""Makes the tables and indexes that adapters ask for.

Promises: an index over a table that has documents is built in pieces beside all other work, and survives
being cut short: it begins anew at the next start; whatever is written meanwhile is in it.
"""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Sequence

import structlog

from shared.storage.indexes import Index
from shared.storage.sqlite.documents import decoded
from shared.storage.sqlite.tables import CATALOGUE, Known, Table, Tables, note, quoted
from shared.storage.sqlite.writing.commits import Commits
from shared.storage.sqlite.writing.submission import Write

log = structlog.get_logger()

PIECE = 250
"""Documents of which the columns are filled in at once."""
_IN_THE_THREAD = 1 << 30


class Building:
    """Makes and changes tables and indexes."""

    def __init__(self, tables: Tables, commits: Commits) -> None:
        self._tables = tables
        self._commits = commits
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """One lock for each collection."""

    async def make_table(self, name: str) -> None:
        """The table of a collection, where there is none."""

        def write(connection: sqlite3.Connection, limit: int) -> None:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {quoted(name)} "
                "(_row INTEGER PRIMARY KEY, _id NOT NULL UNIQUE, _document BLOB NOT NULL)"
            )

        await self._commits.submit(write)
        await self._renew(name)

    async def ensure(self, indexes: Sequence[Index]) -> None:
        """Raises StoreUnavailable, also where documents break a rule of a unique index."""
        for index in indexes:
            table = self._tables[index.collection]
            # Services that share a collection ask at the same time: the second one finds what is there.
            async with self._locks[table.name]:
                await self._ensure(table, index)

    async def _ensure(self, table: Table, index: Index) -> None:
        if not table.exists:
            await self.make_table(table.name)
        known = table.indexes.get(index.name)
        if known is not None and _is_same(known.index, index) and known.is_ready:
            if known.index.expire_after != index.expire_after:
                await self._note(table, index, ready=True)
            return
        if known is not None:
            await self._drop(table, known)
        await self._build(table, index)

    async def _build(self, table: Table, index: Index) -> None:
        # An array stands in a table of its own.
        of_row = index.keys[1:] if index.of_array else index.keys
        new = [path for path, _ in of_row if path not in {"_id", *table.columns}]
        known = Known.of(index, is_ready=True)

        def begin(connection: sqlite3.Connection, limit: int) -> bool:
            for path in new:
                connection.execute(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {quoted(path)}")
            if index.of_array:
                connection.execute(_elements_sql(known))
            is_empty = not connection.execute(
                f"SELECT 1 FROM {quoted(table.name)} LIMIT 1"
            ).fetchall()
            if is_empty and not index.of_array:
                connection.execute(_index_sql(known))
            note(connection, index, ready=is_empty)
            # In the same step: whatever is written from now on has the columns.
            self._renew_at_once(connection, table.name)
            return is_empty

        if not await self._commits.submit(begin):
            await self._fill_and_make(table, known)

    async def _fill_and_make(self, table: Table, known: Known) -> None:
        log.info("index_build_begins", collection=table.name, index=known.index.name)
        await self._fill(table)
        if not known.index.of_array:
            await self._commits.submit(_made(known), _IN_THE_THREAD)
        await self._note(table, known.index, ready=True)
        log.info("index_built", collection=table.name, index=known.index.name)

    async def _fill(self, table: Table) -> None:
        """The columns and elements of all documents that were there before."""
        after, done = 0, 0
        while True:
            last, count = await self._commits.submit(_filled(table, after), _IN_THE_THREAD)
            if not count:
                return
            after, done = last, done + count
            if done % (PIECE * 200) == 0:
                log.info("index_build_goes_on", collection=table.name, documents=done)

    async def _drop(self, table: Table, known: Known) -> None:
        def write(connection: sqlite3.Connection, limit: int) -> None:
            kind = "TABLE" if known.index.of_array else "INDEX"
            connection.execute(f"DROP {kind} IF EXISTS {quoted(known.sql_name)}")
            connection.execute(
                f'DELETE FROM "{CATALOGUE}" WHERE collection = ? AND name = ?',
                (table.name, known.index.name),
            )
            self._renew_at_once(connection, table.name)

        await self._commits.submit(write, _IN_THE_THREAD)

    async def _note(self, table: Table, index: Index, *, ready: bool) -> None:
        def write(connection: sqlite3.Connection, limit: int) -> None:
            note(connection, index, ready=ready)

        await self._commits.submit(write)
        await self._renew(table.name)

    def _renew_at_once(self, connection: sqlite3.Connection, name: str) -> None:
        """Before the commit, so that the next write of the same transaction finds what there is."""
        self._commits.if_undone(lambda again: self._tables.renew(again, name))
        self._tables.renew(connection, name)

    async def _renew(self, name: str) -> None:
        await self._commits.submit(lambda connection, _: self._tables.renew(connection, name))


def _filled(table: Table, after: int) -> Write[tuple[int, int]]:
    def write(connection: sqlite3.Connection, limit: int) -> tuple[int, int]:
        found = connection.execute(
            f"SELECT _row, _document FROM {quoted(table.name)} WHERE _row > ? ORDER BY _row LIMIT ?",
            (after, PIECE),
        ).fetchall()
        for number, blob in found:
            table.refill(connection, number, decoded(blob))
        return (found[-1][0] if found else after), len(found)

    return write


def _made(known: Known) -> Write[object]:
    return lambda connection, _: connection.execute(_index_sql(known))


def _is_same(one: Index, other: Index) -> bool:
    return (list(one.keys), one.unique, one.sparse, one.of_array) == (
        list(other.keys), other.unique, other.sparse, other.of_array,
    )  # fmt: skip


def _index_sql(known: Known) -> str:
    index = known.index
    keys = ", ".join(
        f"{quoted(path)}{' DESC' if direction < 0 else ''}" for path, direction in index.keys
    )
    # A sparse index has only documents with its first field: all that a query by it can find.
    where = f" WHERE {quoted(index.keys[0][0])} IS NOT NULL" if index.sparse else ""
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX {quoted(known.sql_name)} ON {quoted(index.collection)} ({keys}){where}"


def _elements_sql(known: Known) -> str:
    columns = [f"k{number}" for number in range(len(known.paths))]
    names = ", ".join(columns)
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(known.sql_name)} "
        f"({names}, r INTEGER NOT NULL, PRIMARY KEY ({names}, r)) WITHOUT ROWID"
    )
