"""A small HTTP/1.1 client for load: one keep-alive connection, one request at a time.

It costs a tenth of a full client, so that a load measures the server. It reads answers with a
Content-Length (our services send no others) and nothing more.
"""

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType


class ConnectionLost(Exception):
    """The connection ended before the answer was complete: nobody knows whether it was served."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    head: bytes


class _Protocol(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = bytearray()
        self.waiting: asyncio.Future[Answer] | None = None
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.received[:end]).lower()
        length, at = 0, head.find(b"\r\ncontent-length:")
        if at >= 0:
            length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        if len(self.received) < end + 4 + length:
            return
        answer = Answer(int(head[9:12]), bytes(self.received[end + 4 : end + 4 + length]), head)
        del self.received[: end + 4 + length]
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(ConnectionLost())


def request_bytes(method: str, path: str, headers: str, body: bytes, *, host: str = "mdm") -> bytes:
    """A whole request; `headers` is ready text, each line ending in CRLF."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


class Connection:
    """Connects again by itself after a loss; each loss is told to its caller once."""

    def __init__(
        self, host: str, port: int, *, within: float = 30.0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._within = within
        self._protocol: _Protocol | None = None
        self._transport: asyncio.Transport | None = None

    async def send(self, request: bytes) -> Answer:
        """Send a request made by `request_bytes`. Raises ConnectionLost, or OSError when refused."""
        protocol = self._protocol
        if protocol is None or protocol.is_lost:
            self._transport, protocol = await asyncio.get_running_loop().create_connection(
                _Protocol, *self._address, ssl=self._tls
            )
            self._protocol = protocol
        assert self._transport is not None
        protocol.waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(self._within):
                return await protocol.waiting
        except TimeoutError as exc:
            self.close()
            raise ConnectionLost from exc

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._protocol = None

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
