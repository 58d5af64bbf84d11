"""Writes, many in one commit: those that arrive while one commit is under way go with the next one.

Promises: a write is answered after the commit that holds it; where that fails, every write of it is
StoreUnavailable, and the next ones are tried again; a write that is short runs on the event loop, in
microseconds, and waits for nothing; COMMIT, checkpoints and large writes run in one thread, one after the
other, and nothing else writes or checkpoints. Where the thread does not end within its deadline, every
waiting and every new write fails until it ends. After damage no write is accepted any more.
"""

import asyncio
import ctypes
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import TypeVar

import structlog

from shared.domain.errors import StoreUnavailable
from shared.storage.database import WRITTEN_TOGETHER
from shared.storage.sqlite.engine.connections import PAGE_SIZE, Damaged, store_error
from shared.storage.sqlite.engine.submission import (
    FAILURES,
    NO_LIMIT,
    IsLarge,
    Submitted,
    Worker,
    Write,
    on_loop,
)
from shared.storage.sqlite.engine.wal import USUAL, CommitBounds, Log

log = structlog.get_logger()

Result = TypeVar("Result")
Failure = sqlite3.Error | MemoryError | StoreUnavailable
SLICE = timedelta(milliseconds=4)
"""The time on the event loop after which a transaction takes no more writes."""
LARGE = 500_000
"""Bytes from which on a write runs in the thread: about a millisecond for each megabyte."""
_ENDED_WITHIN = timedelta(seconds=1)
"""The time for which the thread waits for the event loop to end long reads."""


