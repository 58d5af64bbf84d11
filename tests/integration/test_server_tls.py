"""Connections to a listener with TLS of its own count from when they are accepted."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from shared.settings import Address
from shared.web.server.handshakes import TlsAcceptor
from shared.web.server.listener import Listener, Tls, bind
from tests.support.harness.push_certificates import PushAuthority

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
MOST = 20
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Scene:
    def __init__(self, folder: Path) -> None:
        pair = PushAuthority(folder).server()
        sockets = bind(Address("127.0.0.1", 0), "X")
        self.listener = Listener(app, sockets, MOST, Tls(pair.certificate, pair.key))
        self._port = self.listener.port
        self._trust = ssl.create_default_context(cafile=pair.certificate)
        self._trust.check_hostname, self._trust.verify_mode = False, ssl.CERT_NONE
        self._made: list[asyncio.StreamWriter] = []

    async def connect(self, address: str = "127.0.0.1", *, has_tls: bool = True) -> Connection:
        """A connection, with its handshake done or not begun."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self._port,
            local_addr=(address, 0),
            ssl=self._trust if has_tls else None,
        )
        self._made.append(writer)
        return reader, writer

    async def idle(self, count: int, address: str = "127.0.0.1") -> list[Connection]:
        made = [await self.connect(address, has_tls=False) for _ in range(count)]
        await asyncio.sleep(0.1)
        return made

    async def close(self) -> None:
        for writer in self._made:
            writer.close()
        if self.listener.is_open:
            await self.listener.close(timedelta(seconds=1))


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Plays a test on an event loop."""

    async def play(test: Callable[[Scene], Awaitable[None]]) -> None:
        scene = Scene(tmp_path)
        await scene.listener.open()
        try:
            async with asyncio.timeout(20):
                await test(scene)
        finally:
            await scene.close()

    def run_(test: Callable[[Scene], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(play(test))

    return run_


@contextmanager
def handshakes_within(deadline: timedelta) -> Iterator[None]:
    before, TlsAcceptor.deadline = TlsAcceptor.deadline, deadline
    try:
        yield
    finally:
        TlsAcceptor.deadline = before


async def is_served(connection: Connection) -> bool:
    reader, writer = connection
    writer.write(REQUEST)
    try:
        return b" 204 " in await reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError):
        return False


async def open_of(connections: list[Connection]) -> int:
    """How many the server has not ended."""
    reading = [asyncio.ensure_future(reader.read(1)) for reader, _ in connections]
    await asyncio.wait(reading, timeout=0.2)
    found = sum(not each.done() for each in reading)
    for each in reading:
        each.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    return found


def test_connections_that_begin_no_handshake_are_bounded_and_keep_nobody_out(
    run: Callable[..., None],
):
    async def test(scene: Scene) -> None:
        devices = [await scene.connect("127.0.0.2") for _ in range(5)]
        idle = await scene.idle(3 * MOST)

        assert all([await is_served(each) for each in devices])
        for _ in range(3):
            assert await is_served(await scene.connect("127.0.0.3"))
            assert await is_served(await scene.connect())
        assert await open_of(idle) == MOST - 5 - 6

    run(test)


def test_connections_with_a_handshake_that_hold_all_give_way_to_another_address(
    run: Callable[..., None],
):
    async def test(scene: Scene) -> None:
        crowd = [await scene.connect() for _ in range(MOST)]

        assert await is_served(await scene.connect("127.0.0.2"))
        assert not await is_served(crowd[0])
        assert all([await is_served(each) for each in crowd[1:]])

    run(test)


def test_a_handshake_ends_within_its_time_and_leaves_its_room(run: Callable[..., None]):
    async def test(scene: Scene) -> None:
        idle = await scene.idle(MOST)
        assert await open_of(idle) == MOST
        await asyncio.sleep(0.5)
        assert await open_of(idle) == 0

        devices = [await scene.connect() for _ in range(MOST)]
        assert all([await is_served(each) for each in devices])

    with handshakes_within(timedelta(seconds=0.5)):
        run(test)


@pytest.mark.parametrize("said", [REQUEST, b"\x16\x03\x01\x00\x05", b""])
def test_what_is_no_tls_ends_without_a_word(
    run: Callable[..., None], said: bytes, caplog: pytest.LogCaptureFixture
):
    async def test(scene: Scene) -> None:
        for _ in range(2 * MOST):
            _, writer = await scene.connect(has_tls=False)
            writer.write(said)
            writer.close()
        await asyncio.sleep(0.1)

        devices = [await scene.connect() for _ in range(MOST)]
        assert all([await is_served(each) for each in devices])

    run(test)
    assert caplog.records == []


def test_a_server_that_ends_waits_for_no_handshake(run: Callable[..., None]):
    async def test(scene: Scene) -> None:
        idle = await scene.idle(3)
        await scene.listener.close(timedelta(seconds=5))

        assert await open_of(idle) == 0
        with pytest.raises(ConnectionRefusedError):
            await scene.connect()

    run(test)
