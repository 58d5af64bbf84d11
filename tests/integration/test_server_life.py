"""How the server starts and ends, with real signals; and the exits of the command line."""

import asyncio
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.integration.server_process import (
    AUTH,
    ENVIRONMENT,
    ROOT,
    Running,
    answer,
    connected,
    get,
    running,
    until,
)
from tests.support.harness.system import SECRET_KEY


@pytest.fixture
def server() -> Iterator[Running]:
    with running("when_ready") as found:
        yield found


# --- operators' listener -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_operators_pages_are_on_their_own_listener_only(server: Running, path: str):
    assert (await get(server.ops, path))[0] == 200
    assert (await get(server.http, path))[0] == 404


async def test_nothing_else_is_on_the_operators_listener(server: Running):
    assert (await get(server.ops, "/version"))[0] == 404


async def test_a_loop_that_hangs_makes_the_process_not_alive_and_takes_no_requests_away():
    with running("at_once", "loop_hangs") as server:
        await until(server.ops, "/healthz", 200)

        await until(server.ops, "/healthz", 503)

        assert b"tiny_loop has hung in a step" in (await get(server.ops, "/healthz"))[1]
        assert (await get(server.ops, "/readyz"))[0] == 200
        assert (await get(server.http, "/version"))[0] == 200


# --- start ---------------------------------------------------------------------------------------------


async def test_a_separate_service_answers_503_until_its_store_comes():
    with running("at_once", "store_comes_late") as server:
        await until(server.ops, "/healthz", 200)

        assert (await get(server.http, "/version"))[0] == 503
        assert "the store is away" in (await get(server.ops, "/readyz"))[1].decode()
        await until(server.ops, "/readyz", 200)
        assert (await get(server.http, "/version"))[0] == 200


async def test_a_part_that_ends_by_itself_ends_the_process_with_an_error():
    with running("at_once", "part_dies") as server:
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
    assert server.process.stdout.read() == b"drained\n"


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
    with running("when_ready", "frozen_close", "short_grace") as server:
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
        env=ENVIRONMENT | environ,
    )
    _, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def test_check_config_exits_0_for_settings_that_can_be_used():
    given = {
        "MDM_MONGODB_URL": "mongodb://db",
        "MDM_AMQP_URL": "amqp://mq",
        "MDM_SECRET_KEY": SECRET_KEY,
    }

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
        "MDM_SECRET_KEY": SECRET_KEY,
        "MDM_AMQP_URL": "amqp://127.0.0.1:1",
        "MDM_LOG_FORMAT": "json",
    }

    code, errors = await command(given, "checkin")

    assert code == 2
    assert f"MDM_HTTP: cannot listen on 127.0.0.1:{server.http}" in errors.splitlines()[-1]
