"""The file of a store before it is used: made whole, and looked at for damage.

Promises: the file is there with all of an empty store, or not at all, whenever the power fails; a file that
is empty, cut short or not ours is refused, and so is one whose log is there without it; a file of up to
`LOOKED_THROUGH` bytes is looked through, which takes less than 0.1 s.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from shared.domain.errors import Misconfigured
from shared.storage.sqlite.engine.connections import PAGE_SIZE, damage, sync
from shared.storage.sqlite.engine.wal import log_of

LOOKED_THROUGH = 64 * 1024 * 1024
_RESTORE = "restore a backup"


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
