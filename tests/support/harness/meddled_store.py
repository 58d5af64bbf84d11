"""An embedded store whose connections are watched and disturbed: a real file below, real SQLite."""

import sqlite3
import threading
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

WAITED = 30.0
"""Seconds after which a statement that is held goes on, so that no thread stays behind."""


def error_of(code: int) -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError(f"made by a test: {code}")
    error.sqlite_errorcode = code
    return error


@dataclass(frozen=True)
class Done:
    """A COMMIT or a checkpoint that was run."""

    sql: str
    connection: int
    begun: float
    ended: float


@dataclass
class Meddler:
    """Holds, fails and notes the statements of all connections that `kind` makes."""

    done: list[Done] = field(default_factory=list)
    made: list[sqlite3.Connection] = field(default_factory=list)
    closed: list[sqlite3.Connection] = field(default_factory=list)
    held: str | None = None
    """What begins so waits for `go_on`, but never on the event loop's thread."""
    failing: dict[str, Exception] = field(default_factory=dict)
    """What begins so fails."""
    _go: threading.Event = field(default_factory=threading.Event)
    _loop: threading.Thread = field(default_factory=threading.current_thread)

    def hold(self, sql: str) -> None:
        self._go.clear()
        self.held = sql

    def go_on(self) -> None:
        self.held = None
        self._go.set()

    @property
    def kind(self) -> type[sqlite3.Connection]:
        """The class of such connections."""
        meddler = self

        class Meddled(sqlite3.Connection):
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                meddler.made.append(self)

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                meddler.before(sql)
                begun = perf_counter()
                try:
                    return super().execute(sql, *values)
                finally:
                    if sql.startswith(("COMMIT", "PRAGMA wal_checkpoint")):
                        meddler.done.append(Done(sql, id(self), begun, perf_counter()))

            def close(self) -> None:
                meddler.closed.append(self)
                super().close()

        return Meddled

    def before(self, sql: str) -> None:
        for beginning, error in self.failing.items():
            if sql.startswith(beginning):
                raise error
        is_loop = threading.current_thread() is self._loop
        if self.held is not None and sql.startswith(self.held) and not is_loop:
            self._go.wait(WAITED)
