"""Makes the tables and indexes that adapters ask for.

Promises: an index over a table that has documents is built in pieces beside all other work, and survives
being cut short: it begins again at the next start; all that is written meanwhile is in it.
"""

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import structlog

from shared.domain.errors import StoreUnavailable
from shared.storage.database import WRITTEN_TOGETHER
from shared.storage.indexes import Index
from shared.storage.sqlite.engine.catalogue import CATALOGUE, Tables, note
from shared.storage.sqlite.engine.commits import Commits
from shared.storage.sqlite.engine.documents import decoded
from shared.storage.sqlite.engine.plans import DIRECTIONS
from shared.storage.sqlite.engine.tables import StoredIndex, Table, quoted

log = structlog.get_logger()

PIECE = 250
"""Documents of which the columns are filled in at once."""
_SAID_EVERY = 50_000
"""Documents between two lines about the progress."""
_IN_THE_THREAD = 1 << 30


@dataclass(frozen=True, slots=True)
class _Filling:
    """Columns and elements for one index, of the documents up to the row `last`."""

    table: Table
    known: StoredIndex
    missing: Sequence[str]
    last: int

    @property
    def is_needed(self) -> bool:
        return bool(self.missing) or self.known.index.of_array

    def fill(self, after: int, connection: sqlite3.Connection, limit: int) -> tuple[int, int]:
        """Fill the next piece; returns its last row, and how many it has."""
        found: list[tuple[int, bytes]] = []
        size = 0
        sql = (
            f"SELECT _row, _document FROM {quoted(self.table.name)} "
            "WHERE _row > ? AND _row <= ? ORDER BY _row LIMIT ?"
        )
        with closing(connection.execute(sql, (after, self.last, PIECE))) as rows:
            for row in rows:
                found.append(row)
                size += len(row[1])
                if size > WRITTEN_TOGETHER:
                    break
        for number, blob in found:
            self.table.refill(connection, number, decoded(blob), self.known, self.missing)
        return (found[-1][0] if found else self.last), len(found)


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
        """An index with which another one begins is not made: that one serves its queries. Raises
        StoreUnavailable, also where documents break a rule of a unique index."""
        spared = [index for index in indexes if any(each.begins_with(index) for each in indexes)]
        for index in [*(each for each in indexes if each not in spared), *spared]:
            table = self._tables[index.collection]
            # Services that share a collection ask at the same time: the second one finds what is there.
            async with self._locks[table.name]:
                if index not in spared:
                    await self._ensure(table, index)
                elif (known := table.indexes.get(index.name)) is not None:
                    await self._drop(table, known)

    async def _ensure(self, table: Table, index: Index) -> None:
        if not table.exists:
            await self.make_table(table.name)
        known = table.indexes.get(index.name)
        if known is not None and not known.is_ready:
            await self._renew(table.name)  # it may have been finished after its builder gave up
            known = table.indexes.get(index.name)
        if known is not None and known.is_ready and _identity(known.index) == _identity(index):
            if known.index.expire_after != index.expire_after:
                await self._note(table, index, ready=True)
        else:
            if known is not None:
                await self._drop(table, known)
            await self._build(table, index)
        if (replaced := table.indexes.get(index.replaces)) is not None:
            await self._drop(table, replaced)

    async def _build(self, table: Table, index: Index) -> None:
        known = StoredIndex.of(index, is_ready=True)
        of_row = [path for path in _of_row(known) if path != "_id"]
        new = [path for path in of_row if path not in table.columns]
        # One that no index goes by may be there from a build that was cut short.
        filled = {p for other in table.indexes.values() if other.is_ready for p in _of_row(other)}
        missing = [path for path in of_row if path not in filled or index.unique]

        def begin(connection: sqlite3.Connection, limit: int) -> int:
            """The last row that has not the new columns, 0 where there is none and the index is made."""
            for path in new:
                connection.execute(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {quoted(path)}")
            if index.of_array:
                connection.execute(_elements_sql(known))
            [(last,)] = connection.execute(
                f"SELECT coalesce(max(_row), 0) FROM {quoted(table.name)}"
            ).fetchall()
            if not last and not index.of_array:
                connection.execute(_index_sql(known))
            note(connection, index, ready=not last)
            # In the same step: every later write has the columns. Readers, which see the last commit, have
            # no such index yet.
            self._renew_at_once(connection, table.name, unready=index.name)
            return int(last)

        if last := await self._commits.submit(begin):
            await self._fill_and_make(_Filling(table, known, missing, last))
        await self._renew(table.name)

    async def _fill_and_make(self, filling: _Filling) -> None:
        name, index = filling.table.name, filling.known.index.name
        log.info("index_build_begins", collection=name, index=index)
        after, done = 0, 0
        while after < filling.last and filling.is_needed:
            after, count = await self._commits.submit(partial(filling.fill, after), _IN_THE_THREAD)
            done += count
            if done // _SAID_EVERY != (done - count) // _SAID_EVERY:
                log.info("index_build_goes_on", collection=name, documents=done)
        await self._commits.submit(partial(_make, filling.known), _IN_THE_THREAD)
        log.info("index_built", collection=name, index=index)

    async def _drop(self, table: Table, known: StoredIndex) -> None:
        await self._note(table, known.index, ready=False)  # no query goes by it any more

        def write(connection: sqlite3.Connection, limit: int) -> None:
            kind = "TABLE" if known.index.of_array else "INDEX"
            connection.execute(f"DROP {kind} IF EXISTS {quoted(known.sql_name)}")
            connection.execute(
                f'DELETE FROM "{CATALOGUE}" WHERE collection = ? AND name = ?',
                (table.name, known.index.name),
            )
            self._renew_at_once(connection, table.name, unready=known.index.name)

        await self._commits.submit(write, _IN_THE_THREAD)

    async def _note(self, table: Table, index: Index, *, ready: bool) -> None:
        await self._commits.submit(lambda connection, _: note(connection, index, ready=ready))
        await self._renew(table.name)

    def _renew_at_once(self, connection: sqlite3.Connection, name: str, unready: str) -> None:
        """Before the commit, so that the next write of the same transaction finds what there is."""
        self._commits.if_undone(lambda again: self._tables.renew(again, name))
        self._tables.renew(connection, name, unready)

    async def _renew(self, name: str) -> None:
        await self._commits.submit(lambda connection, _: self._tables.renew(connection, name))


def _of_row(known: StoredIndex) -> Sequence[str]:
    """The fields that have columns: an array has a separate table."""
    return known.paths[1:] if known.index.of_array else known.paths


def _make(known: StoredIndex, connection: sqlite3.Connection, limit: int) -> None:
    """Make the index, and say so in the same commit: who waits for it may have given up."""
    if not known.index.of_array:
        try:
            connection.execute(_index_sql(known))
        except sqlite3.IntegrityError as exc:  # nothing was changed: only the builder gets it
            raise StoreUnavailable(
                f"the store: documents of {known.index.collection} share a key of the unique index "
                f"{known.index.name}"
            ) from exc
    note(connection, known.index, ready=True)


def _identity(index: Index) -> object:
    """Equal for indexes of which one can stay in the place of the other."""
    return list(index.keys), index.unique, index.leaves_out, index.of_array


def _index_sql(known: StoredIndex) -> str:
    index = known.index
    keys = ", ".join(quoted(path) + DIRECTIONS[direction] for path, direction in index.keys)
    # All that a query by it can find.
    where = f" WHERE {quoted(index.keys[0][0])} IS NOT NULL" if index.leaves_out else ""
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX {quoted(known.sql_name)} ON {quoted(index.collection)} ({keys}){where}"


def _elements_sql(known: StoredIndex) -> str:
    columns = [f"k{number}" for number in range(len(known.paths))]
    names = ", ".join(columns)
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(known.sql_name)} "
        f"({names}, r INTEGER NOT NULL, PRIMARY KEY ({names}, r)) WITHOUT ROWID"
    )
