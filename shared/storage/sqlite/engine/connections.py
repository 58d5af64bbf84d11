"""The file of the store: made and inspected, the connections to it, and what SQLite raises.

Promises: one connection writes and checkpoints, all others only read; nothing of the file is mapped into
memory; a connection never waits for another one's lock, since it would wait on the event loop. The file is
there with all of an empty store, or not at all, whenever the power fails; a file that is empty, cut short or
not ours is refused, and so is one whose log is there without it; a file of up to `LOOKED_THROUGH` bytes is
looked through, which takes less than 0.1 s.

SQLite before 3.51.3 can lose a write where two connections checkpoint beside a commit ("WAL-reset bug",
https://sqlite.org/wal.html): hence the first promise, which `Commits` keeps.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.sqlite.engine.wal import log_of

FILE = "store.db"
PAGE_SIZE = 4096
WRITER_CACHE_KIB = READER_CACHE_KIB = 8_000
SCANNER_CACHE_KIB = 2_000
LOOKED_THROUGH = 64 * 1024 * 1024
_RESTORE = "restore a backup"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NOT_SYNCED = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}


class Damaged(StoreUnavailable):
    """The file is damaged, or the disk lost what was written to it; nothing may be served from it."""


def store_error(error: sqlite3.Error | MemoryError) -> StoreUnavailable:
    """Translate an error of SQLite: Damaged where no later attempt can be trusted."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _DAMAGED:
        return Damaged(
            f"the store is damaged ({error}): end the server, look with `python -m services store check`, "
            "and restore a backup (docs/storage.md)"
        )
    if code in _NOT_SYNCED:
        return Damaged(
            f"the disk did not keep what was written to the store ({error}): see the system's log, "
            "and start again on a sound disk"
        )
    return StoreUnavailable(f"the store: {str(error) or 'out of memory'}")


def damage(what: str) -> sqlite3.DatabaseError:
    """The error that SQLite raises where it finds damage by itself."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def sync(path: Path) -> None:
    """Make a file durable, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def connect_writer(
    file: Path, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """The one connection that writes, to a file that is there."""
    connection = connect(file, WRITER_CACHE_KIB, factory)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Debian's SQLite overwrites what is deleted by zeros; our secrets are encrypted.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def connect_reader(
    file: Path, cache_kib: int, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """A connection that sees the last commit and cannot write."""
    connection = connect(file, cache_kib, factory)
    connection.execute("PRAGMA query_only = ON")
    return connection


def connect(
    file: Path, cache_kib: int, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{file.resolve().as_uri()}?mode=rw",  # never makes a file
        uri=True,
        factory=factory,
        timeout=0,
        isolation_level=None,  # transactions begin where we say so
        check_same_thread=False,  # commits have a thread; only one of both works with it at a time
        cached_statements=512,
    )
    for name, value in {
        "wal_autocheckpoint": 0,
        "mmap_size": 0,
        "cache_size": -cache_kib,
        "temp_store": "MEMORY",
        "trusted_schema": "OFF",
    }.items():
        connection.execute(f"PRAGMA {name} = {value}")
    return connection


def make_if_missing(file: Path) -> None:
    """Make the file, for its owner only. Misconfigured where something of a store is there without it."""
    if _size_of(file):
        return
    if file.exists():
        raise Misconfigured(
            f"MDM_DATA_DIR: {file} is empty: {_RESTORE}, or remove it and begin with an empty store"
        )
    log = log_of(file)
    if _size_of(log):
        raise Misconfigured(
            f"MDM_DATA_DIR: {file} is missing, and its log {log.name} is there: {_RESTORE}, or remove "
            "the log and begin with an empty store"
        )
    draft = file.with_name(f"{file.name}.new")
    for name in (draft.name, f"{draft.name}-journal", f"{draft.name}-wal", f"{draft.name}-shm"):
        draft.with_name(name).unlink(missing_ok=True)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("VACUUM")  # writes, and syncs, the first page
    draft.rename(file)
    # The names of the file and of its folders, some of which may have been made just now.
    for folder in file.resolve().parents:
        with suppress(PermissionError):
            sync(folder)


def inspect(connection: sqlite3.Connection, file: Path) -> None:
    """Raises sqlite3.DatabaseError for damage that is found soon, Misconfigured for a disk on which the
    store cannot work."""
    [(mode,)] = connection.execute("PRAGMA journal_mode").fetchall()
    if mode != "wal":
        raise Misconfigured(
            f"MDM_DATA_DIR: {file}: this disk cannot hold a write-ahead log (is it a network disk?)"
        )
    [(pages,)] = connection.execute("PRAGMA page_count").fetchall()
    [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
    size = file.stat().st_size
    # Pages that are in the log need not be in the file yet.
    if not _size_of(log_of(file)) and size < pages * page_size:
        raise damage(f"{size} bytes, and {pages * page_size} are expected")
    if size <= LOOKED_THROUGH:
        [(found,), *_] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise damage(found.splitlines()[-1])


def _size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
