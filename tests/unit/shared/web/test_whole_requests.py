"""Small requests of devices that came whole are answered without ASGI, and nobody sees a difference."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import APIRouter, Request, Response
from starlette.types import Scope
from uvicorn.server import ServerState

from shared.domain.errors import BadRequest, Blocked, MdmError, StoreUnavailable, TooLarge
from shared.telemetry.metrics import Reason
from shared.web.body import read_body
from shared.web.device_route import DirectDeviceRoute, begun_by, response_of
from shared.web.direct import direct_routes
from shared.web.server.app import Edge, create_app
from shared.web.server.connections import Connections
from shared.web.server.protocol import BoundedHttpProtocol
from shared.web.server.service import Service

LIMIT = 100_000
BODY = b"a message"


@dataclass(frozen=True)
class Given:
    """An answer to a device."""

    body: bytes = b""
    status: int = 200


class Transport(asyncio.Transport):
    def __init__(self, client: tuple[str, int] | None = ("192.0.2.1", 4000)) -> None:
        super().__init__()
        self.client = client
        self.sent = bytearray()
        self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": self.client, "sockname": ("192.0.2.2", 80)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return len(self.sent)

    def can_write_eof(self) -> bool:
        return False


@dataclass
class World:
    """A connection to a server with one route; `ways` says how each request was served."""

    ways: list[str] = field(default_factory=list)
    refused: list[tuple[int, Reason, str]] = field(default_factory=list)
    waiting: list[asyncio.Future[Given]] = field(default_factory=list)
    outcome: Given | Exception = field(default_factory=Given)
    """Of the first step of a request."""
    needs_task: bool = False
    are_gone: list[Callable[[], bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        router = APIRouter(route_class=DirectDeviceRoute)

        @router.put("/mdm/connect")
        @begun_by(self._begin)
        async def connect(request: Request) -> Response:
            body = await read_body(request, LIMIT)
            self.ways.append("task")
            return response_of(await self._future(body))

        def note(_request: Request, status: int, reason: Reason, detail: str) -> None:
            self.refused.append((status, reason, detail))

        async def run() -> None: ...

        service = Service("devices", router, run, direct=direct_routes(router), note_refused=note)
        self.edge: Edge = create_app([service], max_body=LIMIT, metrics=None)
        config = uvicorn.Config(self.edge, interface="asgi3", log_config=None, lifespan="off")
        config.load()
        self.state = ServerState()
        self.protocol = BoundedHttpProtocol(config, self.state, {})
        self.protocol.crowd = Connections(10)
        self.protocol.whole = self.edge.whole
        self.transport = Transport()
        self.protocol.connection_made(self.transport)

    def _begin(
        self, _scope: Scope, body: bytes, is_gone: Callable[[], bool]
    ) -> asyncio.Future[Given] | None:
        if self.needs_task:
            return None
        self.ways.append("whole")
        self.are_gone.append(is_gone)
        return self._future(body)

    def _future(self, body: bytes) -> asyncio.Future[Given]:
        assert body == BODY
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    async def serve(self, *pieces: bytes, answer: Given | Exception | None = None) -> bytes:
        """Send the pieces, and let the request that waits have its answer; what came back."""
        before = len(self.transport.sent)
        for piece in pieces:
            self.protocol.data_received(piece)
            await settle()
        for each in self.waiting:
            if each.done():
                continue
            if isinstance(answer, Exception):
                each.set_exception(answer)
            else:
                each.set_result(answer or Given())
        await settle()
        return bytes(self.transport.sent[before:])

    @property
    def is_at_rest(self) -> bool:
        return self.edge.budget.held == self.edge.under_way.count == 0


@pytest.fixture
async def world() -> World:
    return World()


def request(body: bytes = BODY, *, path: str = "/mdm/connect", more: str = "") -> bytes:
    head = f"PUT {path} HTTP/1.1\r\nHost: mdm\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_request_in_one_piece_needs_no_task(world: World):
    answer = await world.serve(request())

    assert world.ways == ["whole"]
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    assert not world.state.tasks and world.is_at_rest


@pytest.mark.parametrize(
    "pieces",
    [
        (request()[:-3], request()[-3:]),
        (request(more="Expect: 100-continue\r\n"),),
        (request(path="/mdm/%63onnect"),),
        (request(path="//mdm//connect"),),
    ],
)
async def test_any_other_request_takes_the_way_of_all_requests(
    world: World, pieces: tuple[bytes, ...]
):
    answer = await world.serve(*pieces)

    assert world.ways == ["task"]
    assert answer.endswith(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert world.is_at_rest


async def test_so_does_one_that_its_route_cannot_serve_at_once(world: World):
    world.needs_task = True

    assert (await world.serve(request())).startswith(b"HTTP/1.1 200 OK")
    assert world.ways == ["task"]


@pytest.mark.parametrize(
    "outcome",
    [
        Given(),
        Given(b"<plist/>"),
        Given(status=410),
        BadRequest("no"),
        Blocked("no"),
        StoreUnavailable("away"),
        TooLarge("no"),
        ValueError("a bug"),
    ],
)
@pytest.mark.parametrize("is_late", [True, False])
async def test_both_ways_give_the_same_answer(outcome: Given | Exception, is_late: bool):
    answers, refusals = [], []
    for needs_task in (True, False):
        world = World(needs_task=needs_task)
        if not is_late and isinstance(outcome, Exception):
            world.outcome = outcome
        answers.append(await world.serve(request(), answer=outcome))
        refusals.append(world.refused)
        assert world.is_at_rest

    assert answers[0] == answers[1] != b""
    assert refusals[0] == refusals[1]
    assert len(refusals[0]) == isinstance(outcome, MdmError)


async def test_a_connection_serves_request_after_request(world: World):
    for _ in range(3):
        assert (await world.serve(request())).startswith(b"HTTP/1.1 200 OK")

    assert world.ways == ["whole"] * 3


@pytest.mark.parametrize(
    "piece",
    [
        request(more="Connection: close\r\n"),
        request().replace(b"HTTP/1.1", b"HTTP/1.0"),
        request() + b"\0garbage",
    ],
)
async def test_the_last_answer_of_a_connection_closes_it(world: World, piece: bytes):
    answer = await world.serve(piece)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    assert world.ways == ["whole"]


async def test_requests_that_came_together_are_answered_in_order(world: World):
    world.protocol.data_received(request() * 3 + request(path="/é") + request())
    for n in range(3):
        await settle()
        world.waiting[n].set_result(Given(b"%d" % n))
    await settle()

    sent = bytes(world.transport.sent)
    assert [sent.count(b"HTTP/1.1 200"), sent.index(b"\r\n\r\n0") < sent.index(b"\r\n\r\n1")] == [
        3,
        1,
    ]
    assert world.ways == ["whole", "task", "task"]


async def test_chunks_that_came_at_once_are_taken_as_one(world: World):
    taken: list[bytes] = []
    world.outcome = BadRequest("no")
    head = b"PUT /elsewhere HTTP/1.1\r\nHost: mdm\r\nTransfer-Encoding: chunked\r\n\r\n"
    world.protocol.data_received(head + b"1\r\nx\r\n" * 1000)
    cycle = world.protocol.cycle
    cycle.message_event.clear()
    assert bytes(cycle.body) == b"x" * 1000

    class Body(bytearray):
        def __iadd__(self, more: Any) -> Any:
            taken.append(bytes(more))
            return super().__iadd__(more)

    cycle.body = Body()
    world.protocol.data_received(b"1\r\ny\r\n" * 1000 + b"0\r\n\r\n")

    assert taken == [b"y" * 1000]
    assert not cycle.more_body and cycle.message_event.is_set()


async def test_too_many_requests_are_told_to_come_again(world: World):
    world.edge.under_way.count = world.edge.under_way.most

    answer = await world.serve(request())

    assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 5" in answer
    assert world.ways == []


async def test_a_request_counts_until_it_is_answered(world: World):
    world.protocol.data_received(request())

    assert (world.edge.under_way.count, world.edge.budget.held) == (1, len(BODY))
    assert await world.serve()
    assert world.is_at_rest


@pytest.mark.parametrize("outcome", [Given(), BadRequest("no")])
async def test_a_connection_keeps_no_bytes_that_no_budget_counts(outcome: Given | Exception):
    world = World(outcome=outcome)

    world.protocol.data_received(request())

    assert world.ways == ["whole"]
    assert world.protocol.cycle.body == b""


async def test_a_device_that_hangs_up_gets_nothing_and_is_said_to_be_gone(world: World):
    world.protocol.data_received(request())
    [is_gone] = world.are_gone
    assert not is_gone()

    world.protocol.connection_lost(None)

    assert is_gone()
    assert await world.serve() == b""
    assert world.is_at_rest


@pytest.mark.parametrize("needs_task", [False, True], ids=["whole", "task"])
async def test_a_device_that_hangs_up_is_gone_for_each_request_that_it_sent(needs_task: bool):
    world = World(needs_task=needs_task)
    world.protocol.data_received(request() * 3)
    await settle()
    first = world.protocol._under_way
    behind = [cycle for cycle, _ in world.protocol.pipeline]
    assert first is not None
    assert len(behind) == 2

    world.protocol.connection_lost(None)

    assert [each.disconnected for each in (first, *behind)] == [True] * 3
    assert all(is_gone() for is_gone in world.are_gone)
    assert (await first.receive())["type"] == "http.disconnect"
    assert await world.serve() == b""
    assert world.ways == ["task" if needs_task else "whole"]
    assert world.is_at_rest


@pytest.mark.parametrize("error", [StoreUnavailable("away"), Blocked("no"), ValueError("a bug")])
async def test_an_error_is_noted_though_its_device_is_gone(
    error: Exception, caplog: pytest.LogCaptureFixture
):
    refusals, bugs = [], []
    for needs_task in (True, False):
        world = World(needs_task=needs_task)
        world.protocol.data_received(request())
        await settle()
        world.protocol.connection_lost(None)
        caplog.clear()
        assert await world.serve(answer=error) == b""
        refusals.append(world.refused)
        bugs.append([str(record.exc_info and record.exc_info[1]) for record in caplog.records])
        assert world.is_at_rest

    assert refusals[0] == refusals[1]
    assert bugs[0] == bugs[1]
    assert len(refusals[0]) + len(bugs[0]) == 1


async def test_an_answer_waits_until_its_client_reads(world: World):
    world.protocol.data_received(request())
    world.protocol.pause_writing()
    assert await world.serve(answer=Given(b"<plist/>")) == b""

    world.protocol.resume_writing()
    await settle()

    assert world.transport.sent.endswith(b"<plist/>")


async def test_a_server_that_ends_answers_what_it_has_begun_and_closes(world: World):
    world.protocol.data_received(request())
    world.protocol.shutdown()

    assert b"connection: close" in await world.serve()
    assert world.transport.is_closed


async def test_a_batch_that_is_cancelled_is_503(world: World):
    world.protocol.data_received(request())
    world.waiting[0].cancel()

    assert (await world.serve()).startswith(b"HTTP/1.1 503")
