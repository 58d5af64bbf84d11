"""Cost of single requests beside a large fleet: 1,600, 200,000 and 1,000,000 enrollments in the store.

Single operations by their CPU, in batches of 16: on pages that were used before, and once after the
pages were dropped from memory. Then whole requests of devices that enroll anew. `make bench ARGS=--large`.
"""

import argparse
import asyncio
import base64
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import structlog
import uvloop

from shared.concurrency.clock import SystemClock, SystemIds
from shared.domain.enrollment import EnrollmentKey, PushTarget
from shared.domain.event import Event, Topic
from shared.ports.enrollments import Change
from shared.security.encryption import AesKeyring
from shared.storage.enrollments import documents as enrollment_documents
from shared.storage.enrollments import identities
from shared.storage.enrollments import store as enrollments
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events import journal
from shared.storage.events.journal import MongoJournal
from shared.storage.queue import documents as entry_documents
from shared.storage.sqlite import FILE, SqliteDatabase, open_database
from tests.load.bench_fleet import KEYRING, record, serial_of
from tests.load.scenarios import Load, Ports, Size, say
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.system import ServiceProcess, cpu_seconds

SIZES = (1_600, 200_000, 1_000_000)
TARGET, MEMORY_TARGET = 1.5, 1.2
SAMPLE = 1_600
TOGETHER = 16
PASSES = 5
ROUNDS = 3
FILLED_TOGETHER = 2_000
MONTH = timedelta(days=30)

Figures = dict[str, float]


def name_of(number: int) -> str:
    return f"00008030-{number:016X}"


async def opened(folder: Path) -> SqliteDatabase:
    database = open_database(folder, SystemClock())
    queue = entry_documents.indexes(MONTH)
    await database.ensure(
        [*enrollments.INDEXES, *identities.INDEXES, *journal.indexes(MONTH), *queue]
    )
    return database


async def fill(folder: Path, since: int, until: int) -> None:
    """Enrolled devices, each with its certificate."""
    keyring = AesKeyring([KEYRING])
    database, start = await opened(folder), time.perf_counter()
    try:
        records = database.collection(enrollment_documents.NAME)
        certificates = database.collection(enrollment_documents.CERTIFICATES)
        for first in range(since, until, FILLED_TOGETHER):
            names = [name_of(n) for n in range(first, min(first + FILLED_TOGETHER, until))]
            await records.insert_many([record(name, keyring) for name in names])
            await certificates.insert_many([{"_id": f"{n:>064}", "device": n} for n in names])
            if first // 100_000 != (first - FILLED_TOGETHER) // 100_000:
                say(f"  {first} of {until} devices, {time.perf_counter() - start:.0f} s")
    finally:
        await database.close()


class Operations:
    """Single operations on a sample of the fleet."""

    def __init__(self, database: SqliteDatabase, count: int) -> None:
        keyring = AesKeyring([KEYRING])
        self._records = MongoEnrollments(database, keyring)
        self._journal = MongoJournal(database, keyring)
        self._ids = SystemIds()
        self._changed_by: dict[str, str] = {}
        step = count // SAMPLE
        self._names = [name_of(number * step) for number in range(SAMPLE)]

    def all(self) -> dict[str, Callable[[Sequence[str]], Awaitable[object]]]:
        return {
            "read by id": self._load,
            "read by serial number": self._find,
            "journal": self._append,
            "change": self._change,
        }

    async def measure(self, operation: Callable[[Sequence[str]], Awaitable[object]]) -> float:
        """CPU of one item, in microseconds, over the whole sample."""
        start = time.process_time()
        for first in range(0, SAMPLE, TOGETHER):
            await operation(self._names[first : first + TOGETHER])
        return (time.process_time() - start) / SAMPLE * 1e6

    async def _load(self, names: Sequence[str]) -> None:
        if len(await self._records.load(names)) != len(names):
            raise SystemExit("a device was not found by its id")

    async def _find(self, names: Sequence[str]) -> None:
        if len(await self._records.find([serial_of(name) for name in names])) != len(names):
            raise SystemExit("a device was not found by its serial number")

    async def _append(self, names: Sequence[str]) -> None:
        events = [
            Event(
                self._ids.new(), Topic.CONNECT, EnrollmentKey(name, name, udid=name),
                time.time_ns(), b"x" * 600, writer="bench", number=number, status="Idle",
            )
            for number, name in enumerate(names)
        ]  # fmt: skip
        if not all(await self._journal.append(events)):
            raise SystemExit("an event was not journaled")

    async def _change(self, names: Sequence[str]) -> None:
        now = datetime.now(UTC)
        changes = [
            Change(
                EnrollmentKey(name, name, udid=name), self._ids.new(), f"generation-{name}",
                Topic.TOKEN_UPDATE, now, push=PushTarget("topic", b"t" * 32, "magic"),
                expected_change=self._changed_by.get(name),
            )
            for name in names
        ]  # fmt: skip
        self._changed_by |= {change.key.id: change.by for change in changes}
        if not all(await self._records.apply(changes)):
            raise SystemExit("a change was not applied")


