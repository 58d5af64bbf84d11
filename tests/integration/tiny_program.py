"""A process with one small service, run as `python tests/integration/tiny_program.py`.

Arguments: when the port opens (`at_once` or `when_ready`), and faults to play, such as
`frozen_close`, a part that never lets itself be closed.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Annotated, Any

import uvloop
from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import SecretStr

from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops, Pace
from shared.domain.access import Scope
from shared.domain.errors import Blocked, Conflict, StoreUnavailable
from shared.settings import AllSettings
from shared.telemetry import logs
from shared.telemetry.metrics import Metrics
from shared.web.api.auth import ApiAuth
from shared.web.body import read_body
from shared.web.device_route import DeviceRoute
from shared.web.server.app import Edge
from shared.web.server.protocol import BoundedHttpProtocol
from shared.web.server.server import Server
from shared.web.server.service import Service

KEY = "a-key-that-is-long-enough"
LIMIT = 100_000
LARGE = 20_000_000


def routes() -> APIRouter:
    router = APIRouter()
    router.include_router(device_routes())
    router.include_router(client_routes())
    return router


def device_routes() -> APIRouter:
    devices = APIRouter(route_class=DeviceRoute)

    @devices.put("/mdm/connect")
    async def connect(request: Request) -> Response:
        return Response(str(len(await read_body(request, LIMIT))))

    @devices.put("/mdm/headers")
    async def headers(request: Request) -> Response:
        await read_body(request, LIMIT)
        return Response(json.dumps([name.decode() for name, _ in request.scope["headers"]]))

    @devices.put("/mdm/fails/{how}")
    async def fails(how: str) -> Response:
        raise {"blocked": Blocked(), "conflict": Conflict(), "away": StoreUnavailable()}[how]

    return devices


def client_routes() -> APIRouter:
    auth = ApiAuth([SecretStr(KEY)])
    clients = auth.router()
    reads = [auth.needs(Scope.READ)]
    add_streams(clients, reads)

    @clients.get("/v1/slow", dependencies=reads)
    async def slow(seconds: float) -> dict[str, bool]:
        await asyncio.sleep(seconds)
        return {"slow": True}

    @clients.post("/v1/late", dependencies=reads)
    async def late(request: Request, seconds: float) -> Response:
        await asyncio.sleep(seconds)
        return Response(str(len(await read_body(request, LIMIT))))

    @clients.post("/v1/parsed", dependencies=reads)
    async def parsed(body: Annotated[dict[str, str], Body()]) -> dict[str, int]:
        return {"keys": len(body)}

    return clients


def add_streams(clients: APIRouter, reads: list[Any]) -> None:
    @clients.get("/v1/large", dependencies=reads)
    async def large(pieces: int) -> Response:
        async def content() -> AsyncIterator[bytes]:
            for _ in range(pieces):
                yield bytes(LARGE // pieces)

        length = {"content-length": str(LARGE)}
        return StreamingResponse(content(), headers=length)

    @clients.get("/v1/drips", dependencies=reads)
    async def drips() -> Response:
        async def content() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"drip"
                await asyncio.sleep(0.1)

        return StreamingResponse(content())


class TinyProgram:
    def __init__(self, faults: Sequence[str]) -> None:
        self._faults = faults
        self._builds = 0
        self._ready = asyncio.Event()
        self._loops = Loops(SystemClock())
        self._loops.stalled_after = timedelta(seconds=1)

    async def build(self) -> Sequence[Service]:
        self._builds += 1
        if "store_comes_late" in self._faults and self._builds < 3:
            raise StoreUnavailable("the store is away")
        return [Service("tiny", routes(), self._run, self._reasons, self._drain)]

    async def watch(self) -> None:
        if "part_dies" in self._faults:
            raise StoreUnavailable("the store ended by itself")

    def failing(self) -> list[str]:
        return []

    def stalled(self) -> list[str]:
        return self._loops.stalled()

    async def close(self) -> None:
        if "frozen_close" in self._faults:
            await asyncio.sleep(3600)

    async def _run(self) -> None:
        await asyncio.sleep(0.1)
        self._ready.set()
        if "loop_hangs" in self._faults:
            pace = Pace(timedelta(seconds=1), timedelta(seconds=1))
            await self._loops.keep_doing("tiny_loop", asyncio.Event().wait, pace, waits="waits")
        await asyncio.sleep(3600)

    async def _reasons(self) -> list[str]:
        return [] if self._ready.is_set() else ["warming up"]

    async def _drain(self) -> None:
        print("drained", flush=True)


def scale(faults: Sequence[str]) -> None:
    """Make deadlines and limits small enough for a test."""
    if "short_deadlines" in faults:
        BoundedHttpProtocol.header_deadline /= 50
        BoundedHttpProtocol.body_deadline /= 100
        BoundedHttpProtocol.body_check /= 100
        BoundedHttpProtocol.answer_deadline /= 100
    if "short_checks" in faults:
        BoundedHttpProtocol.body_check /= 20
    if "short_grace" in faults:
        Server.grace /= 5
    if "few_under_way" in faults:
        Edge.most_under_way = 5
    if "few_connections" in faults:
        Server.most_connections = 20


async def main(when: str, *faults: str) -> None:
    logs.configure("json")
    scale(faults)
    settings = AllSettings(
        http="127.0.0.1:0",
        ops_http="127.0.0.1:0",
        max_body=LIMIT,
        trusted_proxies="127.0.0.1",
    )
    if "small_budget" in faults:
        settings = settings.model_copy(update={"body_budget": 3 * LIMIT})

    def say_ports() -> None:
        print(json.dumps({"http": server.main.port, "ops": server.ops.port}), flush=True)

    async def on_open() -> None:
        say_ports()

    server = Server(
        TinyProgram(faults),
        settings,
        Metrics(),
        opens_when_ready=when == "when_ready",
        on_open=on_open,
    )
    if when == "at_once":
        say_ports()
    await server.run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the services do
        runner.run(main(*sys.argv[1:]))
