"""Writes, many in one commit: what arrives while one commit is under way goes with the next one.

Promises: a write is answered after the commit that holds it; where that fails, every write of it is
StoreUnavailable, and the next ones are tried again; a write that is short runs on the event loop, in
microseconds, and waits for nothing; COMMIT, checkpoints and large writes run in one thread, one after the
other, and nobody else writes or checkpoints. A commit that does not end within its deadline is told to
everybody who waits, and so is everybody who comes until it ends.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import structlog

from shared.domain.errors import StoreUnavailable
from shared.storage.database import OPERATION_TIMEOUT, WRITTEN_TOGETHER
from shared.storage.sqlite import wal
from shared.storage.sqlite.connections import Damaged, unavailable

log = structlog.get_logger()

Result = TypeVar("Result")
Write = Callable[[sqlite3.Connection, int], Result]
"""Runs statements on the connection. The number is how many bytes it may write where it runs: it raises
IsLarge, before it changes anything, when they are more. What it raises beside that and errors of SQLite is
its own fault, and told to it alone; it has changed nothing of the document at hand by then."""

SLICE = 0.004
"""Seconds on the event loop after which a transaction takes no more writes."""
LARGE = 500_000
"""Bytes from which on a write runs in the thread: about a millisecond for each megabyte."""
_NO_LIMIT = 1 << 40
CHECKPOINT_FRAMES = 2_000
"""8 MB of pages."""
MOST_FRAMES = 250_000
"""1 GB: no reader may keep the log from being shortened for longer."""
UNSEEN_BYTES = 400_000
"""After so many bytes of documents it is looked how long the log is."""


class IsLarge(Exception):
    """A write found that it has much to write: it has changed nothing, and wants to run in the thread."""


@dataclass(slots=True, eq=False)
class _Submitted:
    write: Write[Any]
    outcome: "asyncio.Future[Any]"
    size: int
    result: Any = None
    error: Exception | None = None

    def run(self, connection: sqlite3.Connection, limit: int) -> None:
        """Raises only errors of SQLite, which concern the whole transaction, and IsLarge."""
        try:
            self.result = self.write(connection, limit)
        except (sqlite3.Error, IsLarge):
            raise
        except Exception as exc:  # noqa: BLE001 - whoever submitted the write raises it
            self.error = exc

    def tell(self, failure: Exception | None = None) -> None:
        error = failure or self.error
        if self.outcome.done():
            return
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(self.result)


class Commits:
    """All writes of one store."""

    def __init__(self, connection: sqlite3.Connection, file: Path) -> None:
        self._connection = connection
        self._log = wal.log_of(file)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-commits")
        self._waiting: deque[_Submitted] = deque()
        self._is_busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._overdue: StoreUnavailable | None = None
        self._unseen = 0
        self.damage: asyncio.Future[Damaged] = asyncio.get_running_loop().create_future()
        self.has_failed = False
        """The last commit failed, so that it is not known whether the next one will do."""
        self.log_frames = 0
        """How long the write-ahead log is, as last seen."""
        self.long_readers: set[sqlite3.Connection] = set()
        """Read for long, and are interrupted when the log would grow without bound."""

    async def submit(self, write: Write[Result], size: int = 0) -> Result:
        """Run a write of about so many bytes, and answer after its commit. A write whose submitter is
        cancelled is not begun, or goes on without it."""
        self._refuse()
        loop = asyncio.get_running_loop()
        submitted = _Submitted(write, loop.create_future(), size)
        self._waiting.append(submitted)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            loop.call_soon(self._begin)
        result: Result = await submitted.outcome
        return result

    def _refuse(self) -> None:
        if self.damage.done():
            raise self.damage.result()
        if self._overdue is not None:
            raise self._overdue

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    async def close(self) -> None:
        """Put the log into the file, and close the connection; all others are closed by then."""
        await self.drain()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        with suppress(sqlite3.Error):
            if not self.damage.done():
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._connection.close()

    # --- on the event loop

    def _begin(self) -> None:
        batch: list[_Submitted] = []
        large: list[_Submitted] = []
        loop, changes = asyncio.get_running_loop(), self._connection.total_changes
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._run_short(batch)
            large = self._take_large()
            if not large and self._connection.total_changes == changes:
                self._connection.execute("COMMIT")  # nothing to write: no disk is waited for
                self._told(batch, None)
                return
        except sqlite3.Error as exc:
            self._told(batch, exc)
            return
        batch += large
        self._unseen += sum(each.size for each in batch)
        watch = loop.call_later(OPERATION_TIMEOUT.total_seconds(), self._is_late, batch)
        self._thread.submit(self._commit, loop, batch, large, watch)

    def _run_short(self, batch: list[_Submitted]) -> None:
        until = perf_counter() + SLICE
        while self._waiting and perf_counter() < until:
            each = self._waiting[0]
            if each.outcome.done():
                self._waiting.popleft()
                continue
            if each.size > LARGE:
                return
            batch.append(self._waiting.popleft())
            try:
                each.run(self._connection, LARGE)
            except IsLarge:
                batch.pop()
                each.size = WRITTEN_TOGETHER
                self._waiting.appendleft(each)
                return

    def _take_large(self) -> list[_Submitted]:
        """A few that stand in front: as many as are written at once, or a single one."""
        large: list[_Submitted] = []
        while self._waiting and self._waiting[0].size > LARGE:
            if (
                large
                and sum(each.size for each in large) + self._waiting[0].size > WRITTEN_TOGETHER
            ):
                break
            large.append(self._waiting.popleft())
        return large

    def _told(self, batch: list[_Submitted], failure: sqlite3.Error | None) -> None:
        """After a transaction that needed no thread, or could not be begun."""
        self._tell(batch, failure)
        self._next()

    def _tell(self, batch: list[_Submitted], failure: sqlite3.Error | None) -> None:
        self.has_failed = failure is not None
        if failure is None:
            for each in batch:
                each.tell()
            return
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        error = self.failed(failure)
        # Whoever waits meets the same disk: told now, nobody waits for a timeout each.
        for each in (*batch, *self._waiting):
            each.tell(error)
        self._waiting.clear()

    def failed(self, failure: sqlite3.Error) -> StoreUnavailable:
        """The error of ours; from a Damaged one on nothing is served."""
        error = unavailable(failure)
        if isinstance(error, Damaged) and not self.damage.done():
            self.damage.set_result(error)
        if not self.has_failed:
            log.error("store_failed", error=str(error))
        self.has_failed = True
        return error

    def _is_late(self, batch: list[_Submitted]) -> None:
        self._overdue = StoreUnavailable("the store: the disk does not answer")
        for each in (*batch, *self._waiting):
            each.tell(self._overdue)
        self._waiting.clear()

    def _goes_on(self, watch: asyncio.TimerHandle) -> None:
        """The thread is done, also with the log."""
        watch.cancel()
        self._overdue = None
        self._next()

    def _next(self) -> None:
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
        else:
            self._is_busy = False
            self._idle.set()

    # --- in the thread

    def _commit(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Submitted],
        large: list[_Submitted],
        watch: asyncio.TimerHandle,
    ) -> None:
        failure: sqlite3.Error | None = None
        try:
            for each in large:
                each.run(self._connection, _NO_LIMIT)
            self._connection.execute("COMMIT")
        except sqlite3.Error as exc:
            failure = exc
        loop.call_soon_threadsafe(self._tell, batch, failure)
        if failure is None and self._unseen > UNSEEN_BYTES:
            self._unseen = 0
            self._shorten_log(loop)
        loop.call_soon_threadsafe(self._goes_on, watch)

    def _shorten_log(self, loop: asyncio.AbstractEventLoop) -> None:
        """Copy the log into the file, so far as no reader needs it; the next commit begins it anew."""
        self.log_frames = wal.frames(self._log)
        if self.log_frames < CHECKPOINT_FRAMES:
            return
        if self.log_frames > MOST_FRAMES:
            for reader in tuple(self.long_readers):
                with suppress(sqlite3.Error):  # it has been closed in this moment
                    reader.interrupt()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as exc:
            loop.call_soon_threadsafe(self.failed, exc)
