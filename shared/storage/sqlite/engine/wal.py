"""The write-ahead log: how long it is, and when it goes into the file.

Source: https://sqlite.org/fileformat2.html, section 4 ("The Write-Ahead Log").
"""

import os
import sqlite3
import struct
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from shared.storage.database import OPERATION_TIMEOUT

log = structlog.get_logger()

_HEADER = 32
_FRAME_HEADER = 24
_PAGE_SIZE_AT, _SALTS_AT, _FRAME_SALTS_AT = 8, 16, 8


@dataclass(frozen=True, slots=True)
class CommitBounds:
    """Other values than these are for tests."""

    deadline: timedelta = OPERATION_TIMEOUT
    """The longest time of a commit, or of a checkpoint behind it."""
    checkpoint_frames: int = 2_000
    """8 MB of pages: then the log goes into the file."""
    most_frames: int = 120_000
    """500 MB: no reader may keep the log from being shortened for longer, and a backup beside many writes
    needs some. To copy so much takes seconds, in which there are no writes."""
    unseen_bytes: int = 400_000
    """After so many bytes of documents it is looked how long the log is."""


USUAL = CommitBounds()


def frames(log: Path) -> int:
    """Count the valid frames of the log. It is not shortened when it begins again; frames of the round before
    have other salts, and the change between two frames is searched by halves."""
    try:
        handle = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        header = os.pread(handle, _HEADER, 0)
        if len(header) < _HEADER:
            return 0
        salts = header[_SALTS_AT : _SALTS_AT + 8]
        size = _FRAME_HEADER + struct.unpack_from(">I", header, _PAGE_SIZE_AT)[0]
        low, high = 0, (os.fstat(handle).st_size - _HEADER) // size
        while low < high:
            middle = (low + high) // 2
            if os.pread(handle, 8, _HEADER + middle * size + _FRAME_SALTS_AT) == salts:
                low = middle + 1
            else:
                high = middle
        return low
    finally:
        os.close(handle)


def log_of(file: Path) -> Path:
    """The log of a store's file."""
    return file.with_name(f"{file.name}-wal")


class Log:
    """The log of the one connection that writes, in whose thread its methods are called."""

    def __init__(self, connection: sqlite3.Connection, file: Path, bounds: CommitBounds) -> None:
        self._connection = connection
        self._file = log_of(file)
        self._bounds = bounds
        self._frames = 0
        self.unseen = 0
        """About how many bytes were written since its length was looked at."""

    @property
    def is_too_long(self) -> bool:
        """A reader keeps it from being shortened, and must not any longer."""
        return self._frames > self._bounds.most_frames

    def shorten(self) -> None:
        """Copy it into the file where it has become long, so far as no reader needs it; the next commit
        restarts it. Raises errors of SQLite."""
        if self.unseen <= self._bounds.unseen_bytes:
            return
        self.unseen = 0
        try:
            self._frames = frames(self._file)
        except OSError as exc:  # too many files are open, say: it is looked at later
            log.warning("log_length_unknown", error=exc.strerror)
            return
        if self._frames >= self._bounds.checkpoint_frames:
            self.copy()

    def copy(self) -> None:
        """Copy it into the file, so far as no reader needs it. Raises errors of SQLite."""
        [(_, length, copied)] = self._connection.execute(
            "PRAGMA wal_checkpoint(PASSIVE)"
        ).fetchall()
        self._frames = 0 if copied == length else length

    def empty(self) -> None:
        """Copy all of it into the file."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
