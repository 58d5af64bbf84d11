"""The connections of `tests.support.harness.sink`: just enough HTTP/1.1 for posts with a Content-Length."""

import asyncio
import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

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
    retry_after: str | None = None


OK = Behaviour()


class Host(Protocol):
    """The sink, as its connections see it."""

    open_requests: int

    def opened(self, link: "Link") -> None: ...
    def closed(self, link: "Link") -> None: ...
    def decide(self, path: str, headers: dict[str, str], body: bytes) -> Behaviour: ...
    def control(self, path: str, body: bytes) -> bytes: ...


class Link(asyncio.Protocol):
    """One connection: requests one after the other, bodies with a Content-Length."""

    def __init__(self, sink: Host) -> None:
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
                self._write(_answer(chosen.status, text, chosen))
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
        while left > 0 and not self._transport.is_closing():
            while self._transport.get_write_buffer_size() > 1 << 20:
                await asyncio.sleep(0.001)
            self._write(b"x" * min(left, 1 << 16))
            left -= 1 << 16

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _answer(status: int, body: bytes, chosen: Behaviour = OK) -> bytes:
    extra = f"Location: {chosen.location}\r\n" if chosen.location else ""
    if chosen.retry_after is not None:
        extra += f"Retry-After: {chosen.retry_after}\r\n"
    if status not in _BODILESS:
        extra += f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{extra}\r\n".encode() + body


_OK_ANSWER = _answer(200, b"")
