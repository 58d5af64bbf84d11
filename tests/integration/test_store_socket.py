"""The store of a folder, served to other processes by a socket in the folder."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import bson
import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.errors import StoreUnavailable
from shared.storage.remote import RemoteDatabase, StoreServer, is_served
from shared.storage.remote.frames import MOST
from shared.storage.remote.server import MOST_CLIENTS, _Client
from shared.storage.remote.socket_file import bound
from shared.storage.sqlite import SqliteDatabase, open_database

PATIENCE = 20.0
HEARTBEAT = timedelta(milliseconds=10)

# Comes as another user to a socket that its mode would let it reach.
STRANGER = """
import os, socket
os.setuid(65534)
link = socket.socket(socket.AF_UNIX)
link.connect("store.sock")
try:
    link.sendall(bytes.fromhex("{request}"))
    print(link.recv(100))
except ConnectionError:
    print(b"")
"""


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[SqliteDatabase, StoreServer]]:
    database = open_database(folder, SystemClock())
    server = StoreServer(database, folder, heartbeat=HEARTBEAT)
    await server.start()
    try:
        yield database, server
    finally:
        async with asyncio.timeout(PATIENCE):
            await server.close()
        await database.close()


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    async with served(tmp_path):
        yield tmp_path


def frame(message: object) -> bytes:
    body = bson.encode(message)
    return struct.pack(">I", len(body)) + body


def asking(op: str, collection: str = "things", **args: object) -> bytes:
    return frame({"op": op, "collection": collection, "args": args})


async def link_to(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(folder / "store.sock")


async def answers(folder: Path, sent: bytes) -> list[dict[str, object]]:
    """All that is answered to some bytes, until the connection ends."""
    reader, writer = await link_to(folder)
    writer.write(sent)
    found = []
    async with asyncio.timeout(PATIENCE):
        with suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                found.append(bson.decode(await reader.readexactly(length)))
    writer.close()
    return found


# --- the file


async def test_only_its_owner_can_reach_the_socket_and_it_leaves_with_the_server(tmp_path: Path):
    before = os.umask(0)
    try:
        async with served(tmp_path):
            mode = (tmp_path / "store.sock").stat().st_mode & 0o777
            answered = await is_served(tmp_path)
    finally:
        os.umask(before)

    assert mode == 0o600
    assert answered
    assert not (tmp_path / "store.sock").exists()
    assert not await is_served(tmp_path)


async def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "store.sock"))
    left.close()
    assert not await is_served(tmp_path)

    async with served(tmp_path):
        assert await is_served(tmp_path)


async def test_a_process_that_listens_and_says_nothing_does_not_serve(tmp_path: Path):
    with bound(tmp_path):
        assert not await is_served(tmp_path)


async def test_the_path_of_a_folder_may_be_longer_than_an_address_of_a_socket(tmp_path: Path):
    long = tmp_path / ("long" * 20) / ("longer" * 20)

    async with served(long):
        await RemoteDatabase(long).collection("things").insert_one({"_id": 1})
        found = await RemoteDatabase(long).collection("things").find({})

    assert found == [{"_id": 1}]
    assert not (long / "store.sock").exists()


async def test_a_store_is_served_without_a_socket_where_none_can_be(tmp_path: Path):
    (tmp_path / "store.sock").mkdir()

    async with served(tmp_path) as (database, _):
        assert await database.collection("things").insert_one({"_id": 1})


# --- who is answered, and what


@pytest.mark.skipif(os.getuid() != 0, reason="only root can come as another user")
async def test_another_user_is_not_answered_though_it_gets_through(folder: Path):
    (folder / "store.sock").chmod(0o666)
    folder.chmod(0o755)
    program = STRANGER.format(request=asking("names").hex())

    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        check=False,
    )

    assert (done.stdout.strip(), done.stderr) == (b"b''", b"")
    assert (await answers(folder, asking("names")))[-1] == {"result": []}


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">I", MOST + 1),
        struct.pack(">I", 5) + b"xxxxx",
        struct.pack(">I", 0),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        frame({}),
        frame({"op": 1}),
        frame({"op": "names", "args": 7}),
        asking("close"),
        asking("watch"),
        asking("__init__"),
        asking("find"),
        asking("find", "_indexes", query={}, fields=None, options={}),
        asking("find", query={"$where": "1"}, fields=None, options={}),
        asking("find", query={}, fields=None, options={"sort": 7}),
        asking("insert_many", documents=[b"no document"]),
        asking("bulk_write", operations=[1]),
        asking("ensure", indexes=["x"]),
        asking("backup", file=b"x"),
    ],
    ids=lambda sent: repr(bytes(sent[:40])),
)
async def test_what_is_no_request_gets_an_error_and_the_next_client_an_answer(
    folder: Path, sent: bytes
):
    refused = await answers(folder, sent)

    assert "error" in refused[-1]
    assert (await answers(folder, asking("names")))[-1] == {"result": []}


async def test_what_only_mongodb_can_do_is_told_as_such(folder: Path):
    things = RemoteDatabase(folder).collection("things")

    with pytest.raises(NotImplementedError, match=r"\$or"):
        await things.find({"$or": []})


# --- much, many, and long


async def test_large_documents_and_many_come_back_as_they_were(folder: Path):
    things = RemoteDatabase(folder).collection("things")
    large = [{"_id": number, "value": bytes([number]) * 15_000_000} for number in range(4)]
    small = [{"_id": number} for number in range(100, 5_100)]

    assert await things.insert_many(large + small) == set()

    assert await things.find({}, sort=[("_id", 1)]) == large + small
    scanned = [found async for batch in things.scan({}) for found in batch]
    assert sorted(found["_id"] for found in scanned) == [each["_id"] for each in large + small]
    assert await things.insert_many(small) == set(range(5_000))


async def test_clients_at_once_are_all_answered(folder: Path):
    things = RemoteDatabase(folder).collection("things")
    numbers = range(MOST_CLIENTS - 10)

    await asyncio.gather(*(things.insert_one({"_id": number}) for number in numbers))

    assert sorted([each["_id"] for each in await things.find({})]) == list(numbers)


async def test_more_clients_than_are_served_are_told_so_and_come_in_later(folder: Path):
    links = [await link_to(folder) for _ in range(MOST_CLIENTS)]

    with pytest.raises(StoreUnavailable, match="too many commands"):
        await RemoteDatabase(folder).ping()

    for _, writer in links:
        writer.close()
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(StoreUnavailable):
                assert await RemoteDatabase(folder).names() == []
                return


async def test_a_client_that_leaves_in_the_middle_costs_nothing(folder: Path):
    things = RemoteDatabase(folder).collection("things")
    await things.insert_many([{"_id": n, "value": b"x" * 100_000} for n in range(200)])

    for number in range(2 * MOST_CLIENTS):
        reader, writer = await link_to(folder)
        writer.write(asking("scan", query={}, fields=None, batch=100))
        if number % 2:
            await reader.readexactly(10)
        writer.transport.abort()

    assert len(await things.find({})) == 200


async def test_work_that_is_long_is_heard_of_meanwhile(tmp_path: Path):
    class Slow(RemoteDatabase):
        async def names(self) -> list[str]:
            await asyncio.sleep(0.2)
            return ["things"]

    server = StoreServer(Slow(tmp_path), tmp_path, heartbeat=HEARTBEAT)
    await server.start()

    found = await answers(tmp_path, asking("names"))

    await server.close()
    assert found[0] == {"progress": ""}
    assert found[-1] == {"result": ["things"]}


# --- the end of the server


async def test_a_server_that_ends_tells_whoever_waits_and_waits_for_nobody(tmp_path: Path):
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with served(tmp_path) as (database, server):
        things = database.collection("things")
        await things.insert_many([{"_id": n, "value": b"x" * 500_000} for n in range(60)])
        silent = await link_to(tmp_path)
        batches = RemoteDatabase(tmp_path).collection("things").scan({}, batch=1)
        await anext(batches)

        async with asyncio.timeout(PATIENCE):
            await server.close()

        with pytest.raises(StoreUnavailable, match="ended meanwhile"):
            _ = [found async for found in batches]
        with pytest.raises(StoreUnavailable, match="nobody answers"):
            await RemoteDatabase(tmp_path).ping()
        silent[1].close()
    assert not faults


async def test_a_server_that_ends_just_when_work_is_done_is_not_held_up(tmp_path: Path):
    async with served(tmp_path):
        reader, writer = await link_to(tmp_path)
        work: asyncio.Task[dict[str, object]] = asyncio.create_task(asyncio.sleep(0, {}))
        await work
        waiting = asyncio.create_task(_Client(reader, writer).until_gone_or(work, HEARTBEAT))
        await asyncio.sleep(0)  # until it gives up to look whether the client is gone

        waiting.cancel()
        await asyncio.wait({waiting})
        writer.close()

    assert waiting.cancelled()
