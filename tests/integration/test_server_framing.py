"""Framing of HTTP requests, over raw sockets: what follows the headers changes nothing, every request has
one answer, and bytes that reach nobody are bounded."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.integration.server_process import (
    AUTH,
    Running,
    answer,
    connected,
    get,
    running,
    said,
    status,
)

CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
PUT = b"PUT /mdm/headers HTTP/1.1\r\nhost: x\r\n"
SLOW = b"GET /v1/slow?seconds=0.4 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n"
TRAILER_BEHIND = PUT + CHUNKED + b"2\r\n{}\r\n0\r\nx: y\r\n\r\n"
ENDLESS = 3_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("when_ready") as found:
        yield found


def answers(raw: bytes) -> list[int]:
    """The status of each answer in what a server said."""
    return [status(b"HTTP/1.1 " + each) for each in raw.split(b"HTTP/1.1 ")[1:]]


# --- trailers -----------------------------------------------------------------------------------

TRAILERS = [
    b"X-Client-Cert: :AAAA:\r\n",
    b"x-forwarded-for: 6.6.6.6\r\n",
    b"Content-Length: 3\r\n",
    b"Host: other\r\n",
    b"x:\r\n",
    b"a: b\r\nc: d\r\n",
]


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("announced", [b"", b"Trailer: X-Client-Cert\r\n"], ids=["", "announced"])
async def test_a_trailer_is_400(server: Running, trailer: bytes, announced: bytes):
    body = b"2\r\n{}\r\n0\r\n" + trailer + b"\r\n"

    raw = await said(server.http, PUT + announced + CHUNKED + body)

    assert answers(raw) == [400]


@pytest.mark.parametrize("cut", [b"0\r\n", b"0\r\nX-", b"0\r\nX-Client-Cert:", b"0\r\nX: a\r\n"])
async def test_a_trailer_that_comes_in_pieces_is_400(server: Running, cut: bytes):
    whole = b"2\r\n{}\r\n0\r\nX-Client-Cert: :AAAA:\r\n\r\n"
    beginning = b"2\r\n{}\r\n" + cut
    async with connected(server.http) as (reader, writer):
        writer.write(PUT + CHUNKED + beginning)
        await asyncio.sleep(0.1)
        writer.write(whole[len(beginning) :] if whole.startswith(beginning) else b"\r\n")

        assert answers(await reader.read()) == [400]


async def test_a_body_in_chunks_without_a_trailer_is_taken_and_the_headers_are_those_in_front(
    server: Running,
):
    async with connected(server.http) as (reader, writer):
        for _ in range(2):
            writer.write(PUT + b"X-Mine: 1\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n")
            code, said_headers = await answer(reader)

            assert code == 200
            assert json.loads(said_headers) == ["host", "x-mine", "transfer-encoding"]


async def test_a_trailer_behind_an_answer_that_was_given_closes_the_connection(server: Running):
    async with connected(server.http) as (reader, writer):
        writer.write(b"PUT /nowhere HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"2\r\n{}\r\n")
        assert (await answer(reader))[0] == 404
        writer.write(b"0\r\nX-Client-Cert: :AAAA:\r\n\r\nGET /version HTTP/1.1\r\nhost: x\r\n\r\n")

        assert await reader.read() == b""


async def test_a_trailer_behind_an_answer_that_has_begun_closes_the_connection(server: Running):
    request = b"GET /v1/drips HTTP/1.1\r\nhost: x\r\n" + AUTH + CHUNKED + b"2\r\n{}\r\n"
    async with connected(server.http) as (reader, writer):
        writer.write(request)
        await reader.readuntil(b"drip")
        writer.write(b"0\r\nX: y\r\n\r\n")

        rest = await reader.read()

    assert b"HTTP/1.1" not in rest
    assert b"0\r\n\r\n" not in rest


@pytest.mark.parametrize(
    "more",
    [b"upgrade: h2c\r\nconnection: upgrade\r\n", b"expect: 100-continue\r\n", b"te: trailers\r\n"],
    ids=["upgrade", "expect", "te"],
)
async def test_no_other_header_makes_a_trailer_welcome(server: Running, more: bytes):
    raw = await said(server.http, PUT + more + CHUNKED + b"2\r\n{}\r\n0\r\nx: y\r\n\r\n")

    assert answers(raw) == [400]


UPGRADES = [
    b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n",
]
HIDDEN = b"GET /version HTTP/1.1\r\nhost: hidden\r\n\r\n"


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket"])
async def test_a_body_behind_an_upgrade_is_never_taken_for_a_request(
    server: Running, upgrade: bytes
):
    async with connected(server.http) as (reader, writer):
        writer.write(PUT + upgrade + b"content-length: %d\r\n\r\n" % len(HIDDEN))
        await asyncio.sleep(0.1)
        writer.write(HIDDEN)

        assert answers(await reader.read()) == [400]


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket"])
@pytest.mark.parametrize("pause", [0.0, 0.1])
async def test_a_request_for_another_protocol_is_answered_and_is_the_last(
    server: Running, upgrade: bytes, pause: float
):
    async with connected(server.http) as (reader, writer):
        writer.write(b"GET /version HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n")
        await asyncio.sleep(pause)
        writer.write(HIDDEN)

        assert answers(await reader.read()) == [200]


# --- one answer for each request ----------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        TRAILER_BEHIND,
        PUT + CHUNKED + b"zz\r\n",
        PUT + CHUNKED + b"2;" + b"x" * 400_000,
    ],
    ids=["trailer", "chunk size", "chunk extension"],
)
async def test_a_broken_body_behind_a_request_under_way_takes_nothing_of_its_answer(
    server: Running, broken: bytes
):
    raw = await said(server.http, SLOW + broken)

    assert answers(raw) == [200, 400]


async def test_requests_that_were_whole_are_answered_in_order_before_what_is_broken_ends_it(
    server: Running,
):
    raw = await said(server.http, SLOW * 2 + PUT + b"content-length: 2\r\n\r\n{}" + b"\x00garbage")

    assert answers(raw) == [200, 200, 200]


LAST = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def test_nine_requests_in_one_go_are_all_answered(server: Running):
    raw = await said(server.http, (PUT + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n") * 8 + LAST)

    assert answers(raw) == [200] * 9


@pytest.mark.parametrize("first", [SLOW, b""], ids=["slow", "fast"])
@pytest.mark.parametrize("length", [10, 10_000])
async def test_of_more_requests_in_one_go_nine_are_answered_and_the_last_answer_says_so(
    server: Running, first: bytes, length: int
):
    async with connected(server.http) as (reader, writer):
        writer.write(first + HIDDEN * length)
        raw = await reader.read()

    assert answers(raw) == [200] * 9
    assert raw.count(b"connection: close") == 1
    assert raw.rindex(b"connection: close") > raw.rindex(b"HTTP/1.1")


async def test_any_number_of_requests_is_answered_when_each_waits_for_some_answers(server: Running):
    async with connected(server.http) as (reader, writer):
        for _ in range(20):
            writer.write(HIDDEN * 5)
            assert [(await answer(reader))[0] for _ in range(5)] == [200] * 5


async def test_a_server_that_ends_has_few_requests_of_a_connection_to_answer(tmp_path: Path):
    log = tmp_path / "log"
    with running("when_ready", log=log) as server:
        async with AsyncExitStack() as stack:
            for _ in range(5):
                _, writer = await stack.enter_async_context(connected(server.http))
                writer.write(HIDDEN * 10_000)
            await get(server.http, "/version")
            server.process.send_signal(signal.SIGTERM)
            assert await server.ends() == 0

    assert "Cancel" not in log.read_text()


# --- headers that cost us more than their client ------------------------------------------------


def lines(count: int, line: bytes = b"a:\r\n") -> bytes:
    """A request with so many headers."""
    return PUT + line * (count - 2) + b"content-length: 0\r\n\r\n"


@pytest.mark.parametrize("line", [b"a:\r\n", b"x-of-a-proxy: a value\r\n"])
async def test_a_request_has_a_hundred_headers_at_most(server: Running, line: bytes):
    async with connected(server.http) as (reader, writer):
        writer.write(lines(100, line))
        code, said_headers = await answer(reader)
        assert (code, len(json.loads(said_headers))) == (200, 100)
        writer.write(lines(101, line))

        assert answers(await reader.read()) == [431]


@pytest.mark.parametrize(
    "more", [b"", b"upgrade: websocket\r\nconnection: upgrade\r\n"], ids=["plain", "upgrade"]
)
@pytest.mark.parametrize("pause", [0.0, 0.005], ids=["at once", "in pieces"])
async def test_headers_that_are_nothing_but_lines_end_soon(
    server: Running, more: bytes, pause: float
):
    async with connected(server.http) as (reader, writer):
        writer.write(PUT + more)
        ended = asyncio.ensure_future(reader.read())
        taken = 0
        while not ended.done() and taken < 130_000:
            writer.write(b"a:\r\n" * 20)
            taken += 20
            await asyncio.sleep(pause)

        assert answers(await ended) == [431]
        assert pause == 0 or taken < 1000


async def test_a_trailer_of_lines_is_refused_at_the_first(server: Running):
    raw = await said(server.http, PUT + CHUNKED + b"2\r\n{}\r\n0\r\n" + b"a:\r\n" * 60_000)

    assert answers(raw) == [400]


async def test_a_body_in_chunks_of_a_byte_holds_nobody_up(server: Running):
    """Chunk by chunk, each connection would hold the event loop for 25 ms and more at once."""
    request = b"PUT /mdm/connect HTTP/1.1\r\nhost: x\r\n" + CHUNKED
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server.http)) for _ in range(3)]
        for _, writer in clients:
            writer.write(request + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n" + HIDDEN)

        for reader, _ in clients:
            assert await answer(reader) == (200, b"40000")
            assert (await answer(reader))[0] == 200


# --- bytes that reach nobody --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beginning", "wanted"),
    [
        (PUT + b"x: ", 431),
        (PUT, 431),
        (b"PUT /", 431),
        (PUT + CHUNKED + b"2\r\n{}\r\n0\r\nx: ", 400),
        (PUT + CHUNKED + b"2\r\n{}\r\n0\r\n", 400),
        (PUT + CHUNKED + b"2;", 400),
        (PUT + CHUNKED + b'2;x="', 400),
        (PUT + CHUNKED + b"2\r\n{}\r\n2;x=", 400),
    ],
    ids=[
        "header",
        "header name",
        "path",
        "trailer",
        "trailer name",
        "chunk extension",
        "quoted chunk extension",
        "extension of a later chunk",
    ],
)
async def test_what_never_ends_is_refused_soon(server: Running, beginning: bytes, wanted: int):
    taken = 0
    async with connected(server.http) as (reader, writer):
        writer.write(beginning)
        ended = asyncio.ensure_future(reader.read())
        while not ended.done() and taken < ENDLESS:
            writer.write(b"a" * 10_000)
            taken += 10_000
            await asyncio.wait({ended}, timeout=0.005)
        raw = await asyncio.wait_for(ended, 5)

    assert answers(raw) == [wanted]
    assert taken < ENDLESS


async def test_endless_empty_lines_are_refused(server: Running):
    assert answers(await said(server.http, b"\r\n" * 500_000)) == [431]


# --- what two could read in two ways ------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /version HTTP/1.1\r\n\r\n",
        b"GET /version HTTP/1.1\r\nx: y\r\n\r\n",
        b"GET /version HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /version HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /version\r\n\r\n",
        b"GET /version\r\nhost: x\r\n\r\n",
        b"GET /version HTTP/0.9\r\nhost: x\r\n\r\n",
        b"GET /version HTTP/2.0\r\nhost: x\r\n\r\n",
        b"GET /version HTTP/1.2\r\nhost: x\r\n\r\n",
        PUT.replace(b"1.1", b"1.0") + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
        PUT + b"transfer-encoding: chunked\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n",
        PUT + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        PUT + b"transfer-encoding: identity\r\n\r\n",
        PUT + b"transfer-encoding:\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        PUT + b"transfer-encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_a_request_that_two_could_read_in_two_ways_is_400(server: Running, request_: bytes):
    assert answers(await said(server.http, request_)) == [400]


async def test_http_1_0_needs_no_host(server: Running):
    raw = await said(server.http, b"GET /version HTTP/1.0\r\n\r\n")

    assert answers(raw) == [200]


# --- refused once -------------------------------------------------------------------------------


async def test_a_refusal_of_pieces_is_said_once_and_logs_no_error(tmp_path: Path):
    log = tmp_path / "log"
    with running("when_ready", log=log) as server:
        for beginning in (b"GET /", b"GET / HTTP/1.1\r\nhost: x\r\nx: "):
            async with connected(server.http) as (reader, writer):
                writer.write(beginning)
                for _ in range(8):
                    writer.write(b"a" * 65_536)
                    await asyncio.sleep(0.01)
                assert answers(await reader.read()) == [431]
        for broken in (SLOW + PUT + CHUNKED + b"zz\r\n", TRAILER_BEHIND):
            assert answers(await said(server.http, broken))[-1] == 400
        assert (await get(server.http, "/version"))[0] == 200

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
