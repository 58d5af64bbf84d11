"""Bounds of HTTP connections, over raw sockets: bodies, headers, deadlines, smuggling."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.integration.server_process import (
    AUTH,
    PATIENCE,
    Running,
    answer,
    connected,
    get,
    running,
    said,
    status,
)
from tests.integration.tiny_program import LARGE


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("when_ready") as found:
        yield found


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[Running]:
    """Its deadlines are short: half a second for headers and bodies."""
    with running("when_ready", "short_deadlines") as found:
        yield found


# --- bodies -------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_by_its_length_is_413_for_a_device(server: Running):
    async with connected(server.http) as (reader, writer):
        writer.write(b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 100001\r\n\r\n")

        assert await answer(reader) == (413, b"")


async def test_a_body_over_the_limit_by_its_chunks_is_413_for_a_device(server: Running):
    chunk = b"c350\r\n" + b"x" * 50_000 + b"\r\n"
    async with connected(server.http) as (reader, writer):
        writer.write(b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(chunk * 3)

        assert await answer(reader) == (413, b"")


async def test_a_parsed_body_over_the_limit_by_its_chunks_is_413_for_a_client(server: Running):
    chunk = b"c350\r\n" + b" " * 50_000 + b"\r\n"
    async with connected(server.http) as (reader, writer):
        writer.write(b"POST /v1/parsed HTTP/1.1\r\nhost: x\r\n" + AUTH)
        writer.write(b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(chunk * 3)

        code, body = await answer(reader)

    assert code == 413
    assert json.loads(body)["error"]


async def test_a_body_within_the_limit_is_read_whole(server: Running):
    body = b"x" * 100_000
    async with connected(server.http) as (reader, writer):
        writer.write(b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        writer.write(body)

        assert await answer(reader) == (200, b"100000")


async def test_a_connection_serves_request_after_request(server: Running):
    request = b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
    async with connected(server.http) as (reader, writer):
        for _ in range(3):
            writer.write(request)
            assert await answer(reader) == (200, b"3")


# --- headers and deadlines ------------------------------------------------------------------------


async def test_a_header_of_a_megabyte_is_431(server: Running):
    huge = b"GET /version HTTP/1.1\r\nhost: x\r\nmdm-signature: " + b"A" * 1_000_000 + b"\r\n\r\n"

    assert status(await said(server.http, huge)) == 431


async def test_a_thousand_headers_over_the_limit_are_431(server: Running):
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"A" * 200) for number in range(1000))

    raw = await said(server.http, b"GET /version HTTP/1.1\r\nhost: x\r\n" + lines + b"\r\n")

    assert status(raw) == 431


async def test_a_header_within_the_limit_is_taken(server: Running):
    request = b"GET /version HTTP/1.1\r\nhost: x\r\nmdm-signature: " + b"A" * 100_000 + b"\r\n\r\n"
    async with connected(server.http) as (reader, writer):
        writer.write(request)

        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"\r\n",
        b"GET /version HTTP/1.1\r\nhost:",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
    ],
    ids=["nothing", "empty line", "headers", "body", "chunk"],
)
async def test_a_client_that_does_not_go_on_is_closed_by_deadline(
    hasty_server: Running, beginning: bytes
):
    raw = await said(hasty_server.http, beginning)

    assert status(raw) == 408
    assert (await get(hasty_server.http, "/version"))[0] == 200


async def test_trickling_bytes_do_not_move_the_deadline(hasty_server: Running):
    async with connected(hasty_server.http) as (reader, writer):
        writer.write(b"GET /version HTTP/1.1\r\n")
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"x: y\r\n")
            await asyncio.wait({ended}, timeout=0.05)

    assert status(ended.result()) == 408


async def test_an_unread_body_that_trickles_is_closed_by_deadline(hasty_server: Running):
    async with connected(hasty_server.http) as (reader, writer):
        writer.write(b"PUT /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n")
        assert (await answer(reader))[0] == 404
        writer.write(b"x")

        assert await reader.read() == b""  # one request, one answer


async def test_a_body_that_comes_too_slowly_is_408_long_before_its_deadline():
    with running("when_ready", "short_checks") as server:
        async with connected(server.http) as (reader, writer):
            writer.write(b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n\r\n")
            ended = asyncio.ensure_future(reader.read())
            while not ended.done():
                writer.write(b"x")
                await asyncio.wait({ended}, timeout=0.05)

    assert status(ended.result()) == 408


async def test_a_slow_body_that_comes_fast_enough_is_taken_whole():
    with running("when_ready", "short_checks") as server:
        async with connected(server.http) as (reader, writer):
            writer.write(b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
            for _ in range(20):
                writer.write(b"x" * 5000)
                await asyncio.sleep(0.075)

            assert await answer(reader) == (200, b"100000")


async def test_a_body_that_waits_for_us_is_not_too_slow():
    request = b"POST /v1/late?seconds=1.2 HTTP/1.1\r\nhost: x\r\ncontent-length: 90000\r\n" + AUTH
    with running("when_ready", "short_checks") as server:
        async with connected(server.http) as (reader, writer):
            writer.write(request + b"\r\n" + b"x" * 80_000)
            await asyncio.sleep(1.0)
            writer.write(b"x" * 10_000)

            assert await answer(reader) == (200, b"90000")


async def test_idle_connections_do_not_keep_others_from_being_served(server: Running):
    idle = [await asyncio.open_connection("127.0.0.1", server.http) for _ in range(500)]
    try:
        assert (await get(server.http, "/version"))[0] == 200
    finally:
        for _, writer in idle:
            writer.close()


# --- answers that are not read ----------------------------------------------------------------------


@asynccontextmanager
async def asking(port: int, request: bytes) -> AsyncIterator[socket.socket]:
    """A connection on which nothing is read but by the test, with a small buffer in the kernel."""
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, request)
            yield client


async def everything(client: socket.socket, pause: float = 0.0) -> int:
    """How many bytes come until the connection ends, with a pause after every two millions."""
    loop = asyncio.get_running_loop()
    count, until_pause = 0, 2_000_000
    with suppress(ConnectionResetError):
        while piece := await loop.sock_recv(client, 1_000_000):
            count += len(piece)
            if count >= until_pause:
                until_pause += 2_000_000
                await asyncio.sleep(pause)
    return count


@pytest.mark.parametrize("pieces", [1, 1000])
@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"], ids=["keep-alive", "close"])
async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    hasty_server: Running, pieces: int, more: bytes
):
    request = b"GET /v1/large?pieces=%d HTTP/1.1\r\nhost: x\r\n" % pieces + AUTH + more + b"\r\n"
    async with asking(hasty_server.http, request) as client:
        await asyncio.sleep(2.5)

        assert await everything(client) < LARGE


@pytest.mark.parametrize("pieces", [1, 1000])
async def test_a_client_that_reads_slowly_gets_its_whole_answer(hasty_server: Running, pieces: int):
    close = b"connection: close\r\n\r\n"
    request = b"GET /v1/large?pieces=%d HTTP/1.1\r\nhost: x\r\n" % pieces + AUTH + close
    async with asking(hasty_server.http, request) as client:
        assert await everything(client, pause=0.2) > LARGE


# --- smuggling ------------------------------------------------------------------------------------

HIDDEN = b"GET /version HTTP/1.1\r\nhost: hidden\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        b"content-length: 5\r\n\r\n0\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"ffffffffffffffff1\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\nab\n0\n\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, x\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\nhost: x\n\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\nx: y\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\n host: x\r\n\r\n",
        b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=[
        "length and chunked",
        "chunked and length",
        "two lengths",
        "signed length",
        "chunk size no number",
        "chunk size negative",
        "chunk size too large",
        "chunks with bare LF",
        "coding behind chunked",
        "blank before colon",
        "bare LF",
        "one bare LF",
        "folded first header",
        "NUL in a header",
        "TLS to a plain port",
    ],
)
async def test_what_is_no_clean_http_is_400_and_nothing_behind_it_is_answered(
    server: Running, request_: bytes
):
    raw = await said(server.http, request_ + HIDDEN)

    assert status(raw) == 400
    assert raw.count(b"HTTP/1.1 ") == 1


async def test_garbage_behind_a_good_request_does_not_take_its_answer(server: Running):
    request = b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc\x00\x01garbage"

    raw = await said(server.http, request)

    assert status(raw) == 200
    assert raw.count(b"HTTP/1.1 ") == 1
