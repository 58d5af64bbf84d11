"""The embedded store on a disk that hangs, and submitters that leave: who is told, and what is there."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.errors import StoreUnavailable
from shared.storage.database import Collection
from shared.storage.sqlite import SqliteDatabase, open_database
from tests.integration import sqlite_rig
from tests.integration.sqlite_rig import BOUNDS, DEADLINE, LARGE, SOON, is_there, thing
from tests.support.harness.meddled_store import Meddler

meddler, database, things = sqlite_rig.meddler, sqlite_rig.database, sqlite_rig.things


async def until_it_answers(database: SqliteDatabase) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                return await database.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("statement", ["COMMIT", "PRAGMA wal_checkpoint"])
async def test_what_hangs_is_told_at_the_deadline_and_to_everybody_after_it_at_once(
    database: SqliteDatabase, things: Collection, meddler: Meddler, statement: str
) -> None:
    meddler.hold(statement)
    begun = perf_counter()

    # The first one waits for its own commit, the second for what goes on before it.
    told = await asyncio.gather(
        things.insert_one(thing("held", body=LARGE)), _later(things), return_exceptions=True
    )
    took = perf_counter() - begun
    begun = perf_counter()
    with pytest.raises(StoreUnavailable):
        await things.insert_one(thing("refused"))
    with pytest.raises(StoreUnavailable):
        await database.ping()
    refused_after = perf_counter() - begun

    assert isinstance(told[1], StoreUnavailable)
    assert DEADLINE.total_seconds() - SOON < took < DEADLINE.total_seconds() + 1
    assert refused_after < SOON
    assert await is_there(things, "first") == [True]  # reads go on


async def _later(things: Collection) -> bool:
    await asyncio.sleep(SOON)
    return await things.insert_one(thing("behind"))


async def test_service_resumes_when_the_commit_returns_and_the_late_write_is_there_once(
    database: SqliteDatabase, things: Collection, meddler: Meddler
) -> None:
    meddler.hold("COMMIT")
    with pytest.raises(StoreUnavailable):
        await things.insert_one(thing("late"))

    meddler.go_on()
    await until_it_answers(database)

    assert await things.insert_one(thing("late")) is False
    assert await things.insert_one(thing("next")) is True
    assert await is_there(things, "late", "next") == [True, True]


async def test_closing_ends_while_a_commit_hangs_and_the_connection_closes_when_it_returns(
    tmp_path: Path, meddler: Meddler
) -> None:
    database = open_database(tmp_path, SystemClock(), BOUNDS, meddler.kind)
    await database.collection("things").insert_one(thing("first"))
    meddler.hold("COMMIT")
    work = asyncio.create_task(database.collection("things").insert_one(thing("held")))
    await asyncio.sleep(SOON)

    async with asyncio.timeout(DEADLINE.total_seconds() * 3):
        await database.close()

    with pytest.raises(StoreUnavailable):
        await work
    assert len(meddler.closed) == len(meddler.made) - 1  # all but the one that hangs
    with pytest.raises(StoreUnavailable):
        await database.collection("things").insert_one(thing("after"))
    meddler.go_on()
    async with asyncio.timeout(5):
        while len(meddler.closed) < len(meddler.made):
            await asyncio.sleep(0.01)


STUCK = """
import asyncio
from pathlib import Path
import sys
from shared.concurrency.clock import SystemClock
from shared.domain.errors import StoreUnavailable
from shared.storage.sqlite import open_database
from shared.storage.sqlite.engine.wal import CommitBounds
from tests.integration.sqlite_rig import BOUNDS, thing
from tests.support.harness.meddled_store import Meddler

async def main():
    meddler = Meddler()
    database = open_database(Path(sys.argv[1]), SystemClock(), BOUNDS, meddler.kind)
    things = database.collection("things")
    await things.insert_one(thing("first"))
    meddler.hold("COMMIT")
    try:
        await things.insert_one(thing("held"))
    except StoreUnavailable:
        await database.close()

asyncio.run(main())
"""


def test_a_process_ends_while_a_commit_hangs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], timeout=10, check=False)

    assert done.returncode == 0


async def test_what_is_cancelled_before_it_began_is_not_written(
    things: Collection, meddler: Meddler
) -> None:
    meddler.hold("COMMIT")
    first = asyncio.create_task(things.insert_one(thing("under way")))
    await asyncio.sleep(SOON)
    waiting = [
        asyncio.create_task(things.insert_one(each))
        for each in (thing("small"), thing("large", body=LARGE))
    ]
    await asyncio.sleep(0)
    for each in (first, *waiting):
        each.cancel()
    meddler.go_on()
    await asyncio.wait([first, *waiting])
    await things.insert_one(thing("next"))

    assert await is_there(things, "under way", "small", "large", "next") == [
        True,
        False,
        False,
        True,
    ]


async def test_a_storm_of_cancellations_harms_nobody_else(things: Collection) -> None:
    chance = random.Random(1)
    sizes = [chance.choice([10, 1_000, len(LARGE) if n % 40 == 0 else 10]) for n in range(400)]
    tasks = [
        asyncio.create_task(things.insert_one(thing(f"{n}", body=LARGE[:size])))
        for n, size in enumerate(sizes)
    ]
    cancelled = set(chance.sample(range(len(tasks)), 200))

    for number in cancelled:
        tasks[number].cancel()
        if number % 7 == 0:
            await asyncio.sleep(0)
    told = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(each is True for n, each in enumerate(told) if n not in cancelled)
    there = await is_there(things, *map(str, range(len(tasks))))
    assert all(there[n] for n, each in enumerate(told) if each is True)
    assert await things.insert_one(thing("next")) is True


async def test_closing_with_work_under_way_ends_it_or_refuses_it(tmp_path: Path) -> None:
    database = open_database(tmp_path, SystemClock())
    things = database.collection("things")
    await things.insert_one(thing("first"))
    tasks = [asyncio.create_task(_many(things, number)) for number in range(20)]
    await asyncio.sleep(0.05)

    await database.close()
    acknowledged = [key for done in await asyncio.gather(*tasks) for key in done]

    again = open_database(tmp_path, SystemClock())
    assert acknowledged
    assert all(await is_there(again.collection("things"), *acknowledged))
    await again.close()


async def _many(things: Collection, number: int) -> list[str]:
    done: list[str] = []
    for exchange in range(10_000):
        try:
            await things.insert_one(thing(f"{number}-{exchange}"))
        except StoreUnavailable:
            break
        done.append(f"{number}-{exchange}")
    return done
