"""A name server: what Docker's and a cluster's say of the replicas of a service, for proxies under test."""

import asyncio
import socket
import struct
from types import TracebackType

_A, _HEADER = 1, 12


class NameServer:
    """Answers with the addresses in `hosts`, none of which anybody may keep for longer than a second."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.hosts: dict[str, list[str]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def reply(self, query: bytes, to: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self.answer(query), to)

    def answer(self, query: bytes) -> bytes:
        """The answer to a query for the IPv4 addresses of one name; to others, that there are none."""
        labels, at = [], _HEADER
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question = query[_HEADER : at + 5]
        (kind,) = struct.unpack_from(">H", query, at + 1)
        found = self.hosts.get(".".join(labels), []) if kind == _A else []
        records = b"".join(
            struct.pack(">HHHIH", 0xC000 | _HEADER, _A, 1, 1, 4) + socket.inet_aton(address)
            for address in found
        )
        return query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0) + question + records

    async def __aenter__(self) -> "NameServer":
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Protocol(self), local_addr=("127.0.0.1", self.port)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._transport is not None:
            self._transport.close()
            await asyncio.sleep(0)  # in which the loop closes its socket


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self._server.reply(data, sender)
