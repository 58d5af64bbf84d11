"""A device that hung up is known to be gone, although nothing was read meanwhile (docs/rules.md, rule 1).
So it is for each request of its connection, and no answer to it is an error."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from services.checkin.answers import EMPTY, Answer
from services.checkin.exchange import DeviceExchange
from services.checkin.pipeline.device_auth import DeviceAuthentication
from services.checkin.pipeline.requests import DeviceRequests
from services.checkin.pipeline.routes import router
from shared.concurrency.batching import BatchExecutor
from shared.concurrency.clock import SystemClock
from shared.concurrency.heavy_work import HeavyWork
from shared.security.identity import DeviceIdentities
from shared.web.direct import direct_routes
from shared.web.server.app import Edge, create_app
from shared.web.server.connections import Connections
from shared.web.server.protocol import BoundedHttpProtocol
from shared.web.server.service import Service
from tests.integration.server_process import AUTH, get, running
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.push_certificates import PushAuthority

OURS = FleetAuthority("Our CA")
LIMIT = 1000
BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>'
    b"<key>Status</key><string>Idle</string><key>UDID</key><string>A</string></dict></plist>"
)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


async def no_answer(exchange: DeviceExchange) -> None:
    """No event asks for it."""


class Scene:
    """One device, which hangs up, or does not, in the step in which its batch asks whether it is there."""

    def __init__(self, *, hangs_up: bool) -> None:
        self.was_connected: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.device = socket.socket()
        self.sent = asyncio.Event()
        self._hangs_up = hangs_up

    def app(self) -> Edge:
        work = HeavyWork("messages")
        devices = DeviceAuthentication(DeviceIdentities([OURS.certificate], SystemClock()), work)
        routes = router(DeviceRequests(BatchExecutor(self._serve), devices, no_answer, work, LIMIT))

        async def run() -> None: ...

        service = Service("devices", routes, run, direct=direct_routes(routes))
        return create_app([service], max_body=LIMIT, metrics=None)

    async def _serve(self, exchanges: list[DeviceExchange]) -> list[Answer | Exception]:
        await self.sent.wait()
        if self._hangs_up:
            if isinstance(self.device, ssl.SSLSocket):
                self.device.setblocking(False)
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.device.unwrap()
            self.device.close()
        [exchange] = exchanges
        self.was_connected.set_result(await exchange.is_connected())
        return [EMPTY]

    def send(self, port: int, *, has_tls: bool) -> None:
        self.device.connect(("127.0.0.1", port))
        if has_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.device = context.wrap_socket(self.device)
        head = (
            f"PUT /mdm/connect HTTP/1.1\r\nHost: mdm\r\nContent-Length: {len(BODY)}\r\n"
            f"Mdm-Signature: {OURS.issue().sign(BODY)}\r\n\r\n"
        )
        self.device.sendall(head.encode() + BODY)


async def is_said_to_be_connected(
    tls: ssl.SSLContext | None, *, is_whole: bool, hangs_up: bool
) -> bool:
    scene = Scene(hangs_up=hangs_up)
    app = scene.app()
    config = uvicorn.Config(app, interface="asgi3", log_config=None, lifespan="off")
    config.load()

    def protocol() -> BoundedHttpProtocol:
        made = BoundedHttpProtocol(config, ServerState(), {})
        made.crowd = Connections(10)
        made.whole = app.whole if is_whole else {}
        return made

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        await asyncio.to_thread(scene.send, port, has_tls=tls is not None)
        scene.sent.set()
        async with asyncio.timeout(10):
            return await scene.was_connected
    finally:
        server.close()
        scene.device.close()


@pytest.mark.parametrize("hangs_up", [True, False], ids=["hangs up", "waits"])
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "task"])
@pytest.mark.parametrize("has_tls", [True, False], ids=["TLS", "plain"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_device_that_has_hung_up_is_gone_and_no_other(
    loop: str, has_tls: bool, is_whole: bool, hangs_up: bool, tmp_path: Path
) -> None:
    tls = None
    if has_tls:
        pair = PushAuthority(tmp_path).server()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pair.certificate, pair.key)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        asking = is_said_to_be_connected(tls, is_whole=is_whole, hangs_up=hangs_up)
        assert runner.run(asking) is not hangs_up


ABOVE = 70_000
"""Bytes of a body at which its connection is read no further."""
GET_VERSION = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"
REQUESTS = [
    b"PUT /mdm/connect HTTP/1.1\r\n",
    b"PUT /mdm/connect HTTP/1.1\r\nexpect: 100-continue\r\n",
    b"PUT /mdm/fails/away HTTP/1.1\r\n",
    b"POST /v1/late?seconds=0.1 HTTP/1.1\r\n" + AUTH,
    b"GET /v1/slow?seconds=0.1 HTTP/1.1\r\n" + AUTH,
    b"GET /v1/large?pieces=10 HTTP/1.1\r\n" + AUTH,
    b"GET /v1/drips HTTP/1.1\r\n" + AUTH,
    b"PUT /nowhere HTTP/1.1\r\n",
]


def reset(port: int, said: bytes, after: float) -> None:
    """Send it, and let the connection break."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(said)
        if after:
            threading.Event().wait(after)


@pytest.mark.parametrize("behind", [b"", GET_VERSION * 2, b"\0garbage"], ids=["", "two", "garbage"])
async def test_an_answer_to_a_connection_that_broke_is_no_error(
    tmp_path: Path, behind: bytes
) -> None:
    log = tmp_path / "log"
    body = b"host: x\r\ncontent-length: %d\r\n\r\n" % ABOVE + b"x" * ABOVE
    with running("when_ready", log=log) as server:
        async with asyncio.TaskGroup() as tasks:
            for head in REQUESTS:
                for after in (0.0, 0.05, 0.12):
                    for sent in (head + body + behind, head + body[:-1]):
                        tasks.create_task(asyncio.to_thread(reset, server.http, sent, after))
        await asyncio.sleep(0.5)
        assert (await get(server.http, "/version"))[0] == 200
        await asyncio.sleep(0.1)

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
