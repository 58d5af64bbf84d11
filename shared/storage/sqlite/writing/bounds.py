"""Bounds of a commit's time and of the write-ahead log's length."""

from dataclasses import dataclass
from datetime import timedelta

from shared.storage.database import OPERATION_TIMEOUT


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
