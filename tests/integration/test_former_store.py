"""The former store runs for as long as it is read, keeps what it has, and says why it cannot start."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.domain.errors import Misconfigured
from shared.storage.maintenance.former import former_store
from shared.storage.mongo import Mongo

# A process of its own: it writes for ever, and says of each write that it was acknowledged.
WRITER = """
import sys, uvloop
from pathlib import Path
from shared.storage.maintenance.former import former_store
from shared.storage.mongo import Mongo

async def main():
    async with former_store(Path(sys.argv[1])) as url:
        mongo = Mongo(url)
        number = 0
        while True:
            await mongo.collection("kept").insert_many([{"_id": number + n} for n in range(32)])
            number += 32
            print(number, flush=True)

uvloop.run(main())
"""


def stores(folder: Path) -> list[int]:
    """The processes of SecantusDB on a folder that run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder).encode() in arguments and b"--storage-path" in arguments and state != "Z":
            found.append(int(process.name))
    return found


async def until_gone(folder: Path) -> None:
    async with asyncio.timeout(20):
        while stores(folder):
            await asyncio.sleep(0.02)


async def kept(url: str) -> set[int]:
    mongo = Mongo(url)
    try:
        return {document["_id"] for document in await mongo.collection("kept").find({})}
    finally:
        await mongo.close()


async def test_it_answers_until_the_context_ends_and_keeps_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    async with former_store(folder) as url:
        mongo = Mongo(url)
        await mongo.collection("kept").insert_one({"_id": 1})
        await mongo.close()
        assert len(stores(folder)) == 1

    assert stores(folder) == []
    async with former_store(folder) as url:
        assert await kept(url) == {1}


async def test_it_ends_with_us_at_kill_9_and_has_what_it_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = 0
    while acknowledged < 1_000:
        acknowledged = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.strip())])
    writer.wait()
    writer.stdout.close()

    await until_gone(folder)

    async with former_store(folder) as url:
        assert set(range(acknowledged)) <= await kept(url)


async def test_a_signal_to_our_process_group_does_not_reach_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    async with former_store(folder):
        [pid] = stores(folder)

        assert os.getpgid(pid) != os.getpgrp()


async def test_a_folder_in_use_is_one_clear_error_and_leaves_the_first_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    async with former_store(folder) as url:
        with pytest.raises(Misconfigured, match="in use by another process"):
            async with former_store(folder):
                pass

        assert await kept(url) == set()
        assert len(stores(folder)) == 1


async def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Misconfigured, match=r"does not start on .*file"):
        async with former_store(tmp_path / "file" / "store"):
            pass


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "store"

    async def start() -> None:
        async with former_store(folder):
            await asyncio.sleep(3600)

    starting = asyncio.create_task(start())
    while not folder.exists():
        await asyncio.sleep(0.01)

    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)

    assert stores(folder) == []
