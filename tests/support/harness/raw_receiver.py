"""A receiver of webhooks that answers each request with bytes that a test chooses, on a loopback port.

Unlike `tests.support.harness.sink`, which answers by HTTP, this one may say anything at any moment.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

Answer = Callable[["Link"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """What came; `head` without its last empty line."""

    connection: int
    head: bytes
    body: bytes

    @property
    def target(self) -> str:
        return self.head.split(b" ")[1].decode()

    def header(self, name: str) -> str | None:
        for line in self.head.decode().split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        return None


@dataclass
class Link:
    """One connection. A handler may write to it, wait, close it or reset it."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        taken = self.writer.get_extra_info("socket")
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


@dataclass
class RawReceiver:
    """An async context manager. `answer` is called for each request; with `reads_bodies` False once its head
    is there."""

    answer: Answer
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    wanted_port: int = 0
    reads_bodies: bool = True
    requests: list[Request] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    ended: int = 0
    """So many connections have ended."""

    @property
    def connections(self) -> int:
        return len(self.links)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}/hook"

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(
            self._take, self.host, self.wanted_port, ssl=self.tls
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for link in self.links:
            link.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(len(self.links), reader, writer)
        self.links.append(link)
        task = asyncio.get_running_loop().create_task(self._serve(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: Link) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while not link.writer.is_closing():
                head = (await link.reader.readuntil(b"\r\n\r\n"))[:-4]
                request = Request(link.number, head, b"")
                if self.reads_bodies:
                    length = int(request.header("content-length") or 0)
                    request = Request(link.number, head, await link.reader.readexactly(length))
                self.requests.append(request)
                await self.answer(link)
        self.ended += 1
        link.writer.close()


def saying(data: bytes, *, then_close: bool = False) -> Answer:
    """Always the same bytes."""

    async def answer(link: Link) -> None:
        await link.say(data)
        if then_close:
            link.close()

    return answer
