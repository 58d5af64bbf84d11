"""What strangers can hold of a process with requests that do not end, over raw sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.integration.server_process import (
    AUTH,
    PATIENCE,
    Running,
    answer,
    connected,
    get,
    running,
)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def busy_server() -> Iterator[Running]:
    """It works on five requests at once, and trusts the proxy at 127.0.0.1."""
    with running("when_ready", "few_under_way") as found:
        yield found


@pytest.fixture
def poor_server() -> Iterator[Running]:
    """It holds 300,000 bytes of bodies, of 100,000 at most each, and trusts the proxy at 127.0.0.1."""
    with running("when_ready", "small_budget") as found:
        yield found


def beginning(address: str, length: int) -> bytes:
    head = (
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\nx-forwarded-for: %s\r\ncontent-length: %d\r\n\r\n"
    )
    return head % (address.encode(), length)


@asynccontextmanager
async def many(port: int, count: int) -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connected(port)) for _ in range(count)]


async def test_requests_whose_bodies_do_not_come_keep_nobody_from_being_served(
    busy_server: Running,
):
    async with many(busy_server.http, 50) as waiting:
        for _, writer in waiting:
            writer.write(beginning("10.0.0.1", 9))
        await asyncio.sleep(0.2)
        assert (await get(busy_server.http, "/version"))[0] == 200

        for _, writer in waiting:  # those who go on are served after all
            writer.write(b"x" * 9)
        assert [await answer(reader) for reader, _ in waiting] == [(200, b"9")] * 50


async def test_chunks_that_do_not_come_keep_nobody_from_being_served(busy_server: Running):
    head = b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
    async with many(busy_server.http, 50) as waiting:
        for _, writer in waiting:
            writer.write(head)
        await asyncio.sleep(0.2)

        assert (await get(busy_server.http, "/version"))[0] == 200


async def test_a_request_that_is_worked_on_counts_though_its_body_does_not_come(
    busy_server: Running,
):
    slow = b"GET /v1/slow?seconds=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n" + AUTH + b"\r\n"
    async with many(busy_server.http, 5) as waiting:
        for _, writer in waiting:
            writer.write(slow)
        await asyncio.sleep(0.2)

        assert (await get(busy_server.http, "/version"))[0] == 503


async def test_a_body_that_comes_when_too_much_is_worked_on_is_503(busy_server: Running):
    slow = b"GET /v1/slow?seconds=1 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n"
    async with many(busy_server.http, 6) as [(reader, late), *working]:
        late.write(beginning("10.0.0.1", 9))
        await asyncio.sleep(0.1)
        for _, writer in working:
            writer.write(slow)
        await asyncio.sleep(0.2)
        late.write(b"x" * 9)

        assert await answer(reader) == (503, b"")
        assert [(await answer(each))[0] for each, _ in working] == [200] * 5


async def test_bodies_of_the_largest_share_give_way_to_those_of_others(poor_server: Running):
    async with many(poor_server.http, 3) as large, connected(poor_server.http) as (reader, writer):
        for _, each in large:
            each.write(beginning("10.0.0.1", 100_000) + b"x" * 99_999)
        await asyncio.sleep(0.3)
        writer.write(beginning("10.0.0.2", 5_000) + b"x" * 5_000)
        assert await answer(reader) == (200, b"5000")

        newest = large[2][0]
        head = await newest.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: " in head
        for older, each in large[:2]:
            each.write(b"x")
            assert await answer(older) == (200, b"100000")


async def test_only_the_largest_share_is_refused_while_room_is_short(poor_server: Running):
    async with many(poor_server.http, 3) as large:
        for _, each in large:
            each.write(beginning("10.0.0.1", 100_000) + b"x" * 99_000)
        await asyncio.sleep(0.3)

        answers = []
        for address in ("10.0.0.1", "10.0.0.2", "2001:db8::1", "10.0.0.1"):
            async with connected(poor_server.http) as (reader, writer):
                writer.write(beginning(address, 4_000) + b"x" * 4_000)
                answers.append((await answer(reader))[0])

    # The first of the others takes the room of one whole body, which leaves enough for all.
    assert answers == [503, 200, 200, 200]


async def test_a_client_hears_of_a_body_for_which_there_is_no_room_as_of_any_error(
    poor_server: Running,
):
    request = beginning("10.0.0.1", 100_000).replace(
        b"PUT /mdm/connect", b"POST /v1/late?seconds=0"
    )
    request = request.replace(b"\r\n\r\n", b"\r\n" + AUTH + b"\r\n") + b"x" * 99_000
    async with many(poor_server.http, 4) as large:
        for _, writer in large:
            writer.write(request)
            await asyncio.sleep(0.1)
        code, body = await answer(large[3][0])

    assert code == 503
    assert json.loads(body)["type"] == "urn:macromdm:problem:unavailable"


async def test_room_comes_back_when_clients_go_away(poor_server: Running):
    for _ in range(5):
        async with many(poor_server.http, 3) as large:
            for _, each in large:
                each.write(beginning("10.0.0.1", 100_000) + b"x" * 99_000)
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.1)

    gauge = b"macromdm_request_body_bytes 0.0"
    assert gauge in (await get(poor_server.ops, "/metrics"))[1]


# --- connections --------------------------------------------------------------------------------


@asynccontextmanager
async def connections_from(address: str, port: int, count: int) -> AsyncIterator[list[Connection]]:
    made = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        for _ in range(count)
    ]
    try:
        async with asyncio.timeout(PATIENCE):
            yield made
    finally:
        for _, writer in made:
            writer.close()


@pytest.fixture
def small_server() -> Iterator[Running]:
    """It holds twenty connections."""
    with running("when_ready", "few_connections") as found:
        yield found


VERSION = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /ver", beginning("10.0.0.1", 9), VERSION],
    ids=["nothing", "headers", "body", "answered"],
)
async def test_connections_of_one_address_keep_no_other_out(small_server: Running, begun: bytes):
    async with connections_from("127.0.0.1", small_server.http, 60) as crowd:
        for _, writer in crowd:
            writer.write(begun)
        if begun == VERSION:
            await answer(crowd[-1][0])
        async with connections_from("127.0.0.2", small_server.http, 3) as others:
            for reader, writer in others:
                for _ in range(2):
                    writer.write(VERSION)
                    assert (await answer(reader))[0] == 200


async def test_the_newest_connections_of_a_crowd_are_those_that_are_served(small_server: Running):
    async with connections_from("127.0.0.1", small_server.http, 60) as crowd:
        reader, writer = crowd[-1]
        writer.write(VERSION)
        assert (await answer(reader))[0] == 200

        assert await crowd[0][0].read() == b""


async def test_a_request_that_is_worked_on_is_not_cut_off_by_a_crowd(small_server: Running):
    slow = b"GET /v1/slow?seconds=0.5 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n"
    async with connections_from("127.0.0.1", small_server.http, 1) as [(reader, writer)]:
        writer.write(slow)
        await asyncio.sleep(0.1)
        async with connections_from("127.0.0.1", small_server.http, 60):
            assert (await answer(reader))[0] == 200


async def test_connections_that_end_make_room(small_server: Running):
    for _ in range(3):
        async with connections_from("127.0.0.1", small_server.http, 20) as crowd:
            for reader, writer in crowd:
                writer.write(VERSION)
                assert (await answer(reader))[0] == 200
        await asyncio.sleep(0.1)