async def operations(folder: Path, count: int) -> tuple[Figures, Figures]:
    """CPU of each operation in microseconds: on pages in memory, and on cold ones."""
    warm: Figures = {}
    cold: Figures = {}
    for name in ("read by id", "read by serial number", "journal", "change"):
        drop_pages(folder / FILE)
        database = await opened(folder)
        try:
            sample = Operations(database, count)
            operation = sample.all()[name]
            cold[name] = await sample.measure(operation)
            warm[name] = median([await sample.measure(operation) for _ in range(PASSES)])
        finally:
            await database.close()
    return warm, cold


def drop_pages(file: Path) -> None:
    """Take the file out of the memory of the operating system."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


async def requests(folder: Path, devices: int) -> Figures:
    """CPU of whole requests in microseconds, and memory in MB after them: the medians of some rounds."""
    found: dict[str, list[float]] = {}
    authority = FleetAuthority()
    (folder / "ca.pem").write_bytes(authority.pem)
    key = base64.b64encode(KEYRING).decode()
    for _ in range(ROUNDS):
        service = ServiceProcess(
            "all", folder, {"MDM_SECRET_KEY": key, "MDM_DEVICE_CA": str(folder / "ca.pem")}
        )
        try:
            await asyncio.to_thread(service.start)
            ports = Ports(service.port, service.port)
            load = Load(ports, authority, Size(devices, devices * 6))
            for phase in (load.enroll, load.idle, load.queue, load.drain):
                start = cpu_seconds(service.pid)
                done = await phase()
                used = (cpu_seconds(service.pid) - start) / done * 1e6
                found.setdefault(phase.__name__, []).append(used)
            found.setdefault("memory", []).append(service.resident_megabytes())
            service.terminate()
        finally:
            service.close()
    return {name: median(values) for name, values in found.items()}


async def measure(sizes: Sequence[int], devices: int, entry: str | None) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    folder = Path(tempfile.mkdtemp(prefix="macromdm-bench-", dir=entry))
    first: Figures = {}
    filled = 0
    try:
        for count in sizes:
            await fill(folder / "data", filled, count)
            filled = count
            size = (folder / "data" / FILE).stat().st_size / 1e6
            say(f"{count} enrollments, {size:.0f} MB")
            warm, cold = await operations(folder / "data", count)
            whole = await requests(folder, devices)
            first = first or {**warm, **whole}
            for name, value in {**warm, **whole}.items():
                unit, target = ("MB", MEMORY_TARGET) if name == "memory" else ("us", TARGET)
                times = value / first[name]
                behind = f"; on cold pages {cold[name]:.0f} {unit}" if name in cold else ""
                say(
                    f"  {name:22} {value:7.1f} {unit}, {times:.2f} times (target {target:g}){behind}"
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(entry: str | None = None) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(SIZES, 300, entry))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--place", help="a folder with room for 3 GB; default: a temporary one")
    given = parser.parse_args()
    sys.exit(uvloop.run(measure(given.sizes, given.devices, given.entry)))
