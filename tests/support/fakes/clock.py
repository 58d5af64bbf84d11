"""Time and identifiers that only move when a test moves them."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def settle() -> None:
    """Let everything run that can run without time passing."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # nothing public says so
    for _ in range(200):
        await asyncio.sleep(0)
        if not ready:
            return


class FakeClock:
    """Wall and monotonic clock in one; `advance` moves both and wakes the sleepers whose time has come."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed = timedelta()
        self._sleepers: list[tuple[timedelta, int, asyncio.Future[None]]] = []
        self._slept = 0

    def now(self) -> datetime:
        return self._start + self._elapsed

    def time_ns(self) -> int:
        since_epoch = self.now() - datetime(1970, 1, 1, tzinfo=UTC)
        return since_epoch // timedelta(microseconds=1) * 1000

    def monotonic(self) -> float:
        return self._elapsed.total_seconds()

    def set_back(self, duration: timedelta) -> None:
        """Set the wall clock back; the monotonic clock goes on."""
        self._start -= duration

    async def sleep(self, duration: timedelta) -> None:
        if duration <= timedelta():
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._slept += 1
        heapq.heappush(self._sleepers, (self._elapsed + duration, self._slept, woken))
        await woken

    def advance(self, duration: timedelta) -> None:
        """Move time at once; those who slept long enough go on when the test next awaits."""
        self._elapsed += duration
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            self._wake()

    async def run(self, duration: timedelta) -> None:
        """Move time from one sleeper to the next, and let each do its work before time goes on."""
        end = self._elapsed + duration
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed = max(self._elapsed, self._sleepers[0][0])
            self._wake()
            await settle()
        self._elapsed = end

    def _wake(self) -> None:
        _, _, woken = heapq.heappop(self._sleepers)
        if not woken.done():
            woken.set_result(None)


class FakeIds:
    """Counts, in the shape of a UUIDv7; later ids sort after earlier ones."""

    def __init__(self) -> None:
        self._count = 0

    def new(self) -> str:
        self._count += 1
        return f"{self._count:08x}-0000-7000-8000-000000000000"
