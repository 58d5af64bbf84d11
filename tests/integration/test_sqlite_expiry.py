"""Documents of the embedded store leave once their time is over, with their entries in every index."""

import asyncio
import sqlite3
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops
from shared.storage.indexes import Index
from shared.storage.sqlite import open_database

HOUR = timedelta(hours=1)
INDEXES = [
    Index("things", [("at", 1)], sparse=True, expire_after=HOUR),
    Index("things", [("tags", 1)], of_array=True),
]


async def test_what_is_over_leaves_and_all_else_stays(tmp_path: Path) -> None:
    clock = SystemClock()
    database = open_database(tmp_path, clock)
    things = database.collection("things")
    await database.ensure(INDEXES)
    over = clock.now() - 2 * HOUR
    await things.insert_many(
        [{"_id": f"old{n}", "at": over, "tags": ["a", f"t{n}"]} for n in range(500)]
    )
    await things.insert_many(
        [{"_id": "fresh", "at": clock.now(), "tags": ["a"]}, {"_id": "timeless", "tags": ["a"]}]
    )

    watching = asyncio.create_task(database.watch(Loops(SystemClock())))
    async with asyncio.timeout(20):
        while len(await things.find({})) > 2:
            await asyncio.sleep(0.02)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching

    assert {each["_id"] for each in await things.find({"tags": "a"})} == {"fresh", "timeless"}
    await database.close()
    with closing(sqlite3.connect(database.file)) as connection:
        assert connection.execute('SELECT count(*) FROM "things.tags_1"').fetchall() == [(2,)]
