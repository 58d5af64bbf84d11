"""A receiver of webhooks that writes down every event and behaves as badly as it is told.

In a test: `async with Sink() as sink: ... sink.url, sink.arrivals`. As a process:
`python -m tests.harness.sink --port P --record FILE` appends one JSON line per request that came in
whole; `PUT /behaviour` with `{"kind": "status", "status": 500}` changes what it does, `GET /stats`
counts. Raw asyncio, since it has to take thousands of events a second beside the servers under test.
"""

import argparse
import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self, TextIO

import orjson

_TRICKLE = 0.05
_BODILESS = {204, 304}


class Kind(StrEnum):
    """What to do with a request."""

    STATUS = "status"
    HANG = "hang"
    TRICKLE = "trickle"
    RESET = "reset"
    HUGE = "huge"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to answer. `delay` is in seconds, before anything else; `size` is of a HUGE answer."""

    kind: Kind = Kind.STATUS
    status: int = 200
    delay: float = 0.0
    location: str | None = None
    size: int = 100 * 1024 * 1024


OK = Behaviour()


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request, complete. `at` and `order` say when it came; `was_taken`: it was answered 2xx."""

    order: int
    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    was_taken: bool
    event: dict[str, Any] = field(repr=False)

    @property
    def event_id(self) -> str:
        return str(self.event.get("event_id", ""))

    @property
    def device(self) -> str:
        """The device of the event, without the user of a user channel."""
        inner = self.event.get("checkin_event") or self.event.get("acknowledge_event") or {}
        return str(inner.get("udid") or inner.get("enrollment_id") or self.event.get("device", ""))


Script = Callable[[dict[str, Any]], Behaviour]


