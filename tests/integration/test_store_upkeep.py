"""Backup and check of the store of a folder, beside everything else that goes on in it."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.database import Checked
from shared.storage.indexes import Index
from shared.storage.sqlite import FILE, SqliteDatabase, open_database
from shared.storage.sqlite.upkeep.checking import MOST_FAULTS
from shared.storage.sqlite.upkeep.long_work import in_thread

INDEXES = [
    Index("things", [("at", 1)], sparse=True),
    Index("things", [("names", 1), ("at", 1)], of_array=True),
]


def thing(number: int, size: int = 100) -> dict[str, object]:
    return {
        "_id": f"secret-{number}",
        "at": number,
        "names": [f"n{number}", f"n{number + 1}"],
        "value": number.to_bytes(4, "big") * (size // 4),
    }


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteDatabase]:
    database = open_database(folder, SystemClock())
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    async with opened(tmp_path / "data") as database:
        await database.ensure(INDEXES)
        yield database


def silent(_: str) -> None: ...


async def fill(store: SqliteDatabase, count: int, size: int = 100) -> None:
    await store.collection("things").insert_many([thing(number, size) for number in range(count)])


@asynccontextmanager
async def writing(store: SqliteDatabase) -> AsyncIterator[list[int]]:
    """Inserts and changes, one after the other, until the end; the numbers that were answered."""
    answered: list[int] = []

    async def write() -> None:
        things = store.collection("things")
        for number in range(1_000_000, 2_000_000):
            await things.insert_one(thing(number))
            answered.append(number)
            change = {"$set": {"at": -number, "names": [f"m{number}", "m"]}}
            await things.update_one({"_id": thing(number)["_id"]}, change)
            await asyncio.sleep(0)

    task = asyncio.create_task(write())
    try:
        yield answered
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


@asynccontextmanager
async def holds_of_loop() -> AsyncIterator[list[float]]:
    """For how many seconds the event loop let a task wait that is always ready: some milliseconds are meant,
    of which a busy machine makes more."""
    holds: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            holds.append(time.perf_counter() - before)

    task = asyncio.create_task(tick())
    try:
        yield holds
    finally:
        task.cancel()
        await asyncio.wait({task})


async def restored(file: Path, folder: Path) -> tuple[dict[str, dict[str, object]], Checked]:
    """What a backup holds, as a server finds it in a new folder."""
    folder.mkdir()
    (folder / FILE).write_bytes(file.read_bytes())
    async with opened(folder) as database:
        found = await database.collection("things").find({})
        return {each["_id"]: each for each in found}, await database.check(silent)


# --- backup


async def test_a_backup_beside_writes_holds_whole_all_that_was_answered_before(
    store: SqliteDatabase, tmp_path: Path
):
    await fill(store, 3_000, 1_000)
    target = tmp_path / "backup.db"
    async with writing(store) as answered:
        while len(answered) < 50:
            await asyncio.sleep(0.01)
        before = set(answered)
        size = await store.backup(target, silent)
        written_meanwhile = len(answered) - len(before)

    found, checked = await restored(target, tmp_path / "new")

    assert written_meanwhile
    assert {thing(number)["_id"] for number in [*range(3_000), *before]} <= set(found)
    assert all(found[f"secret-{n}"] == thing(n, 1_000) for n in range(3_000))
    assert all(found[f"secret-{n}"]["value"] == thing(n)["value"] for n in before)
    assert (checked.count, checked.documents) == (0, len(found))
    assert size == target.stat().st_size


async def test_a_backup_leaves_the_event_loop_free(store: SqliteDatabase, tmp_path: Path):
    await fill(store, 100, 1_000_000)

    async with holds_of_loop() as holds:
        began = time.perf_counter()
        await store.backup(tmp_path / "one", silent)
        took = time.perf_counter() - began

    assert max(holds) < took / 2


async def test_a_backup_is_for_its_owner_only_and_stands_alone(
    store: SqliteDatabase, tmp_path: Path
):
    await fill(store, 10)
    folder = tmp_path / "backups"
    folder.mkdir()

    await store.backup(folder / "one", silent)

    assert [each.name for each in folder.iterdir()] == ["one"]
    assert (folder / "one").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
async def test_a_backup_is_never_written_over_anything(
    store: SqliteDatabase, tmp_path: Path, make: Callable[[Path], None]
):
    make(tmp_path / "there")
    before = (tmp_path / "there").lstat()

    with pytest.raises(Misconfigured, match="is there already"):
        await store.backup(tmp_path / "there", silent)

    assert (tmp_path / "there").lstat() == before


@pytest.mark.parametrize("where", ["nowhere/backup", "file/backup"])
async def test_an_entry_that_cannot_hold_a_backup_is_named(
    store: SqliteDatabase, tmp_path: Path, where: str
):
    (tmp_path / "file").touch()

    with pytest.raises(Misconfigured, match=f"cannot write .*{where}"):
        await store.backup(tmp_path / where, silent)


class InterruptedAtOnce(set[sqlite3.Connection]):
    """Long readers that are interrupted from the moment on in which they come, until they leave."""

    def add(self, connection: sqlite3.Connection) -> None:
        super().add(connection)
        threading.Thread(target=self._interrupt, args=[connection], daemon=True).start()

    def _interrupt(self, connection: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):
            while connection in self:
                connection.interrupt()
                time.sleep(0.0001)


async def test_a_backup_that_is_interrupted_for_the_log_leaves_nothing_and_says_what_to_do(
    store: SqliteDatabase, tmp_path: Path
):
    await fill(store, 100, 200_000)
    folder = tmp_path / "backups"
    folder.mkdir()
    store._commits.long_readers = InterruptedAtOnce()

    with pytest.raises(StoreUnavailable, match=r"cut short.*at a quieter time"):
        await store.backup(folder / "one", silent)

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("times", [1, 2])
async def test_a_backup_that_nobody_waits_for_any_more_leaves_nothing(
    store: SqliteDatabase, tmp_path: Path, times: int
):
    await fill(store, 100, 200_000)
    folder = tmp_path / "backups"
    folder.mkdir()
    backup = asyncio.create_task(store.backup(folder / "one", silent))
    await asyncio.sleep(0)

    for _ in range(times):
        backup.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({backup})

    assert backup.cancelled()
    assert list(folder.iterdir()) == []


async def test_long_work_has_ended_when_it_is_left_however_often_it_is_cancelled():
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work(_: sqlite3.Connection) -> None:
        begun.set()
        may_end.wait()
        ended.set()

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    task = asyncio.create_task(in_thread(connection, set(), work, lambda: None))
    await asyncio.to_thread(begun.wait)

    for _ in range(3):
        task.cancel()
        await asyncio.wait({task}, timeout=0.01)
    left_early = task.done()
    may_end.set()
    await asyncio.wait({task})

    assert not left_early
    assert task.cancelled()
    assert ended.is_set()


# --- check


async def test_a_store_that_is_whole_is_found_whole_beside_writes(store: SqliteDatabase):
    await fill(store, 10_000)
    said: list[str] = []

    async with writing(store) as answered, holds_of_loop() as holds:
        began = time.perf_counter()
        checked = await store.check(said.append)
        took = time.perf_counter() - began

    assert answered
    assert (checked.faults, checked.count) == ([], 0)
    assert checked.documents >= 10_000
    assert said[0] == "looking at the file ..."
    assert any(line.startswith("things: ") for line in said)
    assert max(holds) < took / 2


async def checked_after(store: SqliteDatabase, *statements: str) -> Checked:
    """What a check finds after somebody else changed the file."""
    await fill(store, 30)
    with sqlite3.connect(store.file) as other:
        for statement in statements:
            other.execute(statement)
    other.close()
    return await store.check(silent)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE things SET at = 77 WHERE _row = 3", "things, row 3: the column at says something"),
        (
            "UPDATE things SET at = NULL WHERE _row = 3",
            "things, row 3: the column at says something",
        ),
        (
            "UPDATE things SET _id = 'x' WHERE _row = 3",
            "things, row 3: its document has another _id",
        ),
        (
            "UPDATE things SET _document = x'00' WHERE _row = 3",
            "things, row 3: its document cannot be read",
        ),
        (
            "DELETE FROM [things.names_1_at_1] WHERE k0 = 'n2' AND r = 3",
            "things, row 3: it is missing in the index names_1_at_1",
        ),
        (
            "INSERT INTO [things.names_1_at_1] VALUES ('other', 2, 3)",
            "things, row 3: the index names_1_at_1 has what it has not",
        ),
        (
            "INSERT INTO [things.names_1_at_1] VALUES ('other', 2, 999)",
            "things, row 999: the index names_1_at_1 has what it has not",
        ),
    ],
)
async def test_what_a_row_says_beside_its_document_is_found(
    store: SqliteDatabase, statement: str, fault: str
):
    checked = await checked_after(store, statement)

    assert checked.count == 1
    assert checked.faults[0].startswith(fault)
    assert "secret" not in checked.faults[0]


async def test_ten_faults_are_listed_and_all_are_counted(store: SqliteDatabase):
    checked = await checked_after(store, "UPDATE things SET at = -1 WHERE _row <= 25")

    assert len(checked.faults) == MOST_FAULTS
    assert checked.count == 25


async def test_an_index_that_lost_a_row_is_found(store: SqliteDatabase):
    checked = await checked_after(
        store,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'IS NOT NULL', 'IS NULL') WHERE name = 'things.at_1'",
    )

    assert checked.count
    assert "things.at_1" in " ".join(checked.faults)


async def test_damaged_pages_are_found(tmp_path: Path):
    async with opened(tmp_path) as database:
        await database.ensure(INDEXES)
        await fill(database, 2_000, 1_000)

    async with opened(tmp_path) as database:
        # Behind its back: a store that is opened so is refused at once.
        with (tmp_path / FILE).open("r+b") as file:
            file.seek(4096 * 100)
            file.write(b"\xff" * 4096 * 20)
        checked = await database.check(silent)

    assert checked.count > 1
    assert checked.faults[0].startswith("the file: ")


async def test_what_an_index_of_an_array_leaves_out_is_no_fault(store: SqliteDatabase):
    await store.collection("things").insert_many([{"_id": 1, "names": ["n"]}, {"_id": 2, "at": 3}])

    assert (await store.check(silent)).count == 0
