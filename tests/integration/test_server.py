"""The server as a process: real sockets, real signals, a tiny service behind it."""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("tiny_program.py")
AUTH = b"authorization: Basic " + base64.b64encode(b"micromdm:a-key-that-is-long-enough") + b"\r\n"
PATIENCE = 15.0


@dataclass
class Running:
    process: asyncio.subprocess.Process
    http: int
    ops: int

    async def ends(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


async def started(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )


@asynccontextmanager
async def running(when: str, *faults: str) -> AsyncIterator[Running]:
    process = await started(str(PROGRAM), when, *faults)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            ports = json.loads(await process.stdout.readline())
        yield Running(process, ports["http"], ports["ops"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running("when_ready") as found:
        yield found


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return int(head.split()[1]), await reader.readexactly(length)


async def said(port: int, request: bytes) -> bytes:
    """Everything that comes until the server closes the connection."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        return await reader.read()


async def get(port: int, path: str) -> tuple[int, bytes]:
    async with connected(port) as (reader, writer):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return await answer(reader)


def status(raw: bytes) -> int:
    return int(raw.split()[1])


async def until(port: int, path: str, wanted: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while await _code(port, path) != wanted:
            await asyncio.sleep(0.02)


async def _code(port: int, path: str) -> int | None:
    try:
        return (await get(port, path))[0]
    except ConnectionRefusedError:
        return None


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
async def test_a_client_that_does_not_go_on_is_closed_by_deadline(beginning: bytes):
    async with running("when_ready", "short_deadlines") as server:
        raw = await said(server.http, beginning)

        assert status(raw) == 408
        assert (await get(server.http, "/version"))[0] == 200


async def test_trickling_bytes_do_not_move_the_deadline():
    async with running("when_ready", "short_deadlines") as server:
        async with connected(server.http) as (reader, writer):
            writer.write(b"GET /version HTTP/1.1\r\n")
            ended = asyncio.ensure_future(reader.read())
            while not ended.done():
                writer.write(b"x: y\r\n")
                await asyncio.wait({ended}, timeout=0.05)

        assert status(ended.result()) == 408


async def test_an_unread_body_that_trickles_is_closed_by_deadline():
    async with (
        running("when_ready", "short_deadlines") as server,
        connected(server.http) as (reader, writer),
    ):
        writer.write(b"PUT /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n")
        assert (await answer(reader))[0] == 404
        writer.write(b"x")

        assert status(await reader.read()) == 408


async def test_idle_connections_do_not_keep_others_from_being_served(server: Running):
    idle = [await asyncio.open_connection("127.0.0.1", server.http) for _ in range(500)]
    try:
        assert (await get(server.http, "/version"))[0] == 200
    finally:
        for _, writer in idle:
            writer.close()


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


# --- operators' listener -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_operators_pages_are_on_their_own_listener_only(server: Running, path: str):
    assert (await get(server.ops, path))[0] == 200
    assert (await get(server.http, path))[0] == 404


async def test_nothing_else_is_on_the_operators_listener(server: Running):
    assert (await get(server.ops, "/version"))[0] == 404


# --- start ---------------------------------------------------------------------------------------------


async def test_a_separate_service_answers_503_until_its_store_comes():
    async with running("at_once", "store_comes_late") as server:
        await until(server.ops, "/healthz", 200)

        assert (await get(server.http, "/version"))[0] == 503
        assert "the store is away" in (await get(server.ops, "/readyz"))[1].decode()
        await until(server.ops, "/readyz", 200)
        assert (await get(server.http, "/version"))[0] == 200


async def test_a_part_that_ends_by_itself_ends_the_process_with_an_error():
    async with running("at_once", "part_dies") as server:
        assert await server.ends() != 0


# --- end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_requests_under_way_end_then_drains_and_exits_0(
    server: Running, number: signal.Signals
):
    async with connected(server.http) as (reader, writer):
        writer.write(b"GET /v1/slow?seconds=1 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n")
        await asyncio.sleep(0.3)
        server.process.send_signal(number)

        assert (await answer(reader))[0] == 200

    assert await server.ends() == 0
    assert server.process.stdout is not None
    assert await server.process.stdout.read() == b"drained\n"


async def test_readiness_is_false_while_it_ends(server: Running):
    async with connected(server.http) as (_, writer):
        writer.write(b"GET /v1/slow?seconds=2 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n")
        await asyncio.sleep(0.3)
        server.process.terminate()

        await until(server.ops, "/readyz", 503)
        assert (await get(server.ops, "/healthz"))[0] == 200


async def test_a_repeated_signal_of_the_same_moment_counts_once(server: Running):
    async with connected(server.http) as (reader, writer):
        writer.write(b"GET /v1/slow?seconds=1 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n")
        await asyncio.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)

        assert (await answer(reader))[0] == 200

    assert await server.ends() == 0


async def test_a_second_signal_ends_at_once(server: Running):
    async with connected(server.http) as (_, writer):
        writer.write(b"GET /v1/slow?seconds=60 HTTP/1.1\r\nhost: x\r\n" + AUTH + b"\r\n")
        await asyncio.sleep(0.3)
        server.process.terminate()
        await asyncio.sleep(1.2)
        server.process.terminate()

        assert await server.ends() == 128 + signal.SIGTERM


async def test_a_part_that_never_closes_does_not_hold_up_the_exit():
    async with running("when_ready", "frozen_close", "short_grace") as server:
        server.process.terminate()

        assert await server.ends() == 0


# --- the command line ------------------------------------------------------------------------------------


async def command(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environ,
    )
    _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def test_check_config_exits_0_for_settings_that_can_be_used():
    given = {"MDM_MONGODB_URL": "mongodb://db", "MDM_AMQP_URL": "amqp://mq"}

    assert (await command(given, "checkin", "--check-config"))[0] == 0
    assert (await command({}, "all", "--check-config"))[0] == 0


async def test_check_config_exits_2_with_one_line_for_a_setting_that_cannot():
    code, errors = await command({"MDM_HTTP": "nowhere"}, "all", "--check-config")

    assert code == 2
    assert errors.startswith("macromdm: MDM_HTTP: ")
    assert errors.count("\n") == 1


async def test_a_single_service_without_its_servers_exits_2():
    code, errors = await command({}, "webhook")

    assert code == 2
    assert "MDM_" in errors


async def test_a_port_in_use_is_one_clear_line(server: Running):
    given = {
        "MDM_HTTP": f"127.0.0.1:{server.http}",
        "MDM_OPS_HTTP": "127.0.0.1:0",
        "MDM_MONGODB_URL": "mongodb://127.0.0.1:1",
        "MDM_AMQP_URL": "amqp://127.0.0.1:1",
        "MDM_LOG_FORMAT": "json",
    }

    code, errors = await command(given, "checkin")

    assert code == 2
    assert f"MDM_HTTP: cannot listen on 127.0.0.1:{server.http}" in errors.splitlines()[-1]
