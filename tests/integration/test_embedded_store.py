"""The embedded store keeps what it acknowledged, ends with us, and says why it cannot start."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.storage.embedded import ADDRESS_FILE, EmbeddedStore, running_url
from shared.storage.mongo import Mongo

# A server of its own process: it writes for ever, and says of each write that it was acknowledged.
WRITER = """
import sys, uvloop
from pathlib import Path
from shared.storage.embedded import EmbeddedStore
from shared.storage.mongo import Mongo

async def main():
    store = EmbeddedStore(Path(sys.argv[1]))
    mongo = Mongo(await store.start())
    number = 0
    while True:
        batch = list(range(number, number + 32))
        await mongo.collection("kept").insert_many([{"_id": n} for n in batch])
        number += 32
        print(number, flush=True)

uvloop.run(main())
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(tmp_path)
    yield store
    await store.stop()


def is_running(pid: int) -> bool:
    """False for a process that is gone, or dead and not yet collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def store_pid(data_dir: Path) -> int:
    return int((data_dir / ADDRESS_FILE).read_text().split()[1])


async def test_a_started_store_answers_and_its_address_is_found(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    url = await store.start()

    mongo = Mongo(url)
    await mongo.ping()
    await mongo.close()
    assert running_url(tmp_path) == url
    assert (tmp_path / ADDRESS_FILE).stat().st_mode & 0o777 == 0o600


async def test_a_stopped_store_has_no_address_and_no_process(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    await store.start()
    pid = store_pid(tmp_path)

    await store.stop()

    assert running_url(tmp_path) is None
    assert not is_running(pid)


def test_an_address_left_by_a_dead_store_is_not_found(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / ADDRESS_FILE).write_text(f"mongodb://127.0.0.1:1/macromdm\n{dead.pid}\n")

    assert running_url(tmp_path) is None


async def test_acknowledged_writes_survive_kill_9_and_the_store_starts_again_at_once(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    while acknowledged < 1_000:
        acknowledged = int(writer.stdout.readline())
    pid = store_pid(tmp_path)
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.strip())])

    mongo = Mongo(await store.start())

    kept = {d["_id"] for d in await mongo.collection("kept").find({})}
    await mongo.close()
    writer.wait()
    writer.stdout.close()
    assert set(range(acknowledged)) <= kept
    assert not is_running(pid)


async def test_the_store_is_in_another_process_group(store: EmbeddedStore, tmp_path: Path) -> None:
    await store.start()

    assert os.getpgid(store_pid(tmp_path)) != os.getpgrp()


async def test_a_store_that_dies_makes_watch_raise(store: EmbeddedStore, tmp_path: Path) -> None:
    await store.start()
    watching = asyncio.create_task(store.watch())

    os.kill(store_pid(tmp_path), signal.SIGKILL)

    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable, match=r"ended by itself.*store\.log"):
            await watching


async def test_watch_returns_quietly_when_the_store_is_stopped(store: EmbeddedStore) -> None:
    await store.start()
    watching = asyncio.create_task(store.watch())
    await asyncio.sleep(0)

    await store.stop()

    async with asyncio.timeout(5):
        await watching


async def test_a_folder_in_use_is_one_clear_error_and_leaves_the_first_alone(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    url = await store.start()
    second = EmbeddedStore(tmp_path, start_deadline=timedelta(seconds=5))

    with pytest.raises(Misconfigured, match="in use by another process"):
        await second.start()

    assert running_url(tmp_path) == url


async def test_a_folder_let_go_within_the_deadline_is_waited_for(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    await store.start()
    second = EmbeddedStore(tmp_path)
    starting = asyncio.create_task(second.start())
    first_pid = store_pid(tmp_path)

    os.kill(first_pid, signal.SIGKILL)
    url = await starting

    try:
        assert running_url(tmp_path) == url
    finally:
        await second.stop()


async def test_a_folder_that_cannot_be_made_is_a_setting_that_cannot_be_used(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    store = EmbeddedStore(tmp_path / "file" / "data")

    with pytest.raises(Misconfigured, match="MDM_DATA_DIR"):
        await store.start()


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    starting = asyncio.create_task(store.start())
    while not (tmp_path / "store").exists():
        await asyncio.sleep(0.01)

    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)

    again = EmbeddedStore(tmp_path)
    await again.start()
    await again.stop()
