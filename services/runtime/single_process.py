"""A data folder belongs to one process, and so does an in-process broker.

Two processes with a broker each would keep their events to themselves, and a SQLite store has one
writer. On one machine a lock on the data folder shows it at once, and ends with its process.
On a shared MongoDB, where another process may run elsewhere, heartbeats show it: a process whose count
moves is alive.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import structlog

from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.ports.clock import Clock
from shared.ports.members import Members
from shared.storage.remote import is_served

log = structlog.get_logger()

ROLE = "local-broker"
LOCK_FILE = "lock"
HEARTBEAT = timedelta(seconds=1)
PACE = Pace(every=HEARTBEAT, after_failure=HEARTBEAT)
LOOK = timedelta(seconds=3)
LOCK_POLL = timedelta(milliseconds=100)

_REFUSED = (
    "MDM_AMQP_URL: is not set, and another process works on this store; one process only can run "
    "with the in-process broker, so end the other one or give all of them RabbitMQ"
)


class FolderInUse(Misconfigured):
    """Another process holds the data folder; `is_served`: commands can work with it by its socket."""

    def __init__(self, folder: Path, *, is_served: bool = False) -> None:
        super().__init__(
            f"MDM_DATA_DIR: another process uses {folder}; end it, or give another folder"
        )
        self.is_served = is_served


@asynccontextmanager
async def held_folder(folder: Path, clock: Clock, patience: timedelta) -> AsyncIterator[None]:
    """Hold a data folder, once a short command, or a server that ends, lets it go. FolderInUse when a
    server holds it, and when it was not let go in time."""
    until = clock.monotonic() + patience.total_seconds()
    has_said = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked_folder(folder))
                break
            except FolderInUse:
                if await is_served(folder):
                    raise FolderInUse(folder, is_served=True) from None
                if clock.monotonic() >= until:
                    raise
            if not has_said:
                log.info("waits_for_folder", folder=str(folder), seconds=patience.total_seconds())
                has_said = True
            await clock.sleep(LOCK_POLL)
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a data folder; FolderInUse when another process holds it, Misconfigured when it cannot be held."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise Misconfigured(f"MDM_DATA_DIR: cannot use {folder}: {exc.strerror}") from None
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(folder) from None
    except OSError as exc:  # some network file systems have no locks
        raise Misconfigured(f"MDM_DATA_DIR: cannot lock {folder}: {exc.strerror}") from None


class Alone:
    """Makes sure that no other process works on this store while this one does."""

    def __init__(self, members: Members, clock: Clock, me: str) -> None:
        self._members = members
        self._clock = clock
        self._me = me
        self._seen: dict[str, int] = {}
        self._beating: asyncio.Task[None] | None = None

    async def enter(self, loops: Loops) -> None:
        """Misconfigured: another process is alive here. From then on others find us alive."""
        await self._look()
        # At once, since to build the services may take longer than others look at us.
        self._beating = asyncio.create_task(
            loops.keep_doing("alone", self._raise_heartbeat, PACE, waits="others_not_looked_for")
        )

    async def _look(self) -> None:
        await self._members.raise_heartbeat(ROLE, self._me)
        before = await self._others()
        if not before:
            return
        log.info("another_process_was_here", waits_seconds=LOOK.total_seconds())
        await self._clock.sleep(LOOK)
        # Two that start at once must not both find that the other's count does not move.
        await self._members.raise_heartbeat(ROLE, self._me)
        after = await self._others()
        if _moved(before, after):
            await self._members.leave(ROLE, self._me)
            raise Misconfigured(_REFUSED)
        for member in before:
            await self._members.leave(ROLE, member)

    async def _raise_heartbeat(self) -> None:
        await self._members.raise_heartbeat(ROLE, self._me)
        now = await self._others()
        if _moved(self._seen, now):
            raise Misconfigured(_REFUSED)
        self._seen = now

    def check(self) -> None:
        """Raises when another process came since we entered."""
        if self._beating is not None and self._beating.done():
            self._beating.result()

    async def watch(self) -> None:
        """Until cancelled; raises when another process came since we entered."""
        if self._beating is not None:
            await asyncio.wait({self._beating})  # its end is `leave`, not that of who watches
            self.check()

    async def leave(self) -> None:
        """Let the next process start at once."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        try:
            async with asyncio.timeout(HEARTBEAT.total_seconds()):
                await self._members.leave(ROLE, self._me)
        except (StoreUnavailable, TimeoutError):
            return  # the next one waits until our count has not moved

    async def _others(self) -> dict[str, int]:
        found = await self._members.heartbeats(ROLE)
        return {member: count for member, count in found.items() if member != self._me}


def _moved(before: dict[str, int], after: dict[str, int]) -> bool:
    return any(count != before.get(member, count) for member, count in after.items())