class Commits:
    """All writes of one store."""

    def __init__(
        self, connection: sqlite3.Connection, file: Path, bounds: CommitBounds = USUAL
    ) -> None:
        self._connection = connection
        self._log = Log(connection, file, bounds)
        self._deadline = bounds.deadline.total_seconds()
        self._thread = Worker("store-commits")
        self._waiting: deque[Submitted] = deque()
        self._is_busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusal: StoreUnavailable | None = None
        """The error of every new write: the thread is overdue, or the store is closed."""
        self._closed: StoreUnavailable | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.damage: asyncio.Future[Damaged] = asyncio.get_running_loop().create_future()
        self.has_failed = False
        """The last commit failed, so that it is not known whether the next one will do."""
        self.end_long_reads: Callable[[], None] = lambda: None
        """Called on the event loop when the log would grow without bound."""
        self.long_readers: set[sqlite3.Connection] = set()
        """They read in threads of their own, and are interrupted then too."""
        self._undone: list[Callable[[sqlite3.Connection], None]] = []
        self._is_undone = False

    async def submit(self, write: Write[Result], size: int = 0) -> Result:
        """Run a write of about so many bytes, and answer after its commit. A write whose submitter is
        cancelled is not begun, or goes on without it."""
        if self.damage.done():
            raise Damaged(str(self.damage.result()))
        if self._refusal is not None:
            raise StoreUnavailable(str(self._refusal))  # a new one, or its traceback grows
        loop = asyncio.get_running_loop()
        submitted = Submitted(write, loop.create_future(), size)
        self._waiting.append(submitted)
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            loop.call_soon(self._begin)
        result: Result = await submitted.outcome
        return result

    def if_undone(self, renew: Callable[[sqlite3.Connection], None]) -> None:
        """For a write that changed more than the file: call this, before the next write, where the
        transaction of this one is rolled back."""
        self._undone.append(renew)

    async def drain(self) -> None:
        """Wait until nothing is under way, but not for longer than a commit may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deadline):
                await self._idle.wait()

    async def close(self) -> None:
        """Put the log into the file, and close the connection; all others are closed by then. Where the
        thread does not come back, that is left to it."""
        closed = asyncio.Event()
        loop = asyncio.get_running_loop()
        if self._closed is None:
            self._refusal = self._closed = StoreUnavailable("the store: closed")
            self._thread.do(lambda: self._close(loop, closed))
            self._thread.end()
            try:
                async with asyncio.timeout(self._deadline if self._idle.is_set() else 0):
                    await closed.wait()
            except TimeoutError:
                log.warning("store_closes_late")

    def _close(self, loop: asyncio.AbstractEventLoop, closed: asyncio.Event) -> None:
        if self.damage.done():
            # SQLite would put the log into the file, and remove it: both are kept as they were found, since
            # one reference stays, so that not even the end of the interpreter closes the connection.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
        else:
            with suppress(*FAILURES):
                self._log.empty()
            self._connection.close()
        on_loop(loop, closed.set)

    # --- on the event loop

    def _begin(self) -> None:
        batch: list[Submitted] = []
        refusal = self.damage.result() if self.damage.done() else self._closed
        if refusal is not None:
            self._tell(batch, refusal)
            self._next()
            return
        loop, changes = asyncio.get_running_loop(), self._connection.total_changes
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._is_undone:
                for renew in self._undone:
                    renew(self._connection)
                self._undone.clear()
                self._is_undone = False
            self._run_short(batch)
            large = self._take_large()
            if not large and self._connection.total_changes == changes:
                self._connection.execute("COMMIT")  # nothing to write: no disk is waited for
                self._undone.clear()
                for each in batch:
                    each.tell()
                self._next()
                return
        except FAILURES as exc:
            self._tell(batch, exc)
            self._next()
            return
        batch += large
        rows = self._connection.total_changes - changes
        self._log.unseen += PAGE_SIZE * rows + sum(each.size for each in batch)
        self._watch = loop.call_later(self._deadline, self._is_late, batch)
        self._thread.do(lambda: self._commit(loop, batch, large))

    def _run_short(self, batch: list[Submitted]) -> None:
        until = perf_counter() + SLICE.total_seconds()
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

    def _take_large(self) -> list[Submitted]:
        """The first few: as many as are written at once, or a single one."""
        large: list[Submitted] = []
        size = 0
        while self._waiting and self._waiting[0].size > LARGE:
            each = self._waiting[0]
            size += each.size
            if large and size > WRITTEN_TOGETHER:
                break
            self._waiting.popleft()
            if not each.outcome.done():
                large.append(each)
        return large

    def _tell(self, batch: list[Submitted], failure: Failure | None) -> None:
        if self.damage.done():
            failure = self.damage.result()
        if failure is None:
            self.has_failed = False
            self._undone.clear()
            for each in batch:
                each.tell()
            return
        self._is_undone = bool(self._undone)
        with suppress(*FAILURES):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._tell_all(batch, self.failed(failure))

    def _tell_all(self, batch: list[Submitted], error: StoreUnavailable) -> None:
        # Every waiting write would fail by the same disk: failed now, none waits for a separate timeout.
        for each in (*batch, *self._waiting):
            each.tell(type(error)(str(error)))  # a new one each, or its traceback grows
        self._waiting.clear()

    def failed(self, failure: Failure) -> StoreUnavailable:
        """The error of ours; from a Damaged one on nothing is served."""
        error = failure if isinstance(failure, StoreUnavailable) else store_error(failure)
        if isinstance(error, Damaged) and not self.damage.done():
            self.damage.set_result(error)
        if not self.has_failed:
            log.error("store_failed", error=str(error))
        self.has_failed = True
        return error

    def _end_long_work(self, ended: Event) -> None:
        self.end_long_reads()
        ended.set()
        for reader in tuple(self.long_readers):
            with suppress(sqlite3.Error):  # it has been closed in this moment
                reader.interrupt()

    def _is_late(self, batch: list[Submitted]) -> None:
        self._refusal = StoreUnavailable("the store: the disk does not answer")
        log.error("store_failed", error=str(self._refusal))
        self.has_failed = True
        self._tell_all(batch, self._refusal)

    def _is_over(self) -> None:
        """The thread has done its work, in time or late."""
        if self._watch is not None:
            self._watch.cancel()
        self._refusal = self._closed
        self._next()

    def _next(self) -> None:
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
        else:
            self._is_busy = False
            self._idle.set()

    # --- in the thread

    def _commit(
        self, loop: asyncio.AbstractEventLoop, batch: list[Submitted], large: list[Submitted]
    ) -> None:
        failure: sqlite3.Error | MemoryError | None = None
        try:
            for each in large:
                each.run(self._connection, NO_LIMIT)
            self._connection.execute("COMMIT")
        except FAILURES as exc:
            failure = exc
        on_loop(loop, self._tell, batch, failure)
        if failure is None:
            self._shorten_log(loop)
        on_loop(loop, self._is_over)

    def _shorten_log(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._log.shorten()
            if self._log.is_too_long:
                ended = Event()
                on_loop(loop, self._end_long_work, ended)
                # Before the next read pins it again.
                ended.wait(_ENDED_WITHIN.total_seconds())
                self._log.copy()
        except FAILURES as exc:
            on_loop(loop, self.failed, exc)