class Sink:
    """Serves on a loopback port until the context ends. `script` decides per event; `behaviour` is
    for all where there is no script."""

    def __init__(self, *, script: Script | None = None, record: TextIO | None = None) -> None:
        self.behaviour = OK
        self.script = script
        self.arrivals: list[Arrival] = []
        self.connections = 0
        self.open_requests = 0
        self._record = record
        self._count = 0
        self._ids: set[str] = set()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhook"

    async def start(self, port: int = 0) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the port and every connection; `start(sink.port)` brings it back."""
        if self._server is not None:
            self._server.close()
            for link in list(self._links):
                link.abort()
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def taken(self) -> list[Arrival]:
        return [arrival for arrival in self.arrivals if arrival.was_taken]

    def first_taken(self, device: str) -> list[str]:
        """Event ids of a device in the order of their first successful delivery."""
        ids = [arrival.event_id for arrival in self.taken if arrival.device == device]
        return list(dict.fromkeys(ids))

    def count_of(self, event_id: str) -> int:
        return sum(arrival.event_id == event_id for arrival in self.arrivals)

    async def wait_for(self, events: int, timeout: float = 10.0) -> None:
        """Until that many different events were taken."""
        async with asyncio.timeout(timeout):
            while len({arrival.event_id for arrival in self.taken}) < events:
                await asyncio.sleep(0.01)

    def decide(self, path: str, headers: dict[str, str], body: bytes) -> Behaviour:
        """Write a request down and say how to answer it."""
        try:
            event = orjson.loads(body)
        except ValueError:
            event = {}
        chosen = self.script(event) if self.script else self.behaviour
        was_taken = chosen.kind is Kind.STATUS and 200 <= chosen.status < 300
        self._count += 1
        arrival = Arrival(self._count, time.time(), path, headers, body, was_taken, event)
        self._ids.add(arrival.event_id)
        if self._record is None:
            self.arrivals.append(arrival)
        else:
            self._record.write(_line(arrival))
            self._record.flush()
        return chosen

    def control(self, path: str, body: bytes) -> bytes:
        """The two requests that are no events."""
        if path == "/behaviour" and body:
            given = orjson.loads(body)
            if "kind" in given:
                given["kind"] = Kind(given["kind"])
            self.behaviour = replace(OK, **given)
        return orjson.dumps(
            {
                "behaviour": asdict(self.behaviour),
                "requests": self._count,
                "events": len(self._ids),
                "connections": self.connections,
            }
        )

    def opened(self, link: "_Link") -> None:
        self.connections += 1
        self._links.add(link)

    def closed(self, link: "_Link") -> None:
        self._links.discard(link)


class _Link(asyncio.Protocol):
    """One connection: requests one after the other, bodies with a Content-Length."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._bytes = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._sink.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sink.closed(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        self._next()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        while self._task is None and (end := self._bytes.find(b"\r\n\r\n")) >= 0:
            head = self._bytes[:end].decode("latin-1").split("\r\n")
            headers = {}
            for line in head[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            size = int(headers.get("content-length", "0"))
            if len(self._bytes) < end + 4 + size:
                return
            body = bytes(self._bytes[end + 4 : end + 4 + size])
            del self._bytes[: end + 4 + size]
            method, path, _ = head[0].split(" ")
            self._serve(method, path, headers, body)

    def _serve(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        if method != "POST":
            self._write(_answer(200, self._sink.control(path, body)))
            return
        chosen = self._sink.decide(path, headers, body)
        if chosen == OK:
            self._write(_OK_ANSWER)
        else:
            self._task = asyncio.get_running_loop().create_task(self._behave(chosen))
            self._sink.open_requests += 1
            self._task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._sink.open_requests -= 1
        self._task = None
        if not task.cancelled():
            self._next()

    async def _behave(self, chosen: Behaviour) -> None:
        if chosen.delay:
            await asyncio.sleep(chosen.delay)
        match chosen.kind:
            case Kind.STATUS:
                text = b"" if chosen.status in _BODILESS else b"ok"
                self._write(_answer(chosen.status, text, chosen.location))
            case Kind.HANG:
                await asyncio.Event().wait()
            case Kind.TRICKLE:
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 100_000:
                    self._write(bytes([byte]))
                    await asyncio.sleep(_TRICKLE)
            case Kind.RESET:
                self._reset()
            case Kind.HUGE:
                await self._huge(chosen)

    def _reset(self) -> None:
        assert self._transport is not None
        link: socket.socket = self._transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self._transport.abort()

    async def _huge(self, chosen: Behaviour) -> None:
        head = f"HTTP/1.1 {chosen.status} X\r\nContent-Length: {chosen.size}\r\n\r\n"
        self._write(head.encode())
        assert self._transport is not None
        left = chosen.size
        while left > 0:
            while self._transport.get_write_buffer_size() > 1 << 20:
                await asyncio.sleep(0.001)
            self._write(b"x" * min(left, 1 << 16))
            left -= 1 << 16

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _answer(status: int, body: bytes, location: str | None = None) -> bytes:
    extra = f"Location: {location}\r\n" if location else ""
    if status not in _BODILESS:
        extra += f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{extra}\r\n".encode() + body


_OK_ANSWER = _answer(200, b"")


def _line(arrival: Arrival) -> str:
    """One line of the record; `read_record` is its reverse."""
    return (
        orjson.dumps(
            {
                "order": arrival.order,
                "at": arrival.at,
                "path": arrival.path,
                "was_taken": arrival.was_taken,
                "body": arrival.body.decode("utf-8", "replace"),
            }
        ).decode()
        + "\n"
    )


def read_record(lines: str) -> list[Arrival]:
    """The arrivals that a sink process has recorded; a last line still being written is left out."""
    arrivals = []
    for line in lines.splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        written = orjson.loads(line)
        body = written["body"].encode()
        try:
            event = orjson.loads(body)
        except ValueError:
            event = {}
        arrivals.append(
            Arrival(
                written["order"],
                written["at"],
                written["path"],
                {},
                body,
                written["was_taken"],
                event,
            )
        )
    return arrivals


async def _serve_process(port: int, record: TextIO) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    sink = await Sink(record=record).start(port)
    print(sink.url, flush=True)
    await stopping.wait()
    await sink.stop()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.sink")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", required=True, help="file to append one line per request to")
    given = parser.parse_args(arguments)
    with open(given.record, "a", encoding="utf-8") as record:
        asyncio.run(_serve_process(given.port, record))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
