"""Limits of the connections that one listener holds, and how the last answer of one is sent.

Promises: descriptors are left for the store and the broker, however many connect; while there is room,
none is cut off; when there is none, the address with the most connections gives way with one that
waits for its client, so that no address keeps the others out. With TLS a connection counts from when
it is accepted, and those without a handshake give way first while they are many.
"""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from shared.web.client_address import source_of

RESERVED = 512
"""Descriptors for everything but the connections of clients."""
MOST_DESCRIPTORS = 65_536
HANDSHAKES = 4
"""One connection in so many may be without a handshake when there is no room. Above it, one of those gives
way; below it, others do: an address that holds all connections must not keep new ones out."""


class GentleEnd(asyncio.Transport):
    """The transport of the last answer: a close at once, with bytes unread, could lose the answer."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        super().__init__()
        self._end = end
        self.write = transport.write  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]

    def close(self) -> None:
        self._end()


class AnswerWatch:
    """Cuts a client off that takes nothing of what waits for it."""

    def __init__(self, transport: asyncio.Transport, within: timedelta) -> None:
        self._transport = transport
        self._within = within
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Look now and then whether what waits in our buffer gets less. Only while nothing is added
        to it: writing is paused, or the transport is closed, which waits for ever until it is read."""
        waits = self._transport.get_write_buffer_size()
        if waits and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                self._within.total_seconds(), self._look, waits
            )

    def forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, waited: int) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size() >= waited:
            self._transport.abort()
        else:
            self.watch()


class Connection(Protocol):
    @property
    def waits_for_client(self) -> bool: ...

    def give_way(self) -> None:
        """End at once."""


class _Crowd:
    """Connections by the address that they come from, the oldest first."""

    def __init__(self) -> None:
        self.count = 0
        self._of: dict[str, dict[Connection, None]] = {}

    def add(self, connection: Connection, address: str) -> None:
        self._of.setdefault(source_of(address), {})[connection] = None
        self.count += 1

    def remove(self, connection: Connection, address: str) -> None:
        source = source_of(address)
        found = self._of.get(source, {})
        if connection in found:
            del found[connection]
            self.count -= 1
            if not found:
                del self._of[source]

    def first_to_go(self) -> Connection | None:
        """The oldest of the largest group that waits for its client."""
        largest = max(self._of.values(), key=len)
        return next((each for each in largest if each.waits_for_client), None)


class Connections:
    def __init__(self, most: int) -> None:
        self._most = most
        self._begun = _Crowd()
        self._handshakes = _Crowd()

    def enter(self, connection: Connection, address: str) -> None:
        """A connection begins; one ends, if there are too many."""
        self._begun.add(connection, address)
        self._make_room(connection)

    def leave(self, connection: Connection, address: str) -> None:
        self._begun.remove(connection, address)

    def enter_handshake(self, handshake: Connection, address: str) -> None:
        """A connection was accepted, and has not shown yet that it speaks TLS."""
        self._handshakes.add(handshake, address)
        self._make_room(handshake)

    def leave_handshake(self, handshake: Connection, address: str) -> None:
        self._handshakes.remove(handshake, address)

    def _make_room(self, newest: Connection) -> None:
        """One gives way, if there are too many; the newest where none of its crowd waits."""
        if self._begun.count + self._handshakes.count > self._most:
            are_many = self._handshakes.count * HANDSHAKES > self._most
            crowd = self._handshakes if are_many else self._begun
            (crowd.first_to_go() or newest).give_way()


class Handshake:
    """A connection that was accepted, until it speaks HTTP."""

    def __init__(self, connection: socket.socket, address: str, crowd: Connections) -> None:
        self._connection = connection
        self._address = address
        self._crowd = crowd
        self._is_over = False

    @property
    def waits_for_client(self) -> bool:
        return True

    def begin(self) -> None:
        self._crowd.enter_handshake(self, self._address)

    def end(self) -> None:
        self._is_over = True
        self._crowd.leave_handshake(self, self._address)

    def give_way(self) -> None:
        if self._is_over:
            return
        self.end()
        with contextlib.suppress(OSError):  # it has left
            self._connection.shutdown(socket.SHUT_RDWR)  # its transport sees it leave


def most_connections() -> int:
    """Raise the limit of descriptors as far as the system allows, and say how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(hard, MOST_DESCRIPTORS):
        soft = min(hard, MOST_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(soft - RESERVED, soft // 2)
