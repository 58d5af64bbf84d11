"""Check a whole store: its pages, and the agreement of each document with its index rows.

Promises: it takes a few milliseconds of the event loop at a time, and no more than half of it; a write
meanwhile is no fault; documents and their values are not shown.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import perf_counter

from shared.domain.errors import StoreUnavailable
from shared.storage.database import Checked, Say
from shared.storage.sqlite.engine.catalogue import Tables
from shared.storage.sqlite.engine.connections import SCANNER_CACHE_KIB, connect_reader
from shared.storage.sqlite.engine.documents import decoded
from shared.storage.sqlite.engine.tables import Columns, Row, StoredIndex, Table, quoted
from shared.storage.sqlite.upkeep.long_work import LongReaders, in_thread, was_interrupted

MOST_FAULTS = 10
SAID_DOCUMENTS = 10_000
_STEP_ROWS = 100
_STEP_TIME = timedelta(milliseconds=3)
"""Time of the event loop for one step."""


class Check:
    """One look at a store."""

    def __init__(self, file: Path, long_readers: LongReaders, say: Say) -> None:
        self._file = file
        self._long_readers = long_readers
        self._say = say
        self._faults: list[str] = []
        self._count = 0
        self._documents = 0

    async def run(self, names: list[str]) -> Checked:
        """All of it. Raises StoreUnavailable where it was cut short."""
        await self._look_at_file()
        connection = connect_reader(self._file, SCANNER_CACHE_KIB)
        try:
            for name in names:
                await self._look_at_collection(connection, name)
        finally:
            connection.close()
        return Checked(self._documents, self._faults, self._count)

    async def _look_at_file(self) -> None:
        self._say("looking at the file ...")
        try:
            found = await in_thread(
                connect_reader(self._file, SCANNER_CACHE_KIB),
                self._long_readers,
                lambda connection: connection.execute("PRAGMA integrity_check").fetchall(),
                lambda: self._say("still looking at the file ..."),
            )
        except sqlite3.Error as exc:
            if was_interrupted(exc):
                raise StoreUnavailable(
                    "the check was cut short, since too much was written to the store meanwhile: "
                    "try at a quieter time, or with the server ended"
                ) from exc
            self._fault(f"the file: {exc}")
            return
        for (line,) in found:
            if line != "ok":
                self._fault(f"the file: {line}")

    async def _look_at_collection(self, connection: sqlite3.Connection, name: str) -> None:
        collection = _Collection(connection, name)
        before = said = self._documents
        try:
            async for rows, faults in _steps(collection.documents):
                self._documents += rows
                self._fault(*faults)
                if self._documents - said >= SAID_DOCUMENTS:
                    said = self._documents
                    self._say(f"{name}: {said - before} documents looked at ...")
            for known in collection.arrays():
                async for _, faults in _steps(partial(collection.elements, known)):
                    self._fault(*faults)
        except sqlite3.Error as exc:
            self._fault(f"{name}: {exc}")

    def _fault(self, *faults: str) -> None:
        self._count += len(faults)
        self._faults += faults[: max(0, MOST_FAULTS - len(self._faults))]


_Step = tuple[Columns | None, int, list[str]]
"""The row behind which the next step goes on (None: it was the last), rows looked at, and their faults."""


async def _steps(step: Callable[[Columns], _Step]) -> AsyncIterator[tuple[int, list[str]]]:
    after: Columns | None = ()
    while after is not None:
        began = perf_counter()
        after, rows, faults = step(after)
        yield rows, faults
        await asyncio.sleep(perf_counter() - began)


class _Collection:
    """The rows of one collection, each step at one moment of the store."""

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def arrays(self) -> list[StoredIndex]:
        with self._moment() as table:
            return _arrays(table)

    def documents(self, after: Columns) -> _Step:
        """Look whether each document can be read, and its row says what it says."""
        with self._moment() as table:
            columns = "".join(f", {quoted(path)}" for path in table.columns)
            sql = (
                f"SELECT _row, _id, _document{columns} FROM {quoted(table.name)} "
                "WHERE _row > ? ORDER BY _row"
            )
            return self._step(sql, after or (0,), partial(self._document, table), width=1)

    def elements(self, known: StoredIndex, after: Columns) -> _Step:
        """Look whether each row of an array's index is of a document that has it."""
        with self._moment() as table:
            if known.index.name not in {each.index.name for each in _arrays(table)}:
                return None, 0, []  # it is being rebuilt
            keys = [f"k{number}" for number in range(len(known.paths))] + ["r"]
            listed = ", ".join(f"s.{key}" for key in keys)
            marks = ", ".join("?" * len(keys))
            sql = (
                f"SELECT {listed}, d._document FROM {quoted(known.sql_name)} s "
                f"LEFT JOIN {quoted(table.name)} d ON d._row = s.r"
                f"{f' WHERE ({listed}) > ({marks})' if after else ''} ORDER BY {listed}"
            )
            look = partial(self._element, table, known)
            return self._step(sql, after, look, width=len(keys))

    @contextmanager
    def _moment(self) -> Iterator[Table]:
        """The present collection, with its documents, until the end of the step."""
        self._connection.execute("BEGIN")
        try:
            tables = Tables()
            tables.renew(self._connection, self._name)
            yield tables[self._name]
        finally:
            self._connection.execute("COMMIT")

    def _step(
        self, sql: str, after: Columns, look: Callable[[Columns], Iterator[str]], width: int
    ) -> _Step:
        until = perf_counter() + _STEP_TIME.total_seconds()
        rows, faults = 0, list[str]()
        cursor = self._connection.execute(f"{sql} LIMIT {_STEP_ROWS}", after)
        try:
            for row in cursor:
                rows += 1
                after = row[:width]
                faults += look(row)
                if perf_counter() > until:
                    return after, rows, faults
        finally:
            cursor.close()
        return (after if rows == _STEP_ROWS else None), rows, faults

    def _document(self, table: Table, found: Columns) -> Iterator[str]:
        number, key, blob, *columns = found
        where = f"{table.name}, row {number}"
        row = _row_of(table, blob)
        if row is None:
            yield f"{where}: its document cannot be read"
            return
        if row.id != key:
            yield f"{where}: its document has another _id"
        building = [known for known in table.indexes.values() if not known.is_ready]
        unfilled = {path for known in building for path in known.paths}
        for path, stands, wanted in zip(table.columns, columns, row.columns, strict=True):
            if stands != wanted and path not in unfilled:
                yield f"{where}: the column {path} says something else than its document"
        for known, elements in _elements(table, row):
            if not all(self._has(known, element, number) for element in elements):
                yield f"{where}: it is missing in the index {known.index.name}"

    def _has(self, known: StoredIndex, element: Columns, number: int) -> bool:
        if None in element:
            return True  # such a one is in no index
        where = "".join(f"k{position} = ? AND " for position in range(len(element)))
        sql = f"SELECT 1 FROM {quoted(known.sql_name)} WHERE {where}r = ?"
        return bool(self._connection.execute(sql, (*element, number)).fetchall())

    def _element(self, table: Table, known: StoredIndex, found: Columns) -> Iterator[str]:
        *element, number, blob = found
        if blob is not None:
            row = _row_of(table, blob)
            if row is None:  # said of the document already
                return
            if any(tuple(element) in has for each, has in _elements(table, row) if each == known):
                return
        yield f"{table.name}, row {number}: the index {known.index.name} has what it has not"


def _row_of(table: Table, blob: bytes) -> Row | None:
    """The row that a document should have; None: it cannot be a document of this table."""
    try:
        return table.row_of(decoded(blob), blob)
    except (sqlite3.DatabaseError, KeyError, NotImplementedError):
        return None


def _arrays(table: Table) -> list[StoredIndex]:
    return [known for known in table.indexes.values() if known.index.of_array and known.is_ready]


def _elements(table: Table, row: Row) -> Iterator[tuple[StoredIndex, set[Columns]]]:
    """The keys of a row in each index of an array that is whole."""
    arrays = [known for known in table.indexes.values() if known.index.of_array]
    for known, elements in zip(arrays, row.elements, strict=True):
        if known.is_ready:
            yield known, elements
