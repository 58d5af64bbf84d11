"""The connection to MongoDB: the one place that knows which driver is used and what it raises.

Promises: every write is majority and journaled, every read that decides something comes from the
primary, every operation has a deadline, no cancellation is lost in a driver, and whatever it raises
becomes StoreUnavailable, or a refusal of a document that cannot be stored (except duplicate keys and
the write errors of a bulk, which adapters read themselves).
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, timedelta
from inspect import isawaitable
from typing import Any, Literal

from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from shared.domain.errors import BadRequest, Misconfigured, StoreUnavailable, TooLarge

Driver = Literal["motor", "pymongo"]
Document = dict[str, Any]
Query = Mapping[str, Any]

OPERATION_TIMEOUT = timedelta(seconds=10)
DUPLICATE_KEY = 11000
OBJECT_TOO_LARGE = {10334, 17419, 17420}  # inserted; after an update; by an upsert


@contextmanager
def translated() -> Iterator[None]:
    """Around calls of the driver: its exceptions become ours; duplicate keys and bulk errors pass."""
    with _cancellable():
        try:
            yield
        except (DuplicateKeyError, BulkWriteError):
            raise
        except DocumentTooLarge as exc:
            raise TooLarge(_TOO_LARGE) from exc
        except InvalidDocument as exc:
            raise BadRequest("the store cannot hold this document") from exc
        except PyMongoError as exc:
            if isinstance(exc, OperationFailure) and exc.code in OBJECT_TOO_LARGE:
                raise TooLarge(_TOO_LARGE) from exc
            raise StoreUnavailable(f"MongoDB: {type(exc).__name__}") from exc


_TOO_LARGE = "the document is too large for the store"


@contextmanager
def _cancellable() -> Iterator[None]:
    """`asyncio.wait_for` of Python 3.11, which PyMongo's client uses, swallows a cancellation that
    comes in the moment of its result; the task still counts it."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


def duplicates(error: BulkWriteError) -> set[int]:
    """Indexes of the operations that met a duplicate key; raises TooLarge where a document was, and
    StoreUnavailable for any other fault."""
    details = error.details
    others = {e.get("code") for e in details.get("writeErrors", ())} - {DUPLICATE_KEY}
    if others & OBJECT_TOO_LARGE:
        raise TooLarge(_TOO_LARGE) from error
    if others or details.get("writeConcernErrors"):
        raise StoreUnavailable("MongoDB: bulk write failed") from error
    return {e["index"] for e in details["writeErrors"]}


class Collection:
    """The few operations we use, with deadlines and translated errors, alike on both drivers."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    @property
    def raw(self) -> Any:
        """The driver's own collection, for index management."""
        return self._raw

    async def find(
        self, query: Query, fields: Mapping[str, Any] | None = None, **options: Any
    ) -> list[Document]:
        """All documents of the match set; `options` as of the driver's find (sort, limit, hint)."""
        with translated():
            found: list[Document] = await self._raw.find(query, fields, **options).to_list(None)
            return found

    async def find_one(
        self, query: Query, fields: Mapping[str, Any] | None = None
    ) -> Document | None:
        with translated():
            found: Document | None = await self._raw.find_one(query, fields)
            return found

    async def aggregate(self, pipeline: Sequence[Query]) -> list[Document]:
        with translated():
            cursor = self._raw.aggregate(pipeline)
            if isawaitable(cursor):  # Motor gives a cursor at once, PyMongo's client by a coroutine
                cursor = await cursor
            found: list[Document] = await cursor.to_list(None)
            return found

    async def insert_one(self, document: Document) -> bool:
        """False: a document with that unique key is there already."""
        try:
            with translated():
                await self._raw.insert_one(document)
        except DuplicateKeyError:
            return False
        return True

    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        """Insert in one unordered batch; the indexes of those that met a duplicate key."""
        if not documents:
            return set()
        try:
            with translated():
                await self._raw.insert_many(documents, ordered=False)
        except BulkWriteError as exc:
            return duplicates(exc)
        return set()

    async def update_one(self, query: Query, update: Query, *, upsert: bool = False) -> int:
        """How many documents matched (0 or 1)."""
        with translated():
            done = await self._raw.update_one(query, update, upsert=upsert)
        return int(done.matched_count)

    async def update_many(self, query: Query, update: Query) -> int:
        """How many documents matched."""
        with translated():
            done = await self._raw.update_many(query, update)
        return int(done.matched_count)

    async def bulk_write(self, operations: Sequence[Any]) -> tuple[int, set[int]]:
        """One unordered batch: how many matched or were upserted, and which met a duplicate key."""
        if not operations:
            return 0, set()
        try:
            with translated():
                done = await self._raw.bulk_write(operations, ordered=False)
        except BulkWriteError as exc:
            hits = exc.details["nMatched"] + exc.details["nUpserted"]
            return int(hits), duplicates(exc)
        return int(done.matched_count) + int(done.upserted_count), set()

    async def delete_many(self, query: Query) -> int:
        with translated():
            done = await self._raw.delete_many(query)
        return int(done.deleted_count)

    async def delete_one(self, query: Query) -> int:
        with translated():
            done = await self._raw.delete_one(query)
        return int(done.deleted_count)


class Mongo:
    """One client, one database. The database is the one that the URL names, else `macromdm`."""

    def __init__(self, url: str, *, driver: Driver = "motor") -> None:
        options: dict[str, Any] = {
            "serverSelectionTimeoutMS": 5_000,
            "connectTimeoutMS": 5_000,
            "timeoutMS": int(OPERATION_TIMEOUT.total_seconds() * 1000),
            "tz_aware": True,
            "appname": "macromdm",
        }
        try:
            name = parse_uri(url)["database"] or "macromdm"
            self._client: Any = _client_class(driver)(url, **options)
        except (InvalidURI, PyMongoError, ValueError) as exc:
            raise Misconfigured("MDM_MONGODB_URL is not a usable MongoDB URL") from exc
        self._database = self._client.get_database(
            name,
            codec_options=CodecOptions(tz_aware=True, tzinfo=UTC),
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern(w="majority", j=True),
            read_concern=ReadConcern("local"),
        )

    def collection(self, name: str) -> Collection:
        return Collection(self._database[name])

    async def ping(self) -> None:
        """Raises StoreUnavailable when the primary does not answer."""
        with translated():
            await self._database.command("ping")

    async def close(self) -> None:
        done = self._client.close()
        if done is not None:  # Motor closes at once, PyMongo's client by a coroutine
            await done


def _client_class(driver: Driver) -> Any:
    if driver == "pymongo":
        return AsyncMongoClient
    from motor.motor_asyncio import AsyncIOMotorClient

    return AsyncIOMotorClient
