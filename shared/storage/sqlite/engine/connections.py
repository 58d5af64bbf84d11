"""Connections to the file of the store, and what SQLite raises.

Promises: one connection writes and checkpoints, all others only read; nothing of the file is mapped into
memory; a connection never waits for another one's lock, since it would wait on the event loop.

SQLite before 3.51.3 can lose a write where two connections checkpoint beside a commit ("WAL-reset bug",
https://sqlite.org/wal.html): hence the first promise, which `Commits` keeps.
"""

import ctypes
import os
import sqlite3
from pathlib import Path

from shared.domain.errors import StoreUnavailable

FILE = "store.db"
PAGE_SIZE = 4096
WRITER_CACHE_KIB = READER_CACHE_KIB = 8_000
SCANNER_CACHE_KIB = 2_000

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


def keep_open(connection: sqlite3.Connection) -> None:
    """Let nothing close a connection, not even the end of the interpreter: one reference stays."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


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
