"""The store of a single process: one SQLite file in the data folder.

Promises beside those of `Database`: who opens it holds its folder alone
(`services.runtime.single_process.locked_folder`); what was answered is there after a `kill -9` and after a
loss of power; a full or read-only disk is StoreUnavailable until it is not; a damaged file is never served
from: `watch` raises."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from shared.concurrency.periodic import Loops
from shared.domain.errors import Misconfigured
from shared.ports.clock import Clock
from shared.storage.database import (
    WRITTEN_TOGETHER,
    Bulk,
    BulkResult,
    Checked,
    FolderDatabase,
    Say,
)
from shared.storage.indexes import Index
from shared.storage.sqlite.collection import TOGETHER, SqliteCollection
from shared.storage.sqlite.engine.building import Building
from shared.storage.sqlite.engine.catalogue import Tables
from shared.storage.sqlite.engine.changes import in_order
from shared.storage.sqlite.engine.commits import Commits
from shared.storage.sqlite.engine.connections import (
    FILE,
    Damaged,
    connect_writer,
    inspect,
    make_if_missing,
    store_error,
)
from shared.storage.sqlite.engine.reads import Reads
from shared.storage.sqlite.engine.wal import USUAL, CommitBounds
from shared.storage.sqlite.upkeep.backup import write_backup
from shared.storage.sqlite.upkeep.checking import Check
from shared.storage.sqlite.upkeep.expiry import DocumentExpiry

log = structlog.get_logger()


class SqliteDatabase(FolderDatabase):
    """Implements `shared.storage.database.FolderDatabase`. Made by `open_database`."""

    def __init__(
        self, file: Path, writer: sqlite3.Connection, clock: Clock, bounds: CommitBounds = USUAL
    ) -> None:
        self.file = file
        self._clock = clock
        self._tables = Tables()
        self._tables.load(writer)
        self._commits = Commits(writer, file, bounds)
        # Readers are of the writer's kind, so that a test that watches connections sees all of them.
        self._reads = Reads(file, self._commits, type(writer))
        self._building = Building(self._tables, self._commits)
        self._expiry = DocumentExpiry(self._tables, self._commits, clock)
        self._collections: dict[str, SqliteCollection] = {}

    @property
    def term(self) -> None:
        """There is no other server."""

    def collection(self, name: str) -> SqliteCollection:
        if name not in self._collections:
            self._collections[name] = SqliteCollection(
                self._tables[name], self._commits, self._reads, self._building, self._clock
            )
        return self._collections[name]

    async def write_in_order(self, bulks: Sequence[Bulk]) -> list[BulkResult]:
        """All in one commit, unless there is so much that others go between."""
        if any(len(bulk.inserts) + len(bulk.operations) > TOGETHER for bulk in bulks):
            return await super().write_in_order(bulks)
        parts = [await self.collection(bulk.collection).part(bulk) for bulk in bulks]
        if (size := sum(each for _, each in parts)) > WRITTEN_TOGETHER:
            return await super().write_in_order(bulks)
        return await self._commits.submit(partial(in_order, [part for part, _ in parts]), size)

    async def names(self) -> list[str]:
        return self._tables.names()

    async def ensure(self, indexes: Sequence[Index]) -> None:
        await self._building.ensure(indexes)

    async def ping(self) -> None:
        """Raises StoreUnavailable when nothing can be read, or the last write failed and so does another."""
        await self._reads.ping()
        if self._commits.has_failed:
            await self._commits.submit(_probe)

    def refuse_damage(self) -> None:
        """Misconfigured where damage has been found."""
        if self._commits.damage.done():
            raise Misconfigured(f"MDM_DATA_DIR: {self.file}: {self._commits.damage.result()}")

    async def watch(self, loops: Loops) -> None:
        """Remove what is over, until cancelled. Raises Damaged, after which nothing is served."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expiry.run(loops))
            raise await asyncio.shield(self._commits.damage)

    async def backup(self, file: Path, say: Say) -> int:
        return await write_backup(self.file, file, self._commits.long_readers, say)

    async def check(self, say: Say) -> Checked:
        """Looks a little at a time, so that all else goes on."""
        return await Check(self.file, self._commits.long_readers, say).run(self._tables.names())

    async def close(self) -> None:
        await self._commits.drain()
        self._reads.close()
        await self._commits.close()


def _probe(connection: sqlite3.Connection, limit: int) -> None:
    """A write that changes nothing that is read."""
    connection.execute("CREATE TABLE IF NOT EXISTS _probe (number INTEGER NOT NULL)")
    connection.execute("DELETE FROM _probe")
    connection.execute("INSERT INTO _probe VALUES (1)")


class DamagedFile(Misconfigured):
    """The file is so damaged that it cannot be opened."""


def open_database(
    folder: Path,
    clock: Clock,
    bounds: CommitBounds = USUAL,
    factory: type[sqlite3.Connection] = sqlite3.Connection,
) -> SqliteDatabase:
    """Open the store of a folder, or make it. Misconfigured where that cannot be, with what to do. `bounds`
    and `factory`, the kind of all connections, are for tests."""
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_if_missing(file)
        database = SqliteDatabase(file, _opened(file, factory), clock, bounds)
    except OSError as exc:
        raise Misconfigured(f"MDM_DATA_DIR: cannot use {file}: {exc.strerror}") from None
    except sqlite3.Error as exc:
        reason = store_error(exc)
        kind = DamagedFile if isinstance(reason, Damaged) else Misconfigured
        raise kind(f"MDM_DATA_DIR: {file}: {reason}") from exc
    log.info("store_opened", file=str(file), sqlite=sqlite3.sqlite_version)
    return database


def _opened(file: Path, factory: type[sqlite3.Connection]) -> sqlite3.Connection:
    writer = connect_writer(file, factory)
    try:
        inspect(writer, file)
        Tables().load(writer)
    except BaseException:
        with suppress(sqlite3.Error):
            writer.close()
        raise
    return writer
