"""Write one consistent snapshot of a store to a file, beside all else that goes on in it.

Promises: the file is whole or not there, readable by its owner only, and durable with its name once it
is said to be written; it is never written over another; it holds all that was answered before it began.
"""

import asyncio
import os
import secrets
import sqlite3
from pathlib import Path

from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.database import Say
from shared.storage.sqlite.engine.connections import SCANNER_CACHE_KIB, connect, sync
from shared.storage.sqlite.upkeep.long_work import LongReaders, in_thread, was_interrupted

_MB = 1_000_000


async def write_backup(store: Path, target: Path, long_readers: LongReaders, say: Say) -> int:
    """The size of the new file. Raises Misconfigured and StoreUnavailable."""
    _refuse(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")

    def progress() -> None:
        whole, done = (path.stat().st_size if path.exists() else 0 for path in (store, draft))
        say(f"{done / _MB:.0f} of about {whole / _MB:.0f} MB written ...")

    written: list[int] = []
    try:
        await in_thread(
            # `VACUUM INTO` does not write to the store, and yet wants to be able to.
            connect(store, SCANNER_CACHE_KIB),
            long_readers,
            lambda connection: written.append(_written(connection, draft, target)),
            progress,
        )
        return written[0]
    except asyncio.CancelledError:
        if written:  # it was done before it could be interrupted
            target.unlink(missing_ok=True)  # noqa: ASYNC240 - once, at the end
        raise
    except sqlite3.Error as exc:
        if was_interrupted(exc):
            raise StoreUnavailable(
                "the backup was cut short, since too much was written to the store meanwhile; there is "
                f"no {target}: try at a quieter time, or with the server ended"
            ) from exc
        raise StoreUnavailable(f"the backup failed ({exc}); there is no {target}") from exc
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
        sync(draft)
        try:
            os.link(draft, target)
        except FileExistsError:  # another one has taken the name meanwhile
            raise
        except OSError:  # a file system without links
            _refuse(target)
            draft.rename(target)
        sync(target.parent)
        return size
    finally:
        draft.unlink(missing_ok=True)
