"""Data folders that nothing may be served from: the former store, and a copy that is not finished.

A copy is marked as unfinished by a file beside the store, which is there before the store is and leaves
when all of it was checked.
"""

import os
import shlex
from pathlib import Path

from services.runtime.key_files import make_durable
from shared.domain.errors import Misconfigured
from shared.storage.sqlite import FILE

FORMER = "store"
"""The folder inside the data folder in which versions before SQLite kept their store."""
COPYING = "store.copying"


def check_folder(folder: Path) -> None:
    """Misconfigured, with what to do, where the store of a data folder is not to be served from."""
    if is_unfinished(folder):
        raise Misconfigured(
            f"MDM_DATA_DIR: the copy into {folder} is not finished: run the same `python -m services "
            "store copy` again, until it says that it is done (docs/storage.md)"
        )
    if has_former(folder) and not has_store(folder):
        location = shlex.quote(str(folder))
        raise Misconfigured(
            f"MDM_DATA_DIR: {folder} has the store of an earlier version: copy it first, by `python -m "
            f"services store copy --from {location} --to {location}` (docs/storage.md)"
        )


def has_store(folder: Path) -> bool:
    return (folder / FILE).exists()


def has_former(folder: Path) -> bool:
    return (folder / FORMER / "WiredTiger").exists()


def is_unfinished(folder: Path) -> bool:
    return (folder / COPYING).exists()


def begin_copy(folder: Path) -> None:
    """From now on nothing is served from this folder until `end_copy`."""
    os.close(os.open(folder / COPYING, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    make_durable(folder)


def end_copy(folder: Path) -> None:
    (folder / COPYING).unlink()
    make_durable(folder)
