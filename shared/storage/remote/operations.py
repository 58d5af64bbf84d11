"""Operations for commands beside the server: those of `FolderDatabase`, and nothing else."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from shared.domain.errors import BadRequest
from shared.storage.database import (
    Collection,
    DeleteOne,
    Document,
    FolderDatabase,
    Operation,
    UpdateOne,
)
from shared.storage.indexes import Index
from shared.storage.sqlite.engine.documents import decoded

Args = dict[str, Any]


class Out(Protocol):
    """Takes the parts of an answer that come before its result."""

    async def batch(self, documents: Sequence[Document]) -> None: ...

    def say(self, progress: str) -> None: ...


async def result_of(database: FolderDatabase, request: tuple[str, str, Args], out: Out) -> Any:
    """Do the operation. BadRequest for an unknown one."""
    op, name, args = request
    if op in _OF_COLLECTION:
        return await _OF_COLLECTION[op](database.collection(name), args, out)
    if op in _OF_DATABASE:
        return await _OF_DATABASE[op](database, args, out)
    raise BadRequest("no operation of the store")


async def _find(things: Collection, args: Args, out: Out) -> None:
    options = dict(args["options"])
    if "sort" in options:
        options["sort"] = [(path, direction) for path, direction in options["sort"]]
    await out.batch(await things.find(args["query"], args["fields"], **options))


async def _scan(things: Collection, args: Args, out: Out) -> None:
    async for documents in things.scan(args["query"], args["fields"], batch=args["batch"]):
        await out.batch(documents)


async def _insert_many(things: Collection, args: Args, out: Out) -> list[int]:
    return sorted(await things.insert_many([decoded(blob) for blob in args["documents"]]))


async def _bulk_write(things: Collection, args: Args, out: Out) -> list[Any]:
    operations: list[Operation] = [
        UpdateOne(**given) if "update" in given else DeleteOne(**given)
        for given in map(decoded, args["operations"])
    ]
    hits, met = await things.bulk_write(operations)
    return [hits, sorted(met)]


_OF_COLLECTION: dict[str, Callable[[Collection, Args, Out], Awaitable[Any]]] = {
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


async def _check(database: FolderDatabase, args: Args, out: Out) -> Document:
    return asdict(await database.check(out.say))


_OF_DATABASE: dict[str, Callable[[FolderDatabase, Args, Out], Awaitable[Any]]] = {
    "names": lambda database, *_: database.names(),
    "ping": lambda database, *_: database.ping(),
    "ensure": lambda database, args, _: database.ensure(
        [index_of(each) for each in args["indexes"]]
    ),
    "backup": lambda database, args, out: database.backup(Path(args["file"]), out.say),
    "check": _check,
}


def index_message(index: Index) -> Document:
    """An index as it goes over the socket."""
    expire = index.expire_after
    return {
        "collection": index.collection,
        "keys": [list(key) for key in index.keys],
        "flags": [index.unique, index.sparse, index.of_array],
        "partial": index.partial,
        "replaces": index.replaces,
        "expire_seconds": None if expire is None else expire.total_seconds(),
    }


def index_of(message: Document) -> Index:
    """The index in such a message."""
    unique, sparse, of_array = message["flags"]
    expire = message["expire_seconds"]
    return Index(
        message["collection"],
        [(path, direction) for path, direction in message["keys"]],
        unique=unique,
        sparse=sparse,
        expire_after=None if expire is None else timedelta(seconds=expire),
        of_array=of_array,
        partial=message.get("partial", False),
        replaces=message.get("replaces", ""),
    )
