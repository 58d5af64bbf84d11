"""Many tasks write to a store and report; an account of what was acknowledged; what a file must hold.

The contents of a document follow from its `_id` and its version, so that a look at it tells whether it is
whole. Each document belongs to one worker, and each worker does one thing at a time: what is unknown after
a loss are only the operations that were under way.
"""

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import bson

from shared.storage.database import Collection, Database, DeleteOne, Document, UpdateOne
from shared.storage.indexes import Index

THINGS = "things"
INDEXES = [
    Index(THINGS, [("worker", 1), ("number", 1)]),
    Index(THINGS, [("name", 1)], unique=True, sparse=True),
    Index(THINGS, [("tags", 1), ("worker", 1)], of_array=True),
]
WORKERS = 12
MOST = 40
"""Documents of one worker, about."""
LARGE = 600_000
"""Bytes of a body that is written in the thread."""

Versions = Mapping[str, int | None]
"""By `_id`; None: there is no such document."""
Report = Callable[[str, Versions], None]


def contents(key: str, version: int) -> Document:
    """The fields of one version of a document, but for its `_id`."""
    worker, number = map(int, key.split("-"))
    seed = crc32(f"{key}/{version}".encode())
    size = LARGE if seed % 150 == 0 else seed % 1_500
    return {
        "worker": worker,
        "number": number,
        "version": version,
        "name": f"{key}/{version}",
        "tags": sorted({f"tag-{seed % 7}", f"tag-{version % 5}"}),
        "body": random.Random(seed).randbytes(64) * (size // 64),
    }


def document(key: str, version: int) -> Document:
    return {"_id": key, **contents(key, version)}


@dataclass
class Account:
    """What was acknowledged, and what was under way."""

    known: dict[str, int | None] = field(default_factory=dict)
    pending: dict[str, int | None] = field(default_factory=dict)

    def take(self, line: str) -> None:
        """A line of `report_to`."""
        word, versions = json.loads(line)
        if word == "begun":
            self.pending |= versions
            return
        self.known |= versions
        for key in versions:
            self.pending.pop(key, None)

    def check(self, found: Mapping[str, Document]) -> Versions:
        """Compare what a store has with what it must have; how that which was under way has ended."""
        for key, version in self.known.items():
            if key not in self.pending:
                assert version_of(found.get(key)) == version, f"{key}: not as acknowledged"
        ended: dict[str, int | None] = {}
        for key, version in self.pending.items():
            ended[key] = version_of(found.get(key))
            assert ended[key] in {version, self.known.get(key)}, f"{key}: neither old nor new"
        assert found.keys() <= self.known.keys() | self.pending.keys()
        for key, each in found.items():
            assert each == document(key, each["version"]), f"{key}: not whole"
        return ended


def version_of(found: Document | None) -> int | None:
    return None if found is None else int(found["version"])


def lines_to(write: Callable[[bytes], object]) -> Report:
    """A report as lines for an account."""

    def report(word: str, versions: Versions) -> None:
        write(json.dumps([word, versions]).encode() + b"\n")

    return report


async def everything(database: Database) -> dict[str, Document]:
    things = database.collection(THINGS)
    return {each["_id"]: each async for batch in things.scan({}) for each in batch}


async def load(
    database: Database, known: Versions, report: Report, seed: int, workers: int = WORKERS
) -> None:
    """All workers, until cancelled."""
    things = database.collection(THINGS)
    async with asyncio.TaskGroup() as tasks:
        for number in range(workers):
            mine = {
                key: version
                for key, version in known.items()
                if version is not None and key.startswith(f"{number}-")
            }
            last = max(
                (int(key.split("-")[1]) for key in known if key.startswith(f"{number}-")), default=0
            )
            worker = Worker(things, number, mine, last, report, random.Random(f"{seed}/{number}"))
            tasks.create_task(worker.run())


@dataclass
class Worker:
    """Does one random thing after the other to documents of its own."""

    things: Collection
    number: int
    mine: dict[str, int]
    last: int
    report: Report
    chance: random.Random

    async def run(self) -> None:
        while True:
            kind = self.chance.choice(
                [self.insert, self.update, self.delete, self.insert_many, self.bulk]
            )
            if len(self.mine) > MOST:
                kind = self.delete_many
            await kind()

    async def insert(self) -> None:
        [key] = self._new_keys(1)
        await self._do({key: 1}, self.things.insert_one(document(key, 1)))

    async def insert_many(self) -> None:
        keys = self._new_keys(12)
        await self._do(
            dict.fromkeys(keys, 1), self.things.insert_many([document(key, 1) for key in keys])
        )

    async def update(self) -> None:
        for key in self._some(1):
            version = self.mine[key] + 1
            change = {"$set": contents(key, version)}
            await self._do({key: version}, self.things.update_one({"_id": key}, change))

    async def delete(self) -> None:
        for key in self._some(1):
            await self._do({key: None}, self.things.delete_one({"_id": key}))

    async def delete_many(self) -> None:
        upto = self.chance.randrange(self.last)
        gone = [key for key in self.mine if int(key.split("-")[1]) <= upto]
        query = {"worker": self.number, "number": {"$lte": upto}}
        await self._do(dict.fromkeys(gone), self.things.delete_many(query))

    async def bulk(self) -> None:
        keys = self._some(8)
        versions = {key: None if n % 4 == 0 else self.mine[key] + 1 for n, key in enumerate(keys)}
        operations = [
            DeleteOne({"_id": key})
            if version is None
            else UpdateOne({"_id": key}, {"$set": contents(key, version)})
            for key, version in versions.items()
        ]
        await self._do(versions, self.things.bulk_write(operations))

    def _new_keys(self, count: int) -> list[str]:
        self.last += count
        return [f"{self.number}-{self.last - n}" for n in range(count)]

    def _some(self, count: int) -> list[str]:
        return self.chance.sample(sorted(self.mine), min(count, len(self.mine)))

    async def _do(self, versions: Versions, work: Any) -> None:
        self.report("begun", versions)
        await work
        self.report("done", versions)
        for key, version in versions.items():
            if version is None:
                self.mine.pop(key, None)
            else:
                self.mine[key] = version


def check_file(file: Path) -> None:
    """Look at the file beside its documents: sound, and its columns and elements agree with them."""
    uri = f"{file.resolve().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute(
            f"SELECT _row, _id, worker, number, name, _document FROM {THINGS}"
        ).fetchall()
        elements = set(
            connection.execute(f'SELECT k0, k1, r FROM "{INDEXES[2].collection}.{INDEXES[2].name}"')
        )
        wanted = set()
        for row, *columns, blob in rows:
            whole = bson.decode(blob)
            assert columns == [whole[name] for name in ("_id", "worker", "number", "name")]
            wanted |= {(tag, whole["worker"], row) for tag in whole["tags"]}
        assert elements == wanted
        connection.execute("ROLLBACK")
