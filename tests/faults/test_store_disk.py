"""The embedded store on a disk that is full or read-only: 503 meanwhile, nothing lost, no restart (F10)."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import httpx
import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.sqlite import FILE, open_database
from tests.faults.ledger import Ledger
from tests.integration.whole import TOPIC, Whole, whole_server
from tests.support.harness.device import SimulatedDevice
from tests.support.harness.disks import Disk, Ext4

DEVICES = 6
SOON = 1.0


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk", megabytes=24)
    yield disk
    disk.close()


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Ext4]:
    disk = Ext4(tmp_path / "disk", megabytes=48)
    yield disk
    disk.close()


async def test_a_full_disk_refuses_writes_soon_answers_reads_and_is_used_again_when_it_is_not(
    tmpfs: Disk,
) -> None:
    database = open_database(tmpfs.folder, SystemClock())
    things = database.collection("things")
    assert await things.insert_one({"_id": "first"})
    tmpfs.fill()
    kept: list[str] = []
    refused = 0

    begun = perf_counter()
    for number in range(40):  # what is free inside the files is used up on the way
        try:
            await things.insert_one({"_id": f"{number}", "body": b"." * 100_000})
        except StoreUnavailable:
            refused += 1
        else:
            kept.append(f"{number}")
    took = perf_counter() - begun
    with pytest.raises(StoreUnavailable):
        await database.ping()
    assert await things.find_one({"_id": "first"}) == {"_id": "first"}
    tmpfs.free()
    await database.ping()
    await things.insert_many([{"_id": f"after-{n}", "body": b"." * 100_000} for n in range(20)])
    await database.close()

    assert refused > 20
    assert took < SOON
    again = open_database(tmpfs.folder, SystemClock())
    found = {each["_id"] for each in await again.collection("things").find({}, {"_id": 1})}
    assert found == {"first", *kept, *(f"after-{n}" for n in range(20))}
    await again.close()


async def test_a_full_disk_is_named_at_start_and_leaves_no_half_of_a_store(tmpfs: Disk) -> None:
    for name in ("new", "used"):
        (tmpfs.folder / name).mkdir()
    database = open_database(tmpfs.folder / "used", SystemClock())
    await database.collection("things").insert_one({"_id": "first"})
    await database.close()
    tmpfs.fill()

    for name in ("new", "used"):
        with pytest.raises(Misconfigured, match=f"^MDM_DATA_DIR: .*/{name}/store.db"):
            open_database(tmpfs.folder / name, SystemClock())
    assert not (tmpfs.folder / "new" / FILE).exists()

    tmpfs.free()
    for name in ("new", "used"):
        database = open_database(tmpfs.folder / name, SystemClock())
        assert len(await database.collection("things").find({})) == (name == "used")
        await database.close()


@asynccontextmanager
async def under_load(whole: Whole) -> AsyncIterator[Ledger]:
    """A fleet that is busy; afterwards nothing that was acknowledged is missing."""
    devices = [
        SimulatedDevice(whole.authority.issue(), topic=TOPIC, counts=True) for _ in range(DEVICES)
    ]
    port = whole.process.port
    ledger = Ledger(devices, {"checkin": [port], "commands": [port]}, whole.sink)
    await ledger.enroll()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ledger.run())
        await asyncio.sleep(0.5)
        yield ledger
        await asyncio.sleep(0.5)
        ledger.stop()
    await ledger.settle()
    ledger.close()
    ledger.check()
    print(ledger.figures)


async def probe(whole: Whole) -> httpx.Response:
    """A first message of a new device, numbered as the ledger wants it."""
    return await whole.device().authenticate(Sequence=1)


async def ready(whole: Whole, status: int) -> httpx.Response:
    """The answer of /readyz, once it has that status."""
    async with asyncio.timeout(20):
        while True:
            answer = await whole.http.get(f"{whole.process.ops_url}/readyz")
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.05)


async def metrics(whole: Whole) -> str:
    return (await whole.http.get(f"{whole.process.ops_url}/metrics")).text


async def assert_refuses(whole: Whole, ledger: Ledger) -> None:
    """What clients and operators hear while nothing can be written."""
    answer = await probe(whole)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.elapsed.total_seconds() < SOON
    udid = ledger.devices[0].device.udid
    assert (await whole.api("GET", f"/v1/commands/{udid}")).status_code == 200
    async with asyncio.timeout(20):
        while "macromdm_store_up 0.0" not in await metrics(whole):
            await asyncio.sleep(0.05)
    await ready(whole, 200)  # or a proxy would answer in our stead


async def assert_serves(whole: Whole) -> None:
    await ready(whole, 200)
    assert (await probe(whole)).status_code == 200


async def until_refused(whole: Whole) -> None:
    async with asyncio.timeout(20):
        while (await probe(whole)).status_code != 503:
            await asyncio.sleep(0)


async def until_refused_or_ended(whole: Whole) -> None:
    """A disk that turned read-only refuses a write, or first fails to sync one, which ends the process."""
    try:
        await until_refused(whole)
    except httpx.TransportError:
        async with asyncio.timeout(10):
            while whole.process.is_running:
                await asyncio.sleep(0.05)
        assert whole.process.exit_code == 1
        assert "the disk did not keep what was written" in whole.process.output()


async def test_a_server_whose_disk_is_full_says_so_and_serves_again_without_a_restart(
    tmp_path: Path, tmpfs: Disk
) -> None:
    async with whole_server(tmp_path, {"MDM_DATA_DIR": str(tmpfs.folder / "data")}) as whole:
        async with under_load(whole) as ledger:
            tmpfs.fill()
            await until_refused(whole)
            await assert_refuses(whole, ledger)
            tmpfs.free()
            await assert_serves(whole)
        assert await asyncio.to_thread(whole.process.terminate) == 0
    assert_sound(tmpfs.folder / "data" / FILE)


async def test_a_server_outlives_refused_writes_and_nothing_is_lost_when_its_disk_becomes_read_only(
    tmp_path: Path, ext4: Ext4
) -> None:
    log = ext4.folder / "data" / f"{FILE}-wal"
    async with whole_server(tmp_path, {"MDM_DATA_DIR": str(ext4.folder / "data")}) as whole:
        async with under_load(whole) as ledger:
            ext4.refuse(log)
            await until_refused(whole)
            await assert_refuses(whole, ledger)
            ext4.accept(log)
            await assert_serves(whole)

            ext4.turn_read_only()
            await until_refused_or_ended(whole)
            await asyncio.to_thread(whole.process.kill)
            ext4.attach_anew()
            await asyncio.to_thread(whole.process.start)
        await assert_serves(whole)
        assert await asyncio.to_thread(whole.process.terminate) == 0
    assert_sound(ext4.folder / "data" / FILE)


def assert_sound(file: Path) -> None:
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
