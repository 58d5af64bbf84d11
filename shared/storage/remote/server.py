"""Serves the store of a folder to commands beside its process, over `store.sock` in the folder.

Promises: only our own user and root are answered; a client that ends, hangs or sends anything else costs no
more than its connection; the work of a client ends with it, except for a write that was handed to the store;
no socket is left behind, and without one (a file system that has none) all else goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from shared.domain.errors import BadRequest, StoreUnavailable
from shared.storage.database import (
    Collection,
    DeleteOne,
    Document,
    FolderDatabase,
    Operation,
    UpdateOne,
    sized_pieces,
)
from shared.storage.remote import socket_file
from shared.storage.remote.frames import Garbled, error_message, framed, index_of, received
from shared.storage.sqlite.engine.documents import decoded, encoded

log = structlog.get_logger()

Args = dict[str, Any]

MOST_CLIENTS = 64
REQUEST_DEADLINE = timedelta(seconds=10)
"""From the connection to the last byte of the request."""
STANDSTILL = timedelta(minutes=1)
"""A client that takes nothing for so long is given up."""
HEARTBEAT = timedelta(seconds=2)
"""The interval of reports from long work, by which a client knows that we are alive."""
_BATCH_DOCUMENTS = 1_000
_BATCH_BYTES = 1_000_000


class StoreServer:
    """Serves one store from `start` to `close`."""

    def __init__(
        self, database: FolderDatabase, folder: Path, *, heartbeat: timedelta = HEARTBEAT
    ) -> None:
        self._database = database
        self._folder = folder
        self._heartbeat = heartbeat
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen; who calls this holds the folder."""
        try:
            listening = socket_file.bound(self._folder)
        except OSError as exc:
            log.warning("store_has_no_socket", folder=str(self._folder), reason=exc.strerror)
            return
        self._server = await asyncio.start_unix_server(self._accept, sock=listening)

    async def close(self) -> None:
        """End what is under way, and take the socket away. May be called twice."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        socket_file.remove(self._folder)
        serving = set(self._serving)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer)
        try:
            if socket_file.is_of_us(writer.get_extra_info("socket")):
                await self._answer(client)
            await client.end()
        except _Gone:
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, client: "_Client") -> None:
        try:
            request = await client.request()
            # Only now, since what is not read may cost the client the answer.
            if len(self._serving) > MOST_CLIENTS:
                raise StoreUnavailable("too many commands work on this folder at once")
        except (StoreUnavailable, BadRequest) as exc:
            await client.send(error_message(exc) or {})
            return
        work = asyncio.create_task(self._work(request, client))
        try:
            await client.until_gone_or(work, self._heartbeat)
        finally:
            work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():
            await client.send(work.result())

    async def _work(self, request: tuple[str, str, Args], client: "_Client") -> Document:
        """The last message of the answer."""
        try:
            return {"result": await _result_of(self._database, request, client)}
        except _Gone:
            raise
        except Exception as exc:  # every error of a request is answered
            message = error_message(exc)
            if message is None:
                log.exception("store_request_failed", operation=request[0])
                message = {
                    "error": "the store could not do this: see the server's log",
                    "kind": StoreUnavailable.__name__,
                }
            return message


class _Gone(Exception):
    """The client has ended, or takes nothing."""


class _Client:
    """The other side of one connection. Raises _Gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> tuple[str, str, Args]:
        """Read the request. BadRequest where it is none."""
        try:
            async with asyncio.timeout(REQUEST_DEADLINE.total_seconds()):
                message = await received(self._reader)
        except Garbled as exc:
            raise BadRequest(f"not a request to the store: {exc}") from None
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
            raise _Gone from exc
        op, name, args = message.get("op"), message.get("collection", ""), message.get("args", {})
        if not (isinstance(op, str) and isinstance(name, str) and isinstance(args, dict)):
            raise BadRequest("not a request to the store")
        return op, name, args

    async def until_gone_or(self, work: "asyncio.Task[Document]", heartbeat: timedelta) -> None:
        """Wait until the work is done, or the client has ended; it gets reports meanwhile."""
        gone = asyncio.create_task(self._reader.read(1))
        try:
            while not work.done() and not gone.done():
                await asyncio.wait(
                    {work, gone},
                    timeout=heartbeat.total_seconds(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not work.done():
                    self.say("")
        finally:
            gone.cancel()
            await asyncio.wait({gone})  # raises a cancellation of our own, and none of `gone`
            if not gone.cancelled():
                gone.exception()  # a broken connection is one that has ended

    def say(self, progress: str) -> None:
        """Report progress; omitted where the client is behind."""
        if not self._writer.transport.get_write_buffer_size():
            self._writer.write(framed({"progress": progress}))

    async def batch(self, documents: Sequence[Document]) -> None:
        """Send documents, in messages that are not too large."""
        sized = [(blob, len(blob)) for blob in map(encoded, documents)]
        for blobs in sized_pieces(sized, _BATCH_DOCUMENTS, _BATCH_BYTES):
            await self.send({"batch": blobs})

    async def send(self, message: Document) -> None:
        self._writer.write(framed(message))
        await self._within_standstill(self._writer.drain())

    async def end(self) -> None:
        """Close the connection once all is sent."""
        self._writer.close()
        await self._within_standstill(self._writer.wait_closed())

    async def _within_standstill(self, step: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(STANDSTILL.total_seconds()):
                await step
        except (OSError, TimeoutError) as exc:
            raise _Gone from exc


async def _result_of(
    database: FolderDatabase, request: tuple[str, str, Args], client: _Client
) -> Any:
    """Do the operation. BadRequest for an unknown one."""
    op, name, args = request
    if op in _OF_COLLECTION:
        return await _OF_COLLECTION[op](database.collection(name), args, client)
    if op in _OF_DATABASE:
        return await _OF_DATABASE[op](database, args, client)
    raise BadRequest("no operation of the store")


async def _find(things: Collection, args: Args, client: _Client) -> None:
    options = dict(args["options"])
    if "sort" in options:
        options["sort"] = [(path, direction) for path, direction in options["sort"]]
    await client.batch(await things.find(args["query"], args["fields"], **options))


async def _scan(things: Collection, args: Args, client: _Client) -> None:
    async for documents in things.scan(args["query"], args["fields"], batch=args["batch"]):
        await client.batch(documents)


async def _insert_many(things: Collection, args: Args, client: _Client) -> list[int]:
    return sorted(await things.insert_many([decoded(blob) for blob in args["documents"]]))


async def _bulk_write(things: Collection, args: Args, client: _Client) -> list[Any]:
    operations: list[Operation] = [
        UpdateOne(**given) if "update" in given else DeleteOne(**given)
        for given in map(decoded, args["operations"])
    ]
    hits, met = await things.bulk_write(operations)
    return [hits, sorted(met)]


_OF_COLLECTION: dict[str, Callable[[Collection, Args, _Client], Awaitable[Any]]] = {
    "find": _find,
    "scan": _scan,
    "insert_many": _insert_many,
    "update_one": lambda things, args, _: things.update_one(
        args["query"], args["update"], upsert=args["upsert"]
    ),
    "update_many": lambda things, args, _: things.update_many(args["query"], args["update"]),
    "bulk_write": _bulk_write,
    "delete_one": lambda things, args, _: things.delete_one(args["query"]),
    "delete_many": lambda things, args, _: things.delete_many(args["query"]),
}


async def _check(database: FolderDatabase, args: Args, client: _Client) -> Document:
    return asdict(await database.check(client.say))


_OF_DATABASE: dict[str, Callable[[FolderDatabase, Args, _Client], Awaitable[Any]]] = {
    "names": lambda database, *_: database.names(),
    "ping": lambda database, *_: database.ping(),
    "ensure": lambda database, args, _: database.ensure(
        [index_of(each) for each in args["indexes"]]
    ),
    "backup": lambda database, args, client: database.backup(Path(args["file"]), client.say),
    "check": _check,
}
