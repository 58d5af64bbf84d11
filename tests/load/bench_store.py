"""How long operations of the embedded store hold the event loop: the longest wait of a task for its turn.

In milliseconds: wall-clock time, CPU time of the process, CPU time of the loop's own thread. On a busy
machine the first says little; the second is most of what a quiet one would need. Figures, no verdicts:

    python -m tests.load.bench_store [--rounds 3]
"""

import argparse
import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
import uvloop

from shared.concurrency.periodic import Loops
from shared.storage.database import Document
from shared.storage.indexes import Index
from shared.storage.sqlite import SqliteDatabase, open_database
from tests.load.scenarios import say
from tests.support.fakes.clock import FakeClock

TARGET = 20.0
NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MEGABYTE = 1_000_000
MANY = 50_000
INDEXES = (
    Index("items", [("owner", 1)]),
    Index("items", [("open", 1)], sparse=True),
    Index("items", [("tags", 1)], of_array=True),
    Index("items", [("ends_at", 1)], sparse=True, expire_after=DAY),
)

Work = Callable[[], Awaitable[object]]


class Ticker:
    """A task that wants a turn all the time, and notes the longest waits."""

    def __init__(self) -> None:
        self.longest = (0.0, 0.0, 0.0)

    async def run(self) -> None:
        before = _times()
        while True:
            await asyncio.sleep(0)
            now = _times()
            waits = [after - begin for after, begin in zip(now, before, strict=True)]
            self.longest = (*map(max, self.longest, waits),)
            before = now


def _times() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


async def held(work: Work) -> tuple[float, ...]:
    """Seconds that the loop was held at the longest, by each clock, and that all of it took."""
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.run())
    await asyncio.sleep(0)
    begin = time.perf_counter()
    try:
        await work()
        took = time.perf_counter() - begin
        await asyncio.sleep(0)
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
    return *ticker.longest, took


def documents(count: int, prefix: str, **fields: object) -> list[Document]:
    """Of about 400 bytes, as an entry of the queue has."""
    return [
        {
            "_id": f"{prefix}{number:08d}",
            "owner": f"owner{number % 7}",
            "state": "queued",
            "open": f"device{number % 1000}",
            "tags": [f"tag{number % 3}", f"serial{number}"],
            "at": NOW,
            "number": number,
            "text": "x" * 200,
            **fields,
        }
        for number in range(count)
    ]


def large(count: int, size: int, prefix: str) -> list[Document]:
    return [
        {"_id": f"{prefix}{number}", "tags": [], "body": b"x" * size} for number in range(count)
    ]


class Bench:
    """The cases, one after the other on one store."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._items = database.collection("items")

    async def cases(self) -> list[tuple[str, Work]]:
        """What is measured; what it needs is made before."""
        items = self._items
        await self._database.ensure(INDEXES)
        for start in range(0, MANY, 10_000):
            await items.insert_many(documents(10_000, f"old{start}-"))
        inserted, bodies = documents(10_000, "new"), large(64, MEGABYTE, "body")
        one = large(1, 12 * MEGABYTE, "one")
        ids = [each["_id"] for each in bodies]
        few, many = _ids(500), _ids(5000)
        return [
            ("insert_many of 10,000 documents", lambda: items.insert_many(inserted)),
            ("find of 20,000 documents by an index", lambda: items.find({"owner": {"$in": _OWNERS}})),
            ("find of one of 50,000 by limit", lambda: items.find({"owner": "owner3"}, limit=1)),
            ("find of 500 in a list of ids", lambda: items.find({"_id": {"$in": few}})),
            ("find of 5,000 in a list of ids", lambda: items.find({"_id": {"$in": many}})),
            ("find of a page of 1,000 by _id", lambda: items.find({}, sort=[("_id", 1)], limit=1000)),
            ("insert_many of 64 documents of 1 MB", lambda: items.insert_many(bodies)),
            ("find of 64 documents of 1 MB", lambda: items.find({"_id": {"$in": ids}})),
            ("update_many of 64 documents of 1 MB", lambda: self._update({"_id": {"$in": ids}})),
            ("insert of a document of 12 MB", lambda: items.insert_one(one[0])),
            ("find of a document of 12 MB", lambda: items.find_one({"_id": "one0"})),
            ("update of a document of 12 MB", lambda: self._update({"_id": "one0"})),
            ("update_many of 10,000 documents", lambda: self._update({"owner": "owner1"})),
            ("scan of 60,000 documents", self._scan),
            ("an index over 60,000 documents", lambda: self._index([("number", 1)])),
            ("an index of arrays over 60,000", lambda: self._index([("tags", 1), ("_id", 1)], of_array=True)),
            ("an index dropped and made anew", lambda: self._index([("number", 1)], sparse=True)),
            ("delete_many of 8,000 documents", lambda: items.delete_many({"owner": "owner2"})),
            ("update_many that ends 20,000", self._end),
            ("purge of 20,000 documents", self._purge),
        ]  # fmt: skip

    async def _update(self, query: dict[str, Any]) -> int:
        return await self._items.update_many(
            query, {"$set": {"state": "sent"}, "$inc": {"number": 1}}
        )

    async def _scan(self) -> int:
        return sum([len(found) async for found in self._items.scan({}, {"_id": 1})])

    async def _index(self, keys: Sequence[tuple[str, int]], **options: bool) -> None:
        await self._database.ensure([Index("items", keys, **options)])

    async def _end(self) -> int:
        over = {"$set": {"ends_at": NOW - 2 * DAY}, "$unset": {"open": ""}}
        return await self._items.update_many({"owner": {"$in": _OWNERS}}, over)

    async def _purge(self) -> None:
        """Until nothing is left to remove."""
        watching = asyncio.create_task(self._database.watch(Loops(FakeClock(NOW))))
        over = {"ends_at": {"$gte": NOW - 3 * DAY, "$lte": NOW}}
        try:
            while await self._items.find(over, {"_id": 1}, limit=1):
                await asyncio.sleep(0.01)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


_OWNERS = ["owner4", "owner5", "owner6"]


def _ids(count: int) -> list[str]:
    return [f"old0-{number:08d}" for number in range(count)]


async def measured(folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    database = open_database(folder, FakeClock(NOW))
    try:
        return [(name, await held(work)) for name, work in await Bench(database).cases()]
    finally:
        await database.close()


def main(rounds: int = 3) -> None:
    """The least of each figure over some rounds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="mdm-bench-") as folder:
            found.append(uvloop.run(measured(Path(folder))))
    title = f"longest hold, ms (target {TARGET:.0f})"
    say(f"{title:40}{'wall':>8}{'process':>9}{'loop':>8}{'all, s':>9}")
    for rows in zip(*found, strict=True):
        *holds, took = (min(figures) for figures in zip(*[row[1] for row in rows], strict=True))
        wall, process, loop = (each * 1000 for each in holds)
        say(f"{rows[0][0]:40}{wall:8.1f}{process:9.1f}{loop:8.1f}{took:9.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="the least of each figure is shown")
    main(parser.parse_args().rounds)
