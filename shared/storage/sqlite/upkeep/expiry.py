"""Documents whose time is over (the TTL of an index) leave, a few at a time between other writes."""

import sqlite3
from datetime import datetime, timedelta
from functools import partial

from shared.concurrency.periodic import Loops, Pace
from shared.ports.clock import Clock
from shared.storage.sqlite.engine.catalogue import Tables
from shared.storage.sqlite.engine.commits import LARGE, Commits
from shared.storage.sqlite.engine.documents import decoded
from shared.storage.sqlite.engine.submission import IsLarge
from shared.storage.sqlite.engine.tables import StoredIndex, Table, quoted
from shared.storage.sqlite.query.values import column_value

EVERY = timedelta(seconds=10)
PIECE = 200
PIECE_BYTES = 8_000_000
_ROW_BYTES = 500
"""Bytes of the log for each row that leaves."""


class DocumentExpiry:
    """Removes what is over, for as long as `run` runs."""

    def __init__(self, tables: Tables, commits: Commits, clock: Clock) -> None:
        self._tables = tables
        self._commits = commits
        self._clock = clock

    async def run(self, loops: Loops) -> None:
        """Until cancelled."""
        pace = Pace(EVERY, EVERY)
        await loops.keep_doing("store_expiry", self.purge, pace, "expiry_waits_for_the_store")

    async def purge(self) -> int:
        """Remove all that is over now; how many documents that were."""
        removed = 0
        for table in [self._tables[name] for name in self._tables.names()]:
            for known in list(table.indexes.values()):
                if known.is_ready and known.index.expire_after is not None:
                    over = self._clock.now() - known.index.expire_after
                    removed += await self._purge(table, known, over)
        return removed

    async def _purge(self, table: Table, known: StoredIndex, over: datetime) -> int:
        removed = 0
        size = 0
        while True:
            # What is large takes long to free, so it is removed off the event loop.
            count, size = await self._commits.submit(partial(_remove, table, known, over), size)
            removed += count
            if not count:
                return removed


def _remove(
    table: Table, known: StoredIndex, over: datetime, connection: sqlite3.Connection, limit: int
) -> tuple[int, int]:
    """Remove some; returns how many left, and about how many bytes the next ones have."""
    path = quoted(known.paths[0])
    found = connection.execute(
        f"SELECT _row, length(_document) FROM {quoted(table.name)} "
        f"INDEXED BY {quoted(known.sql_name)} WHERE {path} < ? ORDER BY {path} LIMIT ?",
        (column_value(over), PIECE),
    ).fetchall()
    numbers: list[int] = []
    size = 0
    for number, length in found:
        size += length + _ROW_BYTES
        if not numbers and size > limit:
            raise IsLarge
        if numbers and size > min(limit, PIECE_BYTES):
            break
        numbers.append(number)
    if numbers:
        _delete(table, connection, numbers)
    return len(numbers), size if size > LARGE else 0


def _delete(table: Table, connection: sqlite3.Connection, numbers: list[int]) -> None:
    if table.has_arrays:
        for number in numbers:
            [(blob,)] = connection.execute(
                f"SELECT _document FROM {quoted(table.name)} WHERE _row = ?", (number,)
            ).fetchall()
            table.delete(connection, number, table.row_of(decoded(blob), b""))
        return
    marks = ", ".join("?" * len(numbers))
    connection.execute(f"DELETE FROM {quoted(table.name)} WHERE _row IN ({marks})", numbers)
