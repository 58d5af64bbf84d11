"""Accepts the connections of a listener with TLS.

Promise: a connection counts among those of its listener from when it is accepted, and ends if its
handshake is not done in ten seconds. The event loop's own server counts nothing before the handshake.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from shared.web.server.connections import Connections, Handshake
from shared.web.server.protocol import BoundedHttpProtocol

log = structlog.get_logger()

AT_ONCE = 16
"""Connections accepted before others go on: a handshake takes about a millisecond of CPU."""
PAUSE = timedelta(seconds=1)
"""After the system refused one for want of descriptors or memory."""
WANT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TlsAcceptor:
    """Gives each connection of its sockets a protocol, once its handshake is done."""

    deadline = timedelta(seconds=10)

    def __init__(
        self, tls: ssl.SSLContext, crowd: Connections, make: Callable[[], BoundedHttpProtocol]
    ) -> None:
        self._tls = tls
        self._crowd = crowd
        self._make = make
        self._sockets: list[socket.socket] = []
        self._under_way: dict[asyncio.Task[None], Handshake] = {}

    def open(self, sockets: Sequence[socket.socket], backlog: int) -> None:
        self._sockets += sockets
        for each in sockets:
            each.setblocking(False)
            each.listen(backlog)
            self._resume(each)

    def close(self) -> None:
        """Take no more connections, and end those whose handshakes are not done."""
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
        self._sockets.clear()
        for handshake in self._under_way.values():
            handshake.give_way()

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AT_ONCE):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno not in WANT:
                    continue  # it had left before it was accepted
                log.error("accept_failed", error=exc.strerror)
                loop.remove_reader(listening)
                loop.call_later(PAUSE.total_seconds(), self._resume, listening)
                return
            connection.setblocking(False)
            handshake = Handshake(connection, address[0], self._crowd)
            handshake.begin()
            task = loop.create_task(self._begin(connection, handshake))
            self._under_way[task] = handshake
            task.add_done_callback(self._under_way.pop)

    async def _begin(self, connection: socket.socket, handshake: Handshake) -> None:
        def made() -> BoundedHttpProtocol:
            protocol = self._make()
            protocol.handshake = handshake
            return protocol

        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                made,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self.deadline.total_seconds(),
            )
        except OSError:
            pass  # no TLS, no certificate that it trusts, too slow, or gone: its transport is closed
        finally:
            handshake.end()
