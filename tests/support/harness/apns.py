"""A fake APNs: real HTTP/2 over real TLS, which demands a client certificate of its own CA.

Promises: every push that it answered 200 is in `pushes`, in order; every request that reached it counts
in `requests`; what it answers is scripted per token or for whatever comes next, ordinary answers being
200 with a new apns-id. `python -m tests.support.harness.apns --folder DIR` serves until SIGTERM, after it
printed the settings of MacroMDM as shell assignments.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import ssl
import uuid
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.support.harness.push_certificates import TOPIC, Pair, PushAuthority


@dataclass(frozen=True)
class Pushed:
    """One push that was taken."""

    token: bytes
    headers: Mapping[str, str]
    body: Mapping[str, object]
    connection: int
    certificate: str
    """Serial number of the client's certificate, in hex."""


@dataclass(frozen=True)
class Says:
    """An HTTP answer; `after` seconds pass first."""

    status: int = 200
    body: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0


@dataclass(frozen=True)
class Resets:
    """RST_STREAM for this request alone."""


@dataclass(frozen=True)
class GoesAway:
    """GOAWAY, then the connection closes: every request in flight on it is lost."""


@dataclass(frozen=True)
class Hangs:
    """Never answers, and keeps the connection."""


@dataclass(frozen=True)
class Breaks:
    """Drops the connection without a word."""


Answer = Says | Resets | GoesAway | Hangs | Breaks


def reason(status: int, word: str, **members: object) -> Says:
    """An answer as APNs words it, e.g. `reason(410, "Unregistered", timestamp=...)`."""
    return Says(status, {"reason": word, **members})


class FakeApns:
    """Starts on a free port of the loopback (or on `port`)."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.authority = PushAuthority(folder)
        self._server_pair = self.authority.server()
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self.pushes: list[Pushed] = []
        self.requests = 0
        self.connections = 0
        self.by_token: dict[bytes, deque[Answer]] = {}
        self.script: deque[Answer] = deque()
        self.refuses_clients = False
        """The TLS handshake fails: no client certificate is good enough."""
        self.refused: set[str] = set()
        """Serial numbers of client certificates that hear 403 whatever they ask."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def certificate(self, topic: str = TOPIC) -> Pair:
        return self.authority.issue(topic)

    def answers(self, token: bytes, *answers: Answer) -> None:
        """Answer the next pushes to this token so."""
        self.by_token.setdefault(token, deque()).extend(answers)

    def tokens(self) -> list[bytes]:
        return [push.token for push in self.pushes]

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, ssl=self._context()
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and drop every connection; `start` listens on the same port again."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.drop()
        await self._server.wait_closed()
        self._server = None
        while self._connections:
            await asyncio.sleep(0.01)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server_pair.certificate, self._server_pair.key)
        if not self.refuses_clients:
            context.load_verify_locations(self.authority.ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["h2"])
        return context

    def joined(self, connection: "_Connection") -> int:
        self._connections.add(connection)
        self.connections += 1
        return self.connections

    def left(self, connection: "_Connection") -> None:
        self._connections.discard(connection)

    def next_answer(self, token: bytes, certificate: str) -> Answer:
        self.requests += 1
        if certificate in self.refused:
            return reason(403, "BadCertificate")
        scripted = self.by_token.get(token)
        if scripted:
            return scripted.popleft()
        return self.script.popleft() if self.script else Says()


@dataclass
class _Request:
    headers: dict[str, str]
    body: bytes = b""

    @property
    def token(self) -> bytes:
        return bytes.fromhex(self.headers[":path"].removeprefix("/3/device/"))


class _Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, apns: FakeApns) -> None:
        self._apns = apns
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._requests: dict[int, _Request] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._certificate = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._certificate = transport.get_extra_info("peercert")["serialNumber"].lstrip("0")
        self._number = self._apns.joined(self)
        self._h2.initiate_connection()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._apns.left(self)
        for timer in self._timers:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.drop()
            return
        for event in events:
            self._on(event)
        self._flush()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._requests[event.stream_id] = _Request(
                    {str(name): str(value) for name, value in event.headers}
                )
            case h2.events.DataReceived():
                self._requests[event.stream_id].body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self._answer(event.stream_id, self._requests.pop(event.stream_id))
            case h2.events.StreamReset():
                self._requests.pop(event.stream_id, None)

    def _answer(self, stream: int, request: _Request) -> None:
        match self._apns.next_answer(request.token, self._certificate):
            case Says() as says if says.after:
                loop = asyncio.get_running_loop()
                self._timers.add(loop.call_later(says.after, self._say, stream, request, says))
            case Says() as says:
                self._say(stream, request, says)
            case Resets():
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case GoesAway():
                self._h2.close_connection()
                self._flush()
                if self._transport is not None:
                    self._transport.close()
            case Breaks():
                self.drop()
            case Hangs():
                pass

    def _say(self, stream: int, request: _Request, says: Says) -> None:
        apns_id = request.headers.get("apns-id") or str(uuid.uuid4()).upper()
        content = json.dumps(says.body).encode() if says.body else b""
        headers = [(":status", str(says.status)), ("apns-id", apns_id), *says.headers.items()]
        try:
            self._h2.send_headers(stream, headers, end_stream=not content)
            if content:
                self._h2.send_data(stream, content, end_stream=True)
        except h2.exceptions.ProtocolError:
            return  # the client gave this request up
        if says.status == 200:
            self._apns.pushes.append(
                Pushed(
                    request.token,
                    request.headers,
                    json.loads(request.body),
                    self._number,
                    self._certificate,
                )
            )
        self._flush()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


@asynccontextmanager
async def running(folder: Path, port: int = 0) -> AsyncIterator[FakeApns]:
    apns = FakeApns(folder, port)
    await apns.start()
    try:
        yield apns
    finally:
        await apns.stop()


async def serve(folder: Path, port: int, topic: str) -> None:
    """Serve until SIGTERM or SIGINT, and keep the tokens of what was pushed in `pushed.txt`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(folder, port) as apns:
        pair = apns.certificate(topic)
        print(f"MDM_APNS_URL={apns.url}")
        print(f"MDM_APNS_CA={apns.authority.ca_file}")
        print(f"MDM_PUSH_CERT={pair.certificate}")
        print(f"MDM_PUSH_KEY={pair.key}", flush=True)
        with (folder / "pushed.txt").open("a", encoding="ascii") as ledger:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await stop.wait()
                taken, apns.pushes = apns.pushes, []
                ledger.writelines(f"{push.token.hex()}\n" for push in taken)
                ledger.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake APNs for demonstrations and tests.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="for certificates and ledger")
    parser.add_argument("--topic", default=TOPIC)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.folder, arguments.port, arguments.topic))


if __name__ == "__main__":
    main()
