"""Copies the store, and looks whether it is whole, beside all else that goes on in it."""

import asyncio
import os
import secrets
import sqlite3
from pathlib import Path

from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.database import Say
from shared.storage.sqlite.engine.connections import connect_copier
from shared.storage.sqlite.upkeep.long_work import LongReaders, in_thread, was_interrupted

_MB = 1_000_000


class Backup:
    """Writes one consistent snapshot of a store to a file.

    Promises: the file is whole or not there, readable by its owner only, and durable with its name once it
    is said to be written; it is never written over another; it holds all that was answered before it began.
    """

    def __init__(self, store: Path, long_readers: LongReaders, say: Say) -> None:
        self._store = store
        self._long_readers = long_readers
        self._say = say

    async def write(self, target: Path) -> int:
        """The size of the new file. Raises Misconfigured and StoreUnavailable."""
        _refuse(target)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")

        def progress() -> None:
            whole, done = (
                path.stat().st_size if path.exists() else 0 for path in (self._store, draft)
            )
            self._say(f"{done / _MB:.0f} of about {whole / _MB:.0f} MB written ...")

        written: list[int] = []
        try:
            await in_thread(
                connect_copier(self._store),
                self._long_readers,
                lambda connection: written.append(_written(connection, draft, target)),
                progress,
            )
            return written[0]
        except asyncio.CancelledError:
            if written:  # it was done before it could be interrupted
                _take_back(target)
            raise
        except sqlite3.Error as exc:
            raise _failed(target, exc) from exc
        except OSError as exc:
            raise Misconfigured(f"cannot write {target}: {exc.strerror}") from None


def _refuse(target: Path) -> None:
    if not target.is_absolute():
        raise Misconfigured(f"the backup {target}: expected an absolute path")
    if os.path.lexists(target):
        raise Misconfigured(f"{target} is there already; give the backup another name")


def _written(connection: sqlite3.Connection, draft: Path, target: Path) -> int:
    """In the thread."""
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        connection.execute("VACUUM INTO ?", (str(draft),))
        size = draft.stat().st_size
        _synced(draft)
        _named(draft, target)
        _synced(target.parent)
        return size
    finally:
        draft.unlink(missing_ok=True)


def _named(draft: Path, target: Path) -> None:
    """Give the file its name, unless another one has taken it meanwhile."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        _refuse(target)
        draft.rename(target)


def _take_back(target: Path) -> None:
    target.unlink(missing_ok=True)


def _synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failed(target: Path, error: sqlite3.Error) -> StoreUnavailable:
    if was_interrupted(error):
        return StoreUnavailable(
            f"the backup was cut short, since too much was written to the store meanwhile; there is no "
            f"{target}: try at a quieter time, or with the server ended"
        )
    return StoreUnavailable(f"the backup failed ({error}); there is no {target}")
