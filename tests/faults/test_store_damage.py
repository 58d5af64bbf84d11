"""A damaged file of the embedded store is refused at start, and never answered from when found later (F7)."""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from services.runtime.program import ServicesProgram
from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops
from shared.domain.errors import Misconfigured
from shared.settings import AllSettings, load
from shared.storage.database import Collection
from shared.storage.indexes import Index
from shared.storage.sqlite import FILE, Damaged, SqliteDatabase, open_database
from shared.telemetry.metrics import Metrics
from tests.integration.whole import whole_server

PAGE = 4096
INDEXES = [Index("things", [("kind", 1)])]


async def filled(folder: Path) -> Path:
    """The file of a store that was closed in order."""
    database = open_database(folder, SystemClock())
    await database.ensure(INDEXES)
    things = [{"_id": f"{n}", "kind": f"{n}", "body": b"." * 500} for n in range(200)]
    await database.collection("things").insert_many(things)
    await database.close()
    return database.file


def overwrite(file: Path, at: int, content: bytes) -> None:
    """In place, as a disk does it."""
    handle = os.open(file, os.O_WRONLY)
    os.pwrite(handle, content, at)
    os.close(handle)


def a_page_in_the_middle(file: Path) -> None:
    overwrite(file, file.stat().st_size // PAGE // 2 * PAGE, b"\xa5" * PAGE)


def every_page_but_the_first(file: Path) -> None:
    overwrite(file, PAGE, b"\xa5" * (file.stat().st_size - PAGE))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "the header": lambda file: overwrite(file, 0, b"\0" * 100),
    "a page in the middle": a_page_in_the_middle,
    "a page of zeros": lambda file: overwrite(file, 2 * PAGE, b"\0" * PAGE),
    "cut short": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut inside a page": lambda file: os.truncate(file, file.stat().st_size - 100),
    "a text": lambda file: file.write_text("This is not a store.\n" * 1_000),
    "a short text": lambda file: file.write_text("nothing"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_damaged_file_is_refused_at_start_with_what_to_do(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    file = await filled(tmp_path)
    damage(file)
    left = file.read_bytes()

    with pytest.raises(Misconfigured, match=r"store\.db: the store is damaged .* restore a backup"):
        open_database(tmp_path, SystemClock())

    assert file.read_bytes() == left


async def test_an_empty_file_is_not_taken_for_a_new_store(tmp_path: Path) -> None:
    (await filled(tmp_path)).write_bytes(b"")

    with pytest.raises(Misconfigured, match="is empty: restore a backup, or remove it"):
        open_database(tmp_path, SystemClock())


async def test_a_log_without_its_file_is_not_put_into_a_new_one(tmp_path: Path) -> None:
    file = await filled(tmp_path)
    file.rename(file.with_name(f"{FILE}-wal"))

    with pytest.raises(Misconfigured, match="is missing, and its log"):
        open_database(tmp_path, SystemClock())


async def test_a_start_that_was_cut_short_is_no_damage(tmp_path: Path) -> None:
    for name in ("store.db.new", "store.db.new-journal", "store.db.new-wal"):
        (tmp_path / name).write_bytes(b"half of it")

    file = await filled(tmp_path)

    assert [each.name for each in tmp_path.iterdir()] == [file.name]


async def test_a_sound_file_is_opened_again(tmp_path: Path) -> None:
    await filled(tmp_path)

    database = open_database(tmp_path, SystemClock())

    assert len(await database.collection("things").find({})) == 200
    await database.close()


async def assert_nothing_is_served(database: SqliteDatabase) -> None:
    things = database.collection("things")
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(5):
            await database.watch(Loops(SystemClock()))
    assert ended.group_contains(Damaged, match="restore a backup")
    for work in (
        things.find_one({"_id": "1"}),
        things.find({}),
        things.insert_one({"_id": "new"}),
        things.delete_many({}),
        database.ping(),
    ):
        with pytest.raises(Damaged):
            await work
    with pytest.raises(Misconfigured, match="restore a backup"):
        database.refuse_damage()


async def test_after_damage_that_a_read_finds_nothing_is_answered_any_more(tmp_path: Path) -> None:
    file = await filled(tmp_path)
    database = open_database(tmp_path, SystemClock())
    every_page_but_the_first(file)

    with pytest.raises(Damaged):
        await database.collection("things").find({})

    await assert_nothing_is_served(database)
    await database.close()


async def read(things: Collection) -> object:
    return await things.find_one({"_id": "7"})


async def change(things: Collection) -> object:
    return await things.update_one({"_id": "7"}, {"$set": {"kind": "b"}})


@pytest.mark.parametrize("work", [read, change])
async def test_a_document_that_is_not_what_was_written_is_damage(
    tmp_path: Path, work: Callable[[Collection], Awaitable[object]]
) -> None:
    file = await filled(tmp_path)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE things SET _document = zeroblob(100) WHERE _id = '7'")
    database = open_database(tmp_path, SystemClock())

    with pytest.raises(Damaged):
        await work(database.collection("things"))

    await assert_nothing_is_served(database)
    await database.close()


async def test_a_server_ends_when_it_meets_damage_and_does_not_start_again_on_it(
    tmp_path: Path,
) -> None:
    async with whole_server(tmp_path) as whole:
        devices = [await whole.enrolled() for _ in range(3)]
        assert await asyncio.to_thread(whole.process.terminate) == 0
        await asyncio.to_thread(whole.process.start)  # all of it stands in the file now
        every_page_but_the_first(tmp_path / "all" / "data" / FILE)
        statuses: list[int] = []
        async with asyncio.timeout(20):
            while whole.process.is_running:
                try:
                    statuses += [(await device.connect()).status_code for device in devices]
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

        assert whole.process.exit_code == 1
        assert set(statuses) <= {200, 503}
        assert 200 not in statuses[statuses.index(503) :] if 503 in statuses else True
        assert last_line(whole.process.output()).startswith("macromdm: the store is damaged")
        whole.process.launch()
        async with asyncio.timeout(20):
            while whole.process.is_running:
                await asyncio.sleep(0.05)
        assert whole.process.exit_code == 2
        assert last_line(whole.process.output()).startswith("macromdm: MDM_DATA_DIR: ")


async def test_damage_that_is_met_while_services_are_built_ends_the_start(tmp_path: Path) -> None:
    settings = load(AllSettings, {"MDM_DATA_DIR": str(tmp_path)})
    program = ServicesProgram(["webhook"], settings, Metrics())
    await program.build()
    await program.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("UPDATE authority SET _document = zeroblob(10)")
    program = ServicesProgram(["webhook"], settings, Metrics())

    with pytest.raises(Misconfigured, match="restore a backup"):
        await program.build()

    await program.close()


def last_line(output: str) -> str:
    return output.strip().splitlines()[-1]
