"""One long statement beside all else: in a thread and on a separate connection.

Promises: the event loop never waits for it; it is interrupted when its caller is cancelled, and when the
write-ahead log would grow without bound, since its snapshot keeps the log from being shortened.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

Result = TypeVar("Result")
LongReaders = set[sqlite3.Connection]
"""Connections that `Commits` interrupts when the log grows too long."""

SAID_EVERY = timedelta(seconds=5)
_INTERRUPTED_AGAIN = timedelta(milliseconds=50)
"""An interruption that comes between two statements is lost, so it is repeated."""


async def in_thread(
    connection: sqlite3.Connection,
    long_readers: LongReaders,
    work: Callable[[sqlite3.Connection], Result],
    say: Callable[[], None],
) -> Result:
    """Do the work, and close the connection in any case; `say` is called now and then meanwhile. The work has
    ended when this returns or raises."""

    def run() -> Result:
        try:
            return work(connection)
        finally:
            long_readers.discard(connection)
            connection.close()

    long_readers.add(connection)
    thread = ThreadPoolExecutor(1, thread_name_prefix="store-long-work")
    working = asyncio.get_running_loop().run_in_executor(thread, run)
    thread.shutdown(wait=False)
    try:
        while not working.done():
            await asyncio.wait({working}, timeout=SAID_EVERY.total_seconds())
            if not working.done():
                say()
        return working.result()
    finally:
        await _end(connection, working)


async def _end(connection: sqlite3.Connection, working: "asyncio.Future[Result]") -> None:
    """Interrupt the work until it has ended; a cancellation meanwhile is raised only then."""
    cancellation: asyncio.CancelledError | None = None
    while not working.done():
        with suppress(sqlite3.Error):
            connection.interrupt()
        try:
            await asyncio.wait({working}, timeout=_INTERRUPTED_AGAIN.total_seconds())
        except asyncio.CancelledError as exc:  # the caller undoes the work
            cancellation = exc
    working.exception()  # raised by `in_thread`, or ignored
    if cancellation is not None:
        raise cancellation


def was_interrupted(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT
