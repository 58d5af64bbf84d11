"""Loss of power: what the disk may hold of the embedded store's files then, made by hand (F7).

SQLite asks the disk to keep the log before a write is answered, and both files around a checkpoint. So the
log may end anywhere behind what was answered, with what stood there before; and while a checkpoint is under
way each page of the file may be old, new or torn, beside a whole log.
"""

import asyncio
import random
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from shared.concurrency.clock import SystemClock
from shared.storage.database import Document
from shared.storage.sqlite import FILE, SqliteDatabase, open_database
from shared.storage.sqlite.engine.wal import CommitBounds, frames, log_of
from tests.faults.store_load import (
    INDEXES,
    Versions,
    check_file,
    document,
    everything,
    load,
    version_of,
)
from tests.support.harness.disks import Ext4

NEVER = CommitBounds(checkpoint_frames=1 << 30)
"""No checkpoint but those that the tests ask for."""
PAGE, SECTOR = 4096, 512
HEADER, FRAME = 32, 24 + PAGE


class Writer(sqlite3.Connection):
    """A connection that the test can find."""

    made: ClassVar["list[Writer]"] = []

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.made.append(self)


@dataclass
class History:
    """What was written, and how long the log was when it was acknowledged."""

    file: Path
    of: dict[str, list[tuple[int | None, int | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Versions of each document in their order, each with that length; None: not acknowledged."""
    acknowledged: int = 0

    def report(self, word: str, versions: Versions) -> None:
        if word == "begun":
            for key, version in versions.items():
                self.of[key].append((version, None))
            return
        self.acknowledged += 1
        length = HEADER + frames(log_of(self.file)) * FRAME
        for key, version in versions.items():
            self.of[key][-1] = (version, length)

    @property
    def known(self) -> Versions:
        return {key: versions[-1][0] for key, versions in self.of.items()}

    def end(self, found: Mapping[str, Document]) -> None:
        """Nothing is under way any more: what was not acknowledged was done or not, and that is known."""
        length = HEADER + frames(log_of(self.file)) * FRAME
        for key, versions in self.of.items():
            if versions[-1][1] is None:
                versions.append((version_of(found.get(key)), length))

    def begin_anew(self) -> None:
        """The log does: what was acknowledged is there, however short it is from here on."""
        for key, versions in self.of.items():
            self.of[key] = [(version, None if at is None else 0) for version, at in versions]

    def allowed(self, key: str, length: int) -> set[int | None]:
        """The versions that may be found where so much of the log is left: the last one that was
        acknowledged by then, or a later one."""
        found: set[int | None] = {None}
        for version, at in self.of[key]:
            if at is not None and at <= length:
                found.clear()
            found.add(version)
        return found


@dataclass
class Session:
    """A store that is open, and what was written to it."""

    database: SqliteDatabase
    connection: sqlite3.Connection
    history: History

    async def write(self, operations: int) -> None:
        """Until so many more are acknowledged and nothing is under way."""
        until = self.history.acknowledged + operations
        known = self.history.known
        work = asyncio.create_task(load(self.database, known, self.history.report, until, 4))
        while self.history.acknowledged < until:
            assert not work.done()
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait({work})
        await self.database.collection("things").delete_one({"_id": "none"})  # goes behind them
        self.history.end(await everything(self.database))

    def checkpoint(self) -> None:
        """All of the log goes into the file, and begins anew with the next write."""
        [(busy, log, done)] = self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        assert (busy, log) == (0, done)

    @property
    def file(self) -> bytes:
        return self.database.file.read_bytes()

    @property
    def log(self) -> bytes:
        """That part of the log which counts."""
        log = log_of(self.database.file)
        return log.read_bytes()[: HEADER + frames(log) * FRAME]


@asynccontextmanager
async def session(folder: Path) -> AsyncIterator[Session]:
    database = open_database(folder, SystemClock(), NEVER, Writer)
    try:
        await database.ensure(INDEXES)
        yield Session(database, Writer.made[-2], History(database.file))
    finally:
        await database.close()
        Writer.made.clear()


def leave(folder: Path, file: bytes, log: bytes) -> None:
    """What the disk holds."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / FILE).write_bytes(file)
    log_of(folder / FILE).write_bytes(log)


async def check(folder: Path, history: History, length: int) -> None:
    """Open what is left, and look at all of it."""
    database = open_database(folder, SystemClock(), NEVER)
    await database.ensure(INDEXES)  # the log may end before them
    found = await everything(database)
    for key in history.of:
        version = version_of(found.get(key))
        assert version in history.allowed(key, length), f"{key} with {length} bytes of log"
    for key, each in found.items():
        assert each == document(key, each["version"])
    check_file(database.file)
    await database.close()


def cuts(log: bytes) -> list[int]:
    """Every end of a frame, and some places inside."""
    ends = [*range(HEADER, len(log) + 1, FRAME)]
    chance = random.Random(1)
    return [0, 17, *ends, *(end + chance.randrange(1, FRAME) for end in ends[:-1:9])]


async def test_what_was_acknowledged_is_in_the_log_wherever_it_ends_behind_that(
    tmp_path: Path,
) -> None:
    async with session(tmp_path / "data") as store:
        file = store.file
        await store.write(14)
        log, history = store.log, store.history

    for cut in cuts(log):
        leave(tmp_path / "left", file, log[:cut])
        await check(tmp_path / "left", history, cut)


async def test_a_log_that_began_anew_may_end_anywhere_with_the_old_one_behind_it(
    tmp_path: Path,
) -> None:
    async with session(tmp_path / "data") as store:
        await store.write(9)
        old, history = store.log, store.history
        store.checkpoint()
        history.begin_anew()
        file = store.file
        await store.write(9)
        log = store.log
    assert log[:HEADER] != old[:HEADER]

    for cut in cuts(log):
        leave(tmp_path / "left", file, log[:cut] + old[cut:])
        await check(tmp_path / "left", history, cut)


async def test_a_checkpoint_that_is_cut_short_loses_nothing(tmp_path: Path) -> None:
    async with session(tmp_path / "data") as store:
        await store.write(100)
        store.checkpoint()
        await store.write(100)
        before, log, history = store.file, store.log, store.history
        store.checkpoint()
        after = store.file
    assert before != after
    chance = random.Random(1)

    for _ in range(40):
        mixed = mix(before, after, chance)
        leave(tmp_path / "left", mixed, log)
        await check(tmp_path / "left", history, len(log))


def mix(before: bytes, after: bytes, chance: random.Random) -> bytes:
    """Pages of the one or the other, some of them torn, in a file of any length between."""
    whole = max(before, after, key=len)
    mixed = bytearray(whole)
    for at in range(0, len(before), PAGE):
        size = chance.choice([PAGE, PAGE, SECTOR])
        for part in range(at, at + PAGE, size):
            mixed[part : part + size] = chance.choice([before, after])[part : part + size]
    shortest = min(len(before), len(after))
    return bytes(mixed[: shortest + chance.randrange(0, len(whole) - shortest + 1, SECTOR)])


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Ext4]:
    disk = Ext4(tmp_path / "disk", megabytes=32)
    yield disk
    disk.close()


async def test_what_is_acknowledged_is_on_the_disk_with_the_names_of_new_files_and_folders(
    tmp_path: Path, ext4: Ext4
) -> None:
    data = Path("new") / "data"

    async with session(ext4.folder / data) as store:
        for number in range(4):
            await store.write(20)
            if number == 2:
                store.checkpoint()
            left = ext4.after_power_loss(tmp_path / f"left-{number}")
            try:
                await check(left.folder / data, store.history, len(store.log))
            finally:
                left.close()
