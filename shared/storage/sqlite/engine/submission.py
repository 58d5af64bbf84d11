"""One write on its way into a commit, and the thread that commits."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Job = Callable[[], None]
Result = TypeVar("Result")
Write = Callable[[sqlite3.Connection, int], Result]
"""Runs statements on the connection. The number is how many bytes it may write where it runs: it raises
IsLarge, before it changes anything, when they are more. Any other error except those of SQLite is its own
fault, and raised to its submitter alone; it has changed nothing of the document at hand by then."""


NO_LIMIT = 1 << 40
"""The limit of a write that runs in the thread, or that must not be refused as large."""
FAILURES = (sqlite3.Error, MemoryError)
"""Errors of SQLite, the second one where it has no memory. They concern the whole transaction."""


class IsLarge(Exception):
    """A write found that it has much to write: it has changed nothing, and wants to run in the thread."""


@dataclass(slots=True, eq=False)
class Submitted:
    """A write, and the outcome for its submitter."""

    write: Write[Any]
    outcome: "asyncio.Future[Any]"
    size: int
    result: Any = None
    error: Exception | None = None

    def run(self, connection: sqlite3.Connection, limit: int) -> None:
        """Raises only FAILURES and IsLarge."""
        try:
            self.result = self.write(connection, limit)
        except (*FAILURES, IsLarge):
            raise
        except Exception as exc:  # noqa: BLE001 - the submitter of the write raises it
            self.error = exc

    def tell(self, failure: Exception | None = None) -> None:
        error = failure or self.error
        if self.outcome.done():
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(self.result)


class Worker:
    """Does one job after the other. A daemon: a disk that never answers must not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        Thread(target=self._run, name=name, daemon=True).start()

    def do(self, job: Job) -> None:
        self._jobs.put(job)

    def end(self) -> None:
        """After the jobs that it has."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def on_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *values: object) -> None:
    """Call it on the event loop, unless that is closed: then there is no waiter left."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *values)
