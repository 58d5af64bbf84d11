"""The store of a folder that another process holds, by the socket of that process.

Promises: the same answers and errors as of the store itself; StoreUnavailable where the server ends, or is
silent for longer than an operation may take, after which the outcome of a write is unknown.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from shared.domain.errors import StoreUnavailable
from shared.storage.database import (
    OPERATION_TIMEOUT,
    Checked,
    Collection,
    Document,
    Fields,
    FolderDatabase,
    Operation,
    Query,
    Say,
    Sort,
    sized_pieces,
)
from shared.storage.indexes import Index
from shared.storage.remote import socket_file
from shared.storage.remote.frames import Garbled, error_of, framed, index_message, received
from shared.storage.sqlite.engine.documents import decoded, encoded

SENT_TOGETHER = 1_000
"""Documents or operations in one request."""
_FULL_BACKLOG_PAUSE = timedelta(milliseconds=50)
_ANSWERS_WITHIN = timedelta(seconds=2)
"""A server that is silent for longer does not serve."""


async def is_served(folder: Path) -> bool:
    """True where a server answers at the folder's socket, if only with an error."""
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN.total_seconds()):
            await RemoteDatabase(folder).ping()
    except (_NobodyAnswers, TimeoutError):
        return False
    except StoreUnavailable:
        return True
    return True


class _NobodyAnswers(StoreUnavailable):
    """No server listens, or it ended without an answer."""


class _Link:
    """Asks the server of one folder, with one connection for each request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def result(
        self, op: str, collection: str = "", say: Say = lambda _: None, /, **args: Any
    ) -> Any:
        """The result of an operation that has no documents to send, and reports of progress meanwhile."""
        result: Any = None
        async with aclosing(self.messages(op, collection, args)) as messages:
            async for message in messages:
                if message.get("progress"):
                    say(message["progress"])
                result = message.get("result", result)
        return result

    async def batches(
        self, op: str, collection: str, /, **args: Any
    ) -> AsyncGenerator[list[Document], None]:
        """The documents that an operation sends."""
        async with aclosing(self.messages(op, collection, args)) as messages:
            async for message in messages:
                if "batch" in message:
                    yield [decoded(blob) for blob in message["batch"]]

    async def messages(
        self, op: str, collection: str, args: dict[str, Any]
    ) -> AsyncGenerator[Document, None]:
        """All messages of an answer. Raises the error that it ends with, and StoreUnavailable."""
        request = framed({"op": op, "collection": collection, "args": args})
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT.total_seconds()):
                reader, writer = await self._connected()
        except (OSError, TimeoutError) as exc:
            raise _NobodyAnswers(f"nobody answers at the socket of {self._folder}") from exc
        try:
            writer.write(request)
            while True:
                message = await self._next(reader, writer)
                if "error" in message:
                    raise error_of(message)
                yield message
                if "result" in message:
                    return
        finally:
            writer.transport.abort()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                link = socket_file.connected(self._folder)
                break
            except BlockingIOError:
                await asyncio.sleep(_FULL_BACKLOG_PAUSE.total_seconds())
        return await asyncio.open_unix_connection(sock=link)

    async def _next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Document:
        try:
            async with asyncio.timeout(OPERATION_TIMEOUT.total_seconds()):
                await writer.drain()
                return await received(reader)
        except TimeoutError as exc:
            raise _NobodyAnswers(f"the server on {self._folder} does not answer") from exc
        except (OSError, asyncio.IncompleteReadError, Garbled) as exc:
            raise _NobodyAnswers(f"the server on {self._folder} ended meanwhile") from exc


class RemoteCollection(Collection):
    """Implements `shared.storage.database.Collection`."""

    def __init__(self, link: _Link, name: str) -> None:
        self._link = link
        self._name = name

    async def find(
        self,
        query: Query,
        fields: Fields | None = None,
        *,
        sort: Sort = (),
        limit: int = 0,
        skip: int = 0,
    ) -> list[Document]:
        options = {"limit": limit, "skip": skip} | ({"sort": list(sort)} if sort else {})
        found = self._link.batches("find", self._name, query=query, fields=fields, options=options)
        return [document async for documents in found for document in documents]

    async def scan(
        self, query: Query, fields: Fields | None = None, *, batch: int = 100
    ) -> AsyncIterator[list[Document]]:
        async with aclosing(
            self._link.batches("scan", self._name, query=query, fields=fields, batch=batch)
        ) as batches:
            async for documents in batches:
                yield documents

    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        met: set[int] = set()
        done = 0
        sized = [(blob, len(blob)) for blob in map(encoded, documents)]
        for blobs in sized_pieces(sized, SENT_TOGETHER):
            found = await self._link.result("insert_many", self._name, documents=blobs)
            met |= {done + number for number in found}
            done += len(blobs)
        return met

    async def update_one(self, query: Query, update: Query, *, upsert: bool = False) -> int:
        args = {"query": query, "update": update, "upsert": upsert}
        return int(await self._link.result("update_one", self._name, **args))

    async def update_many(self, query: Query, update: Query) -> int:
        return int(await self._link.result("update_many", self._name, query=query, update=update))

    async def bulk_write(self, operations: Sequence[Operation]) -> tuple[int, set[int]]:
        hits, done = 0, 0
        met: set[int] = set()
        sized = [(blob, len(blob)) for blob in (encoded(asdict(each)) for each in operations)]
        for blobs in sized_pieces(sized, SENT_TOGETHER):
            more, found = await self._link.result("bulk_write", self._name, operations=blobs)
            hits += more
            met |= {done + number for number in found}
            done += len(blobs)
        return hits, met

    async def delete_one(self, query: Query) -> int:
        return int(await self._link.result("delete_one", self._name, query=query))

    async def delete_many(self, query: Query) -> int:
        return int(await self._link.result("delete_many", self._name, query=query))


class RemoteDatabase(FolderDatabase):
    """Implements `shared.storage.database.FolderDatabase`."""

    def __init__(self, folder: Path) -> None:
        self._link = _Link(folder)

    @property
    def term(self) -> None:
        """The process that holds the folder is the only server."""

    def collection(self, name: str) -> RemoteCollection:
        return RemoteCollection(self._link, name)

    async def names(self) -> list[str]:
        return list(await self._link.result("names"))

    async def ensure(self, indexes: Sequence[Index]) -> None:
        await self._link.result("ensure", indexes=[index_message(each) for each in indexes])

    async def ping(self) -> None:
        """Raises StoreUnavailable where the store cannot work, or no server answers."""
        await self._link.result("ping")

    async def close(self) -> None:
        """Nothing stays open between two operations."""

    async def backup(self, file: Path, say: Say) -> int:
        return int(await self._link.result("backup", "", say, file=str(file)))

    async def check(self, say: Say) -> Checked:
        return Checked(**await self._link.result("check", "", say))
