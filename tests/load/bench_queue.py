"""What a connect costs beside a long queue, and on it: one device of 64 with 1, 1,000 and 10,000 commands.

CPU of the whole process and time of one request, on the embedded store: of all 64 devices by turns, and of
the one device alone. The commands before the last one rest, begin later, are of another generation, are due,
or have moved back.
Figures, no verdicts; the target stands beside them. `make bench ARGS=--queue`.
"""

import asyncio
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop

from shared.concurrency.clock import SystemClock, SystemIds
from shared.domain.command import Command, EntryState, QueueEntry
from shared.security.encryption import AesKeyring
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.queue import documents as entry_documents
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.sqlite import open_database
from tests.load.bench_fleet import KEYRING
from tests.load.scenarios import Address, expect, say, spread
from tests.support.harness.device import SimulatedDevice
from tests.support.harness.http1 import Connection
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.system import SECRET_KEY, ServiceProcess, cpu_seconds

LENGTHS = (1, 1_000, 10_000)
DEVICES = 64
REQUESTS, ALONE = 3_200, 400
TARGET = 1.2
LATER = datetime.now(UTC) + timedelta(days=7)
CROWDS: dict[str, dict[str, Any]] = {
    "rest": {"state": EntryState.NOT_NOW},
    "begin later": {"not_before": LATER},
    "of another generation": {"generation": "another"},
    "due": {},
    "moved back": {"state": EntryState.SENT, "moved": datetime.now(UTC)},
}


async def send(connection: Connection, request: bytes) -> int:
    expect(await connection.send(request), 200)
    return 1


class Bench:
    """A fleet, its folder, and the services on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = FleetAuthority()
        self._devices = [SimulatedDevice(self._authority.issue()) for _ in range(DEVICES)]
        (folder / "ca.pem").write_bytes(self._authority.pem)

    async def served(self, requests: list[list[bytes]]) -> list[tuple[float, float]]:
        """CPU and time of one request of each list, in milliseconds."""
        settings = {"MDM_SECRET_KEY": SECRET_KEY, "MDM_DEVICE_CA": str(self._folder / "ca.pem")}
        service = ServiceProcess("all", self._folder, settings)
        try:
            await asyncio.to_thread(service.start)
            found = []
            for each in requests:
                cpu, start = cpu_seconds(service.pid), time.perf_counter()
                done = await spread(each, send, Address(service.port))
                used = cpu_seconds(service.pid) - cpu, time.perf_counter() - start
                found.append((used[0] / done * 1000, used[1] / done * 1000))
            service.terminate()
            return found
        finally:
            service.close()

    async def enroll(self) -> None:
        await self.served(
            [[d.authenticate() for d in self._devices], [d.token_update() for d in self._devices]]
        )

    async def fill(self, length: int, crowd: dict[str, Any]) -> None:
        """The queue of the first device, and nothing else."""
        database = open_database(self._folder / "data", SystemClock())
        try:
            keyring, ids, now = AesKeyring([KEYRING]), SystemIds(), datetime.now(UTC)
            await database.ensure(entry_documents.indexes(timedelta(days=30)))
            await database.collection(entry_documents.NAME).delete_many({})
            queue, udid = MongoCommandQueue(database, keyring), self._devices[0].udid
            [device] = (await MongoEnrollments(database, keyring).load({udid})).values()
            made = Command("c" * 64, "c", "DeviceInformation", b"<plist/>")
            await queue.store([made], now)
            last = QueueEntry(
                udid, udid, "last", made.hash, made.request_type, device.generation, "z",
                handed_by="earlier", accepted_at=now,
            )  # fmt: skip
            crowded = [
                replace(last, command_uuid=f"c-{n}", order=ids.new(), **crowd)
                for n in range(length - 1)
            ]
            await queue.insert([*crowded, last])
            if "moved" in crowd:  # which an entry that is queued never has
                await database.collection(entry_documents.NAME).update_many(
                    {"state": EntryState.SENT.value}, {"$set": {"moved": crowd["moved"]}}
                )
        finally:
            await database.close()

    async def measure(self, length: int, crowd: dict[str, Any]) -> list[tuple[float, float]]:
        await self.fill(length, crowd)
        # Not idle: what rests is passed over then.
        idles = [device.report("unknown") for device in self._devices]
        warm = idles * 4
        fleet = (idles * (REQUESTS // DEVICES + 1))[:REQUESTS]
        return (await self.served([warm, fleet, idles[:1] * ALONE]))[1:]


async def measure() -> None:
    with tempfile.TemporaryDirectory(prefix="macromdm-bench-") as folder:
        bench = Bench(Path(folder))
        await bench.enroll()
        for name, crowd in CROWDS.items():
            first: list[tuple[float, float]] = []
            for length in LENGTHS:
                found = await bench.measure(length, crowd)
                first = first or found
                for whose, (cpu, took), (cpu_1, _) in zip(
                    ("64 devices", "it alone"), found, first, strict=True
                ):
                    say(
                        f"{length:6} commands that are {name:22} {whose:10}: CPU {cpu:5.2f} ms, "
                        f"{cpu / cpu_1:4.2f} times (target {TARGET}); {took:5.2f} ms a request"
                    )


def main() -> None:
    uvloop.run(measure())


if __name__ == "__main__":
    main()
