"""One command for many devices, single commands meanwhile, and whether a queue's history costs.

`all` with the in-process broker, on the store of its data folder. Figures with their targets beside
them, no verdicts. Part of `make bench`; alone:

    python -m tests.load.bench_fleet [--devices 10000]
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop

from shared.apple.request.plist import encode_command
from shared.concurrency.clock import SystemClock, SystemIds
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import EnrollmentKey, EnrollmentStatus, Inventory
from shared.ports.queue import Report, SendClaim
from shared.security.encryption import AesKeyring
from shared.storage.database import Document
from shared.storage.enrollments import documents as enrollment_documents
from shared.storage.enrollments import identities
from shared.storage.enrollments import store as enrollments
from shared.storage.enrollments.documents import MAGIC, NAME, identity_fields, index_names
from shared.storage.queue import documents as entry_documents
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.records import encryption_context, fields_of, given
from shared.storage.sqlite import open_database
from tests.load.scenarios import say
from tests.support.harness.device import ApiClient
from tests.support.harness.http1 import Connection
from tests.support.harness.system import API_KEY, SECRET_KEY, ServiceProcess, cpu_seconds

KEYRING = b"a secret key for tests: 32 bytes"
SINGLES = 40
"""Devices that single commands go to."""

REST = 300
SECONDS_TARGET, SUPERSEDING_TARGET = 5.0, 10.0
TIMES_TARGET = 5.0
PAUSE = 0.03
"""Between two single commands: some 25 a second."""

SHORT, LONG = 10, 5000
CYCLES = 60
ROUNDS = 5
RATIO_TARGET = 1.1


async def seed(folder: Path, names: Sequence[str]) -> None:
    """Enrolled devices, as check-in would have written them."""
    keyring = AesKeyring([KEYRING])
    database = open_database(folder, SystemClock())
    try:
        await database.ensure([*enrollments.INDEXES, *identities.INDEXES])
        records = database.collection(enrollment_documents.NAME)
        for start in range(0, len(names), 1000):
            await records.insert_many(
                [record(name, keyring) for name in names[start : start + 1000]]
            )
    finally:
        await database.close()


def serial_of(name: str) -> str:
    """The serial number of a device."""
    return f"S{name[-11:]}"


def record(name: str, keyring: AesKeyring) -> Document:
    key = EnrollmentKey(name, name, udid=name)
    inventory = Inventory(
        serial_number=serial_of(name), product_name="iPhone14,2", os_version="17.1"
    )
    magic = keyring.encrypt(f"magic-{name}".encode(), encryption_context(NAME, name, MAGIC))
    push = {"topic": "com.apple.mgmt.External.bench", "token": b"t" * 32, "magic": magic}
    return {
        "_id": name,
        **identity_fields(key),
        "names": index_names(key, inventory.serial_number),
        "status": EnrollmentStatus.ENROLLED.value,
        "generation": f"generation-{name}",
        "inventory": given(fields_of(inventory)),
        "push": push,
    }


@contextlib.asynccontextmanager
async def running(names: Sequence[str]) -> AsyncIterator[ServiceProcess]:
    """`all` with these devices."""
    with tempfile.TemporaryDirectory(prefix="macromdm-bench-") as folder:
        service = ServiceProcess("all", Path(folder), {"MDM_SECRET_KEY": SECRET_KEY})
        try:
            await seed(Path(folder, "data"), names)
            await asyncio.to_thread(service.start)
            yield service
        finally:
            service.close()


class Singles:
    """Single commands, one after the other, each with its own time."""

    def __init__(self, port: int, names: Sequence[str]) -> None:
        self._port = port
        self._names = names
        self._ids = SystemIds()
        self._count = 0
        self.api = ApiClient(API_KEY)

    async def post(self, connection: Connection) -> float:
        self._count += 1
        name = self._names[self._count % len(self._names)]
        request = self.api.enqueue(name, self._ids.new())
        start = time.perf_counter()
        answer = await connection.send(request)
        seconds = time.perf_counter() - start
        if answer.status != 201:
            raise SystemExit(f"a single command: {answer}")
        return seconds

    async def until(self, ended: asyncio.Event, most: int = 10**9) -> list[float]:
        times: list[float] = []
        async with Connection("127.0.0.1", self._port) as connection:
            while not ended.is_set() and len(times) < most:
                times.append(await self.post(connection))
                await asyncio.sleep(PAUSE)
        return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


async def fleet(service: ServiceProcess, names: Sequence[str], command: dict[str, object]) -> None:
    """Queue one command to all, with single commands beside it."""
    target = SUPERSEDING_TARGET if "supersede" in command else SECONDS_TARGET
    port = service.port
    singles = Singles(port, names[:SINGLES])
    rest = await singles.until(asyncio.Event(), REST)
    ended = asyncio.Event()
    body = json.dumps({**command, "udids": names}).encode()
    async with asyncio.TaskGroup() as group:
        meanwhile = group.create_task(singles.until(ended))
        await asyncio.sleep(0.1)
        async with Connection("127.0.0.1", port, within=120) as connection:
            start, cpu = time.perf_counter(), cpu_seconds(service.pid)
            request = singles.api.request("POST", "/v1/commands?wait=100", body)
            answer = await connection.send(request)
            seconds = time.perf_counter() - start
            cpu = cpu_seconds(service.pid) - cpu
        ended.set()
    job = json.loads(answer.body)["job"]
    if answer.status != 201 or job["queued"] != len(names):
        raise SystemExit(f"a job: {answer.status} {answer.body[:500]!r}")
    at_rest, beside = p99(rest), p99(meanwhile.result())
    say(
        f"{command['request_type']:18} to {len(names)} devices in {seconds:5.2f} s "
        f"(target {target:g} s; CPU {cpu:.1f} s)"
    )
    say(
        f"  one command meanwhile, p99: at rest {at_rest * 1e3:.1f} ms, beside it "
        f"{beside * 1e3:.1f} ms, {beside / at_rest:.1f} times (target {TIMES_TARGET:g})"
    )


# --- history


class Device:
    """One device whose queue has a history."""

    def __init__(self, queue: MongoCommandQueue, name: str) -> None:
        self._queue = queue
        self._ids = SystemIds()
        self._key = EnrollmentKey(name, name, udid=name)

    def _entry(self, at: datetime) -> QueueEntry:
        command = encode_command(self._ids.new(), "ProfileList", {})
        return QueueEntry(
            enrollment=self._key.id,
            device=self._key.device,
            command_uuid=command.uuid,
            command_hash=command.hash,
            request_type=command.request_type,
            generation="generation",
            order=self._ids.new(),
            collapse_key="ProfileList:all",
            accepted_at=at,
        )

    def _reports(self, entries: list[QueueEntry]) -> list[Report]:
        done = EntryState.ACKNOWLEDGED
        return [Report(p.enrollment, p.command_uuid, "generation", done, "event") for p in entries]

    async def live_through(self, count: int) -> None:
        """So many commands, delivered and answered, over a month."""
        now = datetime.now(UTC)
        for start in range(0, count, 100):
            entries = [
                self._entry(now - timedelta(minutes=8 * number))
                for number in range(start, min(start + 100, count))
            ]
            await self._queue.insert(entries)
            claims = [SendClaim(entry, "generation") for entry in entries]
            await self._queue.mark_sent(claims, "connect", now)
            await self._queue.report(self._reports(entries), now)

    async def cycle(self) -> None:
        """A command is queued, sent, and answered."""
        now = datetime.now(UTC)
        entry = self._entry(now)
        await self._queue.insert([entry])
        await self._queue.supersede([entry])
        await self._queue.count_open(self._key)
        [found] = (await self._queue.open_of_devices([self._key.device]))[self._key.device]
        await self._queue.mark_sent([SendClaim(found, "generation")], "connect", now)
        await self._queue.report(self._reports([found]), now)
        if await self._queue.open_of_devices([self._key.device]):
            raise SystemExit("a command is left")


async def cost(work: Callable[[], Awaitable[None]]) -> float:
    """Seconds of CPU of one run."""
    start = time.process_time()
    for _ in range(CYCLES):
        await work()
    return (time.process_time() - start) / CYCLES


async def history() -> None:
    """The cost of a command beside a short and a long history of the same device, in turns, so that
    neighbours on the machine disturb both alike."""
    folder = tempfile.TemporaryDirectory(prefix="macromdm-bench-")
    database = open_database(Path(folder.name), SystemClock())
    try:
        await database.ensure(entry_documents.indexes(timedelta(days=30)))
        queue = MongoCommandQueue(database, AesKeyring([KEYRING]))
        devices = {SHORT: Device(queue, "short"), LONG: Device(queue, "long")}
        for count, device in devices.items():
            await device.live_through(count)
        times: dict[int, list[float]] = {count: [] for count in devices}
        for _ in range(ROUNDS):
            for count, device in devices.items():
                times[count].append(await cost(device.cycle))
        short, long = (min(times[count]) * 1e3 for count in (SHORT, LONG))
        say(
            f"a command queued, handed out and answered: {short:.2f} ms of CPU after {SHORT} commands, "
            f"{long:.2f} ms after {LONG}, ratio {long / short:.2f} (target {RATIO_TARGET:g})"
        )
    finally:
        await database.close()
        folder.cleanup()


async def measure(devices: int) -> None:
    names = [f"00008030-{number:016X}" for number in range(devices)]
    async with running(names) as service:
        remove: dict[str, object] = {
            "request_type": "RemoveProfile",
            "identifier": "com.example.wifi",
        }
        ask: dict[str, object] = {"request_type": "DeviceInformation", "queries": ["OSVersion"]}
        superseding = {**ask, "supersede": True}
        for command in (remove, ask, superseding, superseding):
            await fleet(service, names, command)
    await history()


def main(devices: int = 10_000) -> None:
    uvloop.run(measure(devices))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    main(parser.parse_args().devices)
