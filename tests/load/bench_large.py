"""`make bench ARGS=--large`: the scenarios beside a large fleet, and on an empty store, by turns.

The large store has a million enrollments and five million finished commands, written through the store's own
tables. One process, since that store is for one.
"""

import hashlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop

from shared.apple.request.plist import encode_command
from shared.domain.command import Command, EntryState, QueueEntry
from shared.security.encryption import AesKeyring
from shared.storage.database import Document
from shared.storage.enrollments import documents as enrollments
from shared.storage.queue import documents as queue
from shared.storage.queue.commands import command_document
from shared.storage.sqlite import FILE
from shared.storage.sqlite.engine.catalogue import Tables
from shared.storage.sqlite.engine.documents import encoded
from tests.load.bench_against import by_turns
from tests.load.bench_fleet import KEYRING, record
from tests.load.environment import described
from tests.load.figures import MEMORY_TARGET, comparison_table
from tests.load.machine import Build, machine, measure, measured
from tests.load.pages import write_block
from tests.load.scenarios import Size, say, show

STORE = Path("all", "data", FILE)
ENROLLMENTS, COMMANDS = 1_000_000, 5_000_000
TARGET = 1.3
SAID_EVERY = 500_000
TABLES = Size(devices=8, idles=8)
"""A load by which a server makes all tables."""
QUESTION = {"Queries": ["OSVersion"]}
SINCE = timedelta(days=20)
"""The time of the oldest command: younger than finished commands get."""


@dataclass(frozen=True)
class Fleet:
    """How much is in the large store."""

    enrollments: int
    commands: int

    @property
    def documents(self) -> int:
        """Those that they take, with certificates and stored commands."""
        return 2 * (self.enrollments + self.commands)

    def name(self, number: int) -> str:
        """A device's name. Names that follow each other are far apart in the store, as real ones are."""
        return hashlib.md5(
            str(number % self.enrollments).encode(), usedforsecurity=False
        ).hexdigest()


def fleet_documents(fleet: Fleet, keyring: AesKeyring) -> Iterator[tuple[str, Document]]:
    """Each document of the fleet with its collection: enrollments, then commands in the order of their
    times. Each entry has a command of its own, as single calls of the API make them."""
    for number in range(fleet.enrollments):
        name = fleet.name(number)
        yield enrollments.NAME, record(name, keyring)
        certificate = hashlib.sha256(name.encode()).hexdigest()
        yield enrollments.CERTIFICATES, {"_id": certificate, "device": name}
    begin, each = datetime.now(UTC) - SINCE, SINCE / (fleet.commands + 1)
    for number in range(fleet.commands):
        at = begin + number * each
        command = encode_command(f"finished-{number}", "DeviceInformation", QUESTION)
        yield queue.COMMANDS, command_document(command, at, keyring)
        yield queue.NAME, finished_entry(fleet.name(number), f"{number:026}", command, at)


def finished_entry(name: str, order: str, command: Command, at: datetime) -> Document:
    """An entry that its device answered a minute later."""
    entry = QueueEntry(
        enrollment=name,
        device=name,
        command_uuid=command.uuid,
        command_hash=command.hash,
        request_type=command.request_type,
        generation=f"generation-{name}",
        order=order,
        accepted_at=at,
    )
    answered = at + timedelta(minutes=1)
    times = dict.fromkeys(("handed_at", "answered_at", "finished_at"), answered)
    document = queue.encode_entry(entry)
    del document["open_device"]
    return document | {"state": EntryState.ACKNOWLEDGED.value, "handed_by": "earlier", **times}


def fill(file: Path, fleet: Fleet) -> None:
    """Fill the store of a server that has made its tables and ended."""
    start, tables, keyring = time.perf_counter(), Tables(), AesKeyring([KEYRING])
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-4000000"):
            connection.execute(f"PRAGMA {pragma}")
        tables.load(connection)
        connection.execute("BEGIN")
        for count, (name, document) in enumerate(fleet_documents(fleet, keyring), start=1):
            table = tables[name]
            if table.insert(connection, table.row_of(document, encoded(document))) is None:
                raise SystemExit(f"{name} has {document['_id']} already")
            if count % SAID_EVERY == 0:
                show(
                    f"{count:,} of {fleet.documents:,} documents, {time.perf_counter() - start:.0f} s"
                )
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")


def filled(build: Build, fleet: Fleet, folder: Path) -> float:
    """Fill the folder unless an earlier run has; the seconds that it took."""
    note = folder / "filled.json"
    if not note.exists():
        start = time.perf_counter()
        with machine(build, folder) as running:
            uvloop.run(measure(running, TABLES))
        fill(folder / STORE, fleet)
        note.write_text(json.dumps([asdict(fleet), time.perf_counter() - start]))
    found, seconds = json.loads(note.read_text())
    if found != asdict(fleet):
        raise SystemExit(f"{folder} has {found}")
    return float(seconds)


def main(
    fleet: Fleet, size: Size, rounds: int, folder: Path | None = None, *, is_written: bool = False
) -> None:
    """Measure; a folder keeps the large store for the next run."""
    build = Build(is_all=True)
    with tempfile.TemporaryDirectory(prefix="macromdm-bench-") as temporary:
        large = folder or Path(temporary)
        large.mkdir(parents=True, exist_ok=True)
        seconds = filled(build, fleet, large)
        gigabytes = (large / STORE).stat().st_size / 1e9
        folders = {"empty": None, "large": large}
        empty, full = by_turns(
            [*folders], rounds, lambda name: measured(build, size, folder=folders[name])
        )
    heads = ("empty", "large", f"ratio (target {TARGET}; of requests/s {1 / TARGET:.2f})")
    text = (
        f"{described()}.\n\n"
        f"{fleet.enrollments:,} enrollments and {fleet.commands:,} finished commands: {gigabytes:.1f} GB of "
        f"disk, filled in {seconds:.0f} s; medians of {rounds} rounds, {size.devices} more devices in each; "
        f"target of memory {MEMORY_TARGET} MB.\n\n"
        f"{comparison_table(heads, empty, full)}"
    )
    say(text)
    if is_written:
        write_block("large", text)
