"""POST /v1/commands that came whole: no client, log, audit entry or count sees a difference."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from shared.concurrency.periodic import Loops
from shared.domain.errors import BadRequest, Fault, MdmError, StoreUnavailable, TooManyRequests
from shared.web.api.route import DirectApiRoute
from shared.web.server.app import create_app
from shared.web.server.connections import Connections
from shared.web.server.protocol import BoundedHttpProtocol
from shared.web.server.service import Feature, Service
from tests.support.fakes.clock import settle
from tests.unit.commands.submit.test_direct_posting import (
    ANONYMOUS,
    BY_WORDS,
    LIMIT,
    USUAL,
    Process,
    Seen,
    Sent,
    alike,
    basic,
    command,
    failing,
)
from tests.unit.shared.web.test_whole_requests import Transport

GUESS = ANONYMOUS.header(b"authorization", basic(b"micromdm", b"guess"))


class Connected(Process):
    """Requests come as bytes on a connection; `by_asgi` counts those that were given to the edge."""

    def __init__(self, *, takes_whole: bool) -> None:
        super().__init__(is_direct=True)
        self.takes_whole = takes_whole
        self.by_asgi = 0

    def connect(self, client: tuple[str, int] | None = USUAL.client) -> BoundedHttpProtocol:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self.by_asgi += 1
            await self.app(scope, receive, send)

        config = uvicorn.Config(counted, interface="asgi3", log_config=None, lifespan="off")
        config.load()
        protocol = BoundedHttpProtocol(config, ServerState(), {})
        protocol.crowd = Connections(10)
        protocol.whole = self.app.whole if self.takes_whole else {}
        protocol.connection_made(Transport(client))
        return protocol

    async def answer(self, sent: Sent) -> Seen:
        protocol = self.connect(sent.client)
        seen = Seen()
        with structlog.testing.capture_logs() as logged, bugs(seen):
            protocol.data_received(head(sent) + body(sent))
            if None in sent.chunks:
                protocol.connection_lost(None)
            await quiet(protocol)
        answer = bytes(protocol.transport.sent)
        seen.messages = [{"status": int(answer[9:12] or 0), "bytes": answer}]
        seen.logged = [dict(each) for each in logged]
        assert self.app.under_way.count == self.app.budget.held == 0
        assert not self.app.budget.shares
        return seen


def head(sent: Sent) -> bytes:
    target = sent.path + (b"?" + sent.query if sent.query else b"")
    whole = b"".join(each or b"" for each in sent.chunks)
    declared = sent.declared if sent.declared is not None else b"%d" % len(whole)
    framing = (b"content-length", declared) if declared else (b"transfer-encoding", b"chunked")
    lines = [sent.method.encode() + b" " + target + b" HTTP/1.1", b"host: mdm"]
    lines += [name + b": " + value for name, value in (*sent.headers, framing)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def body(sent: Sent) -> bytes:
    chunks = [each for each in sent.chunks if each]
    if sent.declared == b"":
        chunks = [b"%x\r\n%b\r\n" % (len(each), each) for each in chunks] + [b"0\r\n\r\n"]
    return b"".join(chunks)


async def quiet(protocol: BoundedHttpProtocol) -> None:
    """Until the request of a connection is answered; one that waits on gets the end of its client."""
    for _ in range(50):
        await settle()
    if protocol.tasks:
        protocol.connection_lost(None)
        await settle()
    assert not protocol.tasks


@contextmanager
def bugs(seen: Seen) -> Iterator[None]:
    """Note what the server logs of exceptions."""

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.raised += repr(record.exc_info and record.exc_info[1])

    notes, log = Notes(), logging.getLogger("uvicorn.error")
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)


def both() -> tuple[Connected, Connected]:
    return Connected(takes_whole=True), Connected(takes_whole=False)


@pytest.mark.parametrize("words", BY_WORDS)
async def test_a_request_that_came_whole_is_answered_as_by_asgi(words: str) -> None:
    await alike(*both(), *BY_WORDS[words])


@pytest.mark.parametrize(
    ("sent", "is_whole", "status"),
    [
        (USUAL, True, 201),
        (USUAL.body(command()).header(b"idempotency-key", b"k"), True, 201),
        (USUAL.body(b"{"), True, 400),
        (GUESS, True, 401),
        (replace(USUAL, query=b"wait=x"), True, 400),
        (replace(USUAL, path=b"//v1/commands"), False, 201),
        (replace(USUAL, path=b"/v1/comm%61nds"), False, 201),
        (replace(USUAL, method="GET"), False, 200),
        (USUAL.body(command(x="x" * LIMIT)), False, 413),
        (USUAL.header(b"expect", b"100-continue"), False, 100),
    ],
)
async def test_only_what_is_whole_and_small_is_spared_asgi(
    sent: Sent, is_whole: bool, status: int
) -> None:
    whole, by_asgi = both()

    assert await alike(whole, by_asgi, sent) == [status]
    assert (whole.by_asgi, by_asgi.by_asgi) == (0 if is_whole else 1, 1)


@pytest.mark.parametrize("what", ["tokens", "audit"])
async def test_outages_are_answered_as_by_asgi(what: str) -> None:
    processes = both()
    for process in processes:
        getattr(process, what).is_away = True
    away = ANONYMOUS.header(b"authorization", b"bearer mdm_guess") if what == "tokens" else USUAL

    assert (await alike(*processes, away, USUAL.body(b"{")))[0] == 503


@pytest.mark.parametrize("short", ["requests", "bytes"])
async def test_a_process_that_is_full_answers_as_by_asgi(short: str) -> None:
    processes = both()
    for process in processes:
        if short == "requests":
            process.app.under_way.most = 0
        else:
            process.app.budget._limit = 10

    assert await alike(*processes, USUAL) == [503]
    assert processes[0].by_asgi == 1


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("insides"),
        StoreUnavailable("away"),
        TooManyRequests("wait", timedelta(seconds=1.5)),
        MdmError(""),
        BadRequest("x", [Fault("a", "b")]),
    ],
)
async def test_errors_of_an_endpoint_are_answered_as_by_asgi(error: Exception | None) -> None:
    processes = both()
    for process in processes:
        routes = failing(process.auth, error, DirectApiRoute)
        service = Service.of("test", [Feature(routers=(routes,))], Loops(process.world.clock))
        process.app = create_app([service], max_body=LIMIT, metrics=process.metrics)
    sent = replace(USUAL, path=b"/v1/fail")

    await alike(*processes, sent, sent)
    assert [process.by_asgi for process in processes] == [0, 2]


@pytest.mark.parametrize("more", [b"connection: close\r\n", b"connection: keep-alive\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_connection_ends_or_goes_on_as_by_asgi(version: bytes, more: bytes) -> None:
    one = (head(USUAL) + body(USUAL)).replace(b"1.1\r\n", version + b"\r\n" + more, 1)
    sent, closed = [], []
    for process in both():
        protocol = process.connect()
        protocol.data_received(one + one)  # the second one waits for its turn
        await quiet(protocol)
        sent.append(bytes(protocol.transport.sent))
        closed.append(protocol.transport.is_closing())
        protocol.connection_lost(None)

    assert sent[0] == sent[1] != b""
    assert closed[0] == closed[1]


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_client_that_hangs_up_takes_nothing_back_as_by_asgi(when: str) -> None:
    processes = both()
    for process in processes:
        protocol = process.connect()
        gate = process.world.at_store.stop("insert")
        protocol.data_received(head(USUAL) + body(USUAL))
        if when == "later":
            await process.world.at_store.reached("insert")
        protocol.connection_lost(None)
        gate.set()
        await quiet(protocol)
        assert not protocol.transport.sent
        assert len(process.audit.entries) == 1
        assert len(process.world.queue.entries) == (when == "later")
        assert process.app.under_way.count == process.app.budget.held == 0

    assert processes[0].outside() == processes[1].outside()


async def test_a_process_that_ends_cancels_what_is_under_way_as_by_asgi() -> None:
    sent = []
    for process in both():
        protocol = process.connect()
        gate = process.world.at_store.stop("insert")
        with bugs(Seen()):
            protocol.data_received(head(USUAL) + body(USUAL))
            await process.world.at_store.reached("insert")
            [task] = protocol.tasks
            task.cancel()
            await settle()
        sent.append(bytes(protocol.transport.sent))
        assert process.app.under_way.count == process.app.budget.held == 0
        gate.set()
        await settle()
        protocol.connection_lost(None)

    assert sent[0] == sent[1]
    assert sent[0].startswith(b"HTTP/1.1 500")


async def test_an_answer_waits_until_its_client_reads() -> None:
    process = Connected(takes_whole=True)
    protocol = process.connect()
    protocol.pause_writing()
    protocol.data_received(head(USUAL) + body(USUAL))
    for _ in range(50):
        await settle()
    assert not protocol.transport.sent

    protocol.resume_writing()
    await settle()

    assert protocol.transport.sent.startswith(b"HTTP/1.1 201 Created")
    protocol.connection_lost(None)


async def test_a_refused_request_leaves_no_bytes_on_its_connection() -> None:
    protocol = Connected(takes_whole=True).connect()
    protocol.data_received(head(GUESS) + body(GUESS))
    await quiet(protocol)

    assert protocol.transport.sent.startswith(b"HTTP/1.1 401")
    assert protocol.cycle.body == b""
    protocol.connection_lost(None)
