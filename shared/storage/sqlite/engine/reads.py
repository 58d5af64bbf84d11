"""Reads: short ones at once, long ones in steps, so that neither holds up the event loop.

Promises: a read sees every write that was answered before it began; a step takes a few milliseconds at
most, except for a single document that is larger; a read that is longer than one step begins again on a
separate connection (so that no other read sees the past that it has pinned), and has a deadline; a read
through a whole collection in its own order pins nothing, and has none.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from shared.chunks import chunked
from shared.domain.errors import StoreUnavailable
from shared.storage.database import OPERATION_TIMEOUT, Sort
from shared.storage.sqlite.engine.commits import Commits
from shared.storage.sqlite.engine.connections import (
    READER_CACHE_KIB,
    SCANNER_CACHE_KIB,
    connect_reader,
)
from shared.storage.sqlite.engine.plans import (
    LISTED_TOGETHER,
    ReadPlan,
    Statement,
    Way,
    check,
    read_plan_of,
    statement_of,
)
from shared.storage.sqlite.engine.tables import Table
from shared.storage.sqlite.query.filters import Condition
from shared.storage.sqlite.query.values import column_value, value_kind

Rows = list[tuple[int, bytes]]

STEP_ROWS = 128
SHORT_ROWS = 256
"""Rows of a read that is done in one step: the open entries of a batch of devices, say."""
STEP_BYTES = 1_000_000
LONG_READ_DEADLINE = timedelta(minutes=1)
"""The deadline of a read along an index that takes many steps, and pins what it reads meanwhile."""
SCANNERS = 4
"""Long reads at a time; more wait for one of them."""


class Reads:
    """All reads of one store."""

    def __init__(
        self, file: Path, commits: Commits, factory: type[sqlite3.Connection] = sqlite3.Connection
    ) -> None:
        self._file = file
        self._commits = commits
        self._factory = factory
        self._reader = connect_reader(file, READER_CACHE_KIB, factory)
        self._scanners: list[sqlite3.Connection] = []
        self._free = asyncio.Semaphore(SCANNERS)
        self._long: dict[sqlite3.Connection, sqlite3.Cursor] = {}
        self._is_closed = False
        commits.end_long_reads = self._end_long_reads
        self._known: set[str] = set()

    def close(self) -> None:
        """Close every connection, also of a read that has not come to its end: the last one that closes
        puts the log into the file, and that must be the one that writes."""
        self._is_closed = True
        in_use = tuple(self._long)
        self._end_long_reads()
        for connection in (self._reader, *self._scanners, *in_use):
            connection.close()

    def _end_long_reads(self) -> None:
        """End the reads that keep the log from being shortened: StoreUnavailable at their next step."""
        for cursor in self._long.values():
            cursor.close()
        self._long.clear()

    async def ping(self) -> None:
        """Raises StoreUnavailable where nothing can be read."""
        self._guarded(self._reader, "SELECT 1 FROM sqlite_schema LIMIT 1", ())

    def first(
        self, table: Table, conditions: Sequence[Condition], sort: Sort = (), most: int = 0
    ) -> "Found | None":
        """The candidates of the first step, mostly all, or as many as are wanted at most; None where the
        query is none for one step."""
        if not table.exists:
            return Found([], (), is_sorted=True, is_all=True)
        plan = read_plan_of(table, conditions, sort)
        listed = () if plan.many is None else conditions[plan.many].operand
        if plan.is_onwards or (plan.many is not None and not 0 < len(listed) <= LISTED_TOGETHER):
            return None
        statement = self._checked(table, plan, conditions)
        # One more, so that it is known whether these are all.
        count = min(SHORT_ROWS, most + 1) if most and plan.is_sorted else SHORT_ROWS
        rows, is_all = self._guarded(self._reader, statement.sql, statement.values, count)
        return Found(_once(plan, rows, set()), statement.rest, plan.is_sorted, is_all)

    async def rows(
        self, table: Table, conditions: Sequence[Condition], sort: Sort = ()
    ) -> AsyncGenerator["Found", None]:
        """All candidates, a step at a time, with the event loop free between two steps."""
        if not table.exists:
            return
        plan = read_plan_of(table, conditions, sort)
        seen: set[int] = set()
        until = monotonic() + LONG_READ_DEADLINE.total_seconds()
        for part in _parts(plan, conditions):
            statement = self._checked(table, plan, part)
            onwards = plan.is_onwards
            steps = self._onwards(plan, statement) if onwards else self._along(statement)
            async with aclosing(steps):
                async for rows in steps:
                    yield Found(_once(plan, rows, seen), statement.rest, plan.is_sorted)
                    await asyncio.sleep(0)
                    if monotonic() > until and not onwards:
                        raise StoreUnavailable("the store: a read took longer than its deadline")

    def _checked(self, table: Table, plan: ReadPlan, conditions: Sequence[Condition]) -> Statement:
        statement = statement_of(table, plan, conditions)
        if statement.sql not in self._known:
            try:
                check(self._reader, statement)
            except sqlite3.Error as exc:
                raise self._commits.failed(exc) from exc
            self._known.add(statement.sql)
        return statement

    async def _along(self, statement: Statement) -> AsyncGenerator[Rows, None]:
        """Read along an index: in one step where that suffices, else again on a separate connection."""
        rows, is_all = self._guarded(self._reader, statement.sql, statement.values)
        if is_all:
            yield rows
            return
        async with self._scanner() as connection:
            cursor = self._executed(connection, statement.sql, statement.values)
            self._long[connection] = cursor
            while not is_all:
                if connection not in self._long:
                    raise StoreUnavailable("the store: a read took longer than it may")
                rows, is_all = self._taken(cursor)
                yield rows

    async def _onwards(self, plan: ReadPlan, statement: Statement) -> AsyncGenerator[Rows, None]:
        """Step by step behind the last row of the step before: no cursor stays open in between."""
        column = "_id" if plan.way is Way.ID_ORDER else "_row"
        direction = " DESC" if plan.order.endswith(" DESC") else ""
        body = statement.sql.removesuffix(f" ORDER BY {plan.order}")
        body = body.replace("SELECT _row", f"SELECT {column}, _row", 1)
        link = " AND " if " WHERE " in body else " WHERE "
        behind = f"{link}{column} {'<' if direction else '>'} ?"
        tail = f" ORDER BY {column}{direction} LIMIT {STEP_ROWS}"
        found, is_all = self._guarded(self._reader, body + tail, statement.values)
        while found:
            yield [row[1:] for row in found]
            if is_all:
                return
            values = (*statement.values, found[-1][0])
            found, is_all = self._guarded(self._reader, body + behind + tail, values)

    @asynccontextmanager
    async def _scanner(self) -> AsyncIterator[sqlite3.Connection]:
        """A connection for one long read."""
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT.total_seconds()):
                await self._free.acquire()
        except TimeoutError:
            raise StoreUnavailable("the store: too many long reads at a time") from None
        try:
            connection = self._scanners.pop() if self._scanners else self._connected()
            try:
                yield connection
            finally:
                if (cursor := self._long.pop(connection, None)) is not None:
                    cursor.close()
                if self._is_closed:
                    connection.close()
                else:
                    self._scanners.append(connection)
        finally:
            self._free.release()

    def _connected(self) -> sqlite3.Connection:
        if self._is_closed:
            raise StoreUnavailable("the store: closed")
        try:
            return connect_reader(self._file, SCANNER_CACHE_KIB, self._factory)
        except sqlite3.Error as exc:
            raise self._commits.failed(exc) from exc

    def _guarded(
        self,
        connection: sqlite3.Connection,
        sql: str,
        values: tuple[Any, ...],
        most: int = STEP_ROWS,
    ) -> tuple[list[Any], bool]:
        """The rows of one step, and whether they are all."""
        cursor = self._executed(connection, sql, values)
        try:
            return self._taken(cursor, most)
        finally:
            cursor.close()

    def _executed(
        self, connection: sqlite3.Connection, sql: str, values: tuple[Any, ...]
    ) -> sqlite3.Cursor:
        try:
            return connection.execute(sql, values)
        except sqlite3.Error as exc:
            raise self._commits.failed(exc) from exc

    def _taken(self, cursor: sqlite3.Cursor, most: int = STEP_ROWS) -> tuple[list[Any], bool]:
        rows: list[Any] = []
        size = 0
        if self._commits.damage.done():
            raise self._commits.damage.result()
        try:
            for row in cursor:
                rows.append(row)
                size += len(row[-1]) if isinstance(row[-1], bytes) else 0
                if len(rows) == most or size > STEP_BYTES:
                    return rows, False
        except sqlite3.Error as exc:
            raise self._commits.failed(exc) from exc
        return rows, True


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of a query; `rest` decides which of them match."""

    rows: Rows
    rest: Sequence[Condition]
    is_sorted: bool
    is_all: bool = False
    """There are no more; False also where that is not known."""


def _once(plan: ReadPlan, rows: Rows, seen: set[int]) -> Rows:
    """Each row once, though an array may have it under two values of a list."""
    if plan.many is None or plan.known is None or not plan.known.index.of_array:
        return rows
    by_number = {row[0]: row for row in rows if row[0] not in seen}
    seen.update(by_number)  # `|=` with keys would make another set
    return list(by_number.values())


def _parts(plan: ReadPlan, conditions: Sequence[Condition]) -> list[Sequence[Condition]]:
    """The conditions, once for each part of a long list."""
    if plan.many is None:
        return [conditions]
    listed = conditions[plan.many]
    # What is listed twice would be found in two parts.
    wanted = list(
        {(value_kind(each), column_value(each)): each for each in listed.operand}.values()
    )
    if plan.order:
        wanted.sort(key=column_value, reverse=plan.order.endswith(" DESC"))
    parts: list[Sequence[Condition]] = []
    for chunk in chunked(wanted, LISTED_TOGETHER):
        part = list(conditions)
        part[plan.many] = listed._replace(operand=chunk)
        parts.append(part)
    return parts
