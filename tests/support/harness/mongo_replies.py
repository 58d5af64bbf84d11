"""A server that speaks as much of MongoDB's protocol as to say hello, and answers inserts as a test wants."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import bson

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
_HEADER = struct.Struct("<iiii")
_HELLO = {
    "ok": 1,
    "isWritablePrimary": True,
    "ismaster": True,
    "helloOk": True,
    "maxWireVersion": 21,
    "minWireVersion": 0,
    "maxBsonObjectSize": 16 * 1024**2,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
}


@asynccontextmanager
async def answering_inserts_with(reply: dict[str, Any]) -> AsyncIterator[str]:
    """The URL of the server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size, number, _, opcode = _HEADER.unpack(await reader.readexactly(_HEADER.size))
                body = await reader.readexactly(size - _HEADER.size)
                answer = _insert_or_hello(body, reply) if opcode == OP_MSG else _HELLO
                writer.write(_message(opcode, number, bson.encode(answer)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def _insert_or_hello(body: bytes, reply: dict[str, Any]) -> dict[str, Any]:
    (size,) = struct.unpack_from("<i", body, 5)
    command = bson.decode(body[5 : 5 + size])
    return reply if "insert" in command else _HELLO


def _message(opcode: int, to: int, document: bytes) -> bytes:
    """An answer in the form of what was asked."""
    is_query = opcode == OP_QUERY
    body = (struct.pack("<iqii", 8, 0, 0, 1) if is_query else b"\0" * 5) + document
    answers_with = OP_REPLY if is_query else OP_MSG
    return _HEADER.pack(_HEADER.size + len(body), 1, to, answers_with) + body
