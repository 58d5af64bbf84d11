"""The connection to MongoDB: the one place that knows which driver is used.

Promises beside those of `Database`: every write is majority and journaled, every read that decides something
comes from the primary, and no cancellation is lost in a driver.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal

import pymongo
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import BulkWriteError, InvalidURI, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.topology_description import TopologyDescription
from pymongo.uri_parser import parse_uri

from shared.domain.errors import Misconfigured, StoreUnavailable
from shared.network.trusted_cas import check_files
from shared.storage.codec import OPTIONS
from shared.storage.database import (
    OPERATION_TIMEOUT,
    SCAN_DEADLINE,
    Collection,
    Database,
    DeleteOne,
    Document,
    Fields,
    Operation,
    Query,
    Sort,
    document_size,
    sized_pieces,
)
from shared.storage.indexes import Index
from shared.storage.mongo.errors import driver_errors, duplicates, taken_keys_are_faults

Driver = Literal["motor", "pymongo"]

INSERTED_TOGETHER = 1000
"""Documents in one insert."""

PING_DEADLINE = timedelta(seconds=3)
"""Sooner than callers give up, so that they get the reason."""
BUILD_DEADLINE = timedelta(hours=1)
"""In place of the client's: an index of a large collection takes its time to build."""

_CONFLICTS = {85, 86}  # IndexOptionsConflict, IndexKeySpecsConflict


class MongoCollection(Collection):
    """Implements `shared.storage.database.Collection`, alike on both drivers."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        """The driver's own collection."""

    async def find(
        self,
        query: Query,
        fields: Fields | None = None,
        *,
        sort: Sort = (),
        limit: int = 0,
        skip: int = 0,
    ) -> list[Document]:
        with driver_errors():
            cursor = self.raw.find(query, fields, sort=list(sort) or None, limit=limit, skip=skip)
            found: list[Document] = await cursor.to_list(None)
            return found

    async def find_one(self, query: Query, fields: Fields | None = None) -> Document | None:
        with driver_errors():
            found: Document | None = await self.raw.find_one(query, fields)
            return found

    async def scan(
        self, query: Query, fields: Fields | None = None, *, batch: int = 100
    ) -> AsyncIterator[list[Document]]:
        """One cursor: a store without an index for it looks through everything once."""
        cursor = self.raw.find(query, fields)
        while True:
            with driver_errors(), pymongo.timeout(SCAN_DEADLINE.total_seconds()):
                found = await cursor.to_list(batch)
            if not found:
                return
            yield found

    # `insert_one` by it, too: the driver's own would raise for the key alone, where the reply also reports a
    # write that is not on a majority: then the caller could not know if the document that is present stays.
    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        met: set[int] = set()
        done = 0
        sized = ((each, document_size(each)) for each in documents)
        for piece in sized_pieces(sized, INSERTED_TOGETHER):
            try:
                with driver_errors():
                    await self.raw.insert_many(piece, ordered=False)
            except BulkWriteError as exc:
                met |= {done + index for index in duplicates(exc)}
            done += len(piece)
        return met

    async def update_one(self, query: Query, update: Query, *, upsert: bool = False) -> int:
        with driver_errors(), taken_keys_are_faults():
            done = await self.raw.update_one(query, update, upsert=upsert)
        return int(done.matched_count)

    async def update_many(self, query: Query, update: Query) -> int:
        with driver_errors(), taken_keys_are_faults():
            done = await self.raw.update_many(query, update)
        return int(done.matched_count)

    async def bulk_write(self, operations: Sequence[Operation]) -> tuple[int, set[int]]:
        if not operations:
            return 0, set()
        try:
            with driver_errors():
                done = await self.raw.bulk_write(
                    [
                        pymongo.DeleteOne(each.filter)
                        if isinstance(each, DeleteOne)
                        else pymongo.UpdateOne(each.filter, each.update, upsert=each.upsert)
                        for each in operations
                    ],
                    ordered=False,
                )
        except BulkWriteError as exc:
            hits = exc.details["nMatched"] + exc.details["nUpserted"]
            return int(hits), duplicates(exc)
        return int(done.matched_count) + int(done.upserted_count), set()

    async def delete_many(self, query: Query) -> int:
        with driver_errors():
            done = await self.raw.delete_many(query)
        return int(done.deleted_count)

    async def delete_one(self, query: Query) -> int:
        with driver_errors():
            done = await self.raw.delete_one(query)
        return int(done.deleted_count)


class Mongo(Database):
    """Implements `shared.storage.database.Database`: one client, one database, the one that the URL names,
    else `macromdm`."""

    def __init__(self, url: str, *, driver: Driver = "motor") -> None:
        options: dict[str, Any] = {
            "serverSelectionTimeoutMS": 5_000,
            "connectTimeoutMS": 5_000,
            "timeoutMS": int(OPERATION_TIMEOUT.total_seconds() * 1000),
            "appname": "macromdm",
        }
        try:
            check_files(
                "MDM_MONGODB_URL", url, "tlscafile", {"tlscertificatekeyfile", "tlscrlfile"}
            )
            name = parse_uri(url)["database"] or "macromdm"
            self._client: Any = _client_class(driver)(url, **options)
        except (InvalidURI, PyMongoError, ValueError) as exc:
            raise Misconfigured("MDM_MONGODB_URL is not a usable MongoDB URL") from exc
        self._database = self._client.get_database(
            name,
            codec_options=OPTIONS,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern(w="majority", j=True),
            read_concern=ReadConcern("local"),
        )

    @property
    def term(self) -> object:
        return term_of(self._client.topology_description)

    def collection(self, name: str) -> MongoCollection:
        return MongoCollection(self._database[name])

    async def names(self) -> list[str]:
        with driver_errors():
            found = await self._database.list_collection_names()
        return sorted(name for name in found if not name.startswith("system."))

    async def ensure(self, indexes: Sequence[Index]) -> None:
        for index in indexes:
            await _ensure(self._database[index.collection], index)

    async def ping(self) -> None:
        """Raises StoreUnavailable when the primary does not answer."""
        with driver_errors(), pymongo.timeout(PING_DEADLINE.total_seconds()):
            await self._database.command("ping")

    async def close(self) -> None:
        done = self._client.close()
        if done is not None:  # Motor closes at once, PyMongo's client by a coroutine
            await done


def term_of(topology: TopologyDescription) -> object:
    """The primary of a replica set and its election, as the driver knows them. None where there is no primary
    now, and always for a standalone server and for mongos, which does not report elections."""
    for server in topology.server_descriptions().values():
        if server.server_type_name == "RSPrimary":
            return server.address, server.election_id
    return None


def _client_class(driver: Driver) -> Any:
    if driver == "pymongo":
        return AsyncMongoClient
    from motor.motor_asyncio import AsyncIOMotorClient

    return AsyncIOMotorClient


async def _ensure(raw: Any, index: Index) -> None:
    """Make the index of this collection if it is not there, or change it, and drop the one that it
    replaces. Raises StoreUnavailable."""
    with driver_errors():
        # Within the ordinary deadline: a store that hangs is not waited for as a build is.
        known = await raw.index_information()
    there = known.get(index.name, {})
    if not there or any(there.get(name) != value for name, value in _options(index).items()):
        await _make(raw, index)
    if index.replaces in known:
        with driver_errors(), suppress(OperationFailure):  # another process may have been faster
            await raw.drop_index(index.replaces)


async def _make(raw: Any, index: Index) -> None:
    with driver_errors(), pymongo.timeout(BUILD_DEADLINE.total_seconds()):
        if await _is_made(raw, index):
            return
        if index.expire_after is not None:
            # In place, where a new index would take long. A server that cannot do it rebuilds it.
            change = {"name": index.name, "expireAfterSeconds": _seconds(index.expire_after)}
            with suppress(OperationFailure):
                await raw.database.command("collMod", raw.name, index=change)
        if not await _is_made(raw, index):
            await raw.drop_index(index.name)
            if not await _is_made(raw, index):
                raise StoreUnavailable(f"index {index.name} of {raw.name} is changed by others")


async def _is_made(raw: Any, index: Index) -> bool:
    """Make it, if it is not there. False: another of its name is."""
    try:
        await raw.create_index(list(index.keys), name=index.name, **_options(index))
    except OperationFailure as exc:
        if exc.code not in _CONFLICTS:
            raise
        return False
    return True


def _options(index: Index) -> dict[str, object]:
    options: dict[str, object] = {}
    if index.unique:
        options["unique"] = True
    if index.sparse:
        options["sparse"] = True
    if index.partial:
        options["partialFilterExpression"] = {index.keys[0][0]: {"$exists": True}}
    if index.expire_after is not None:
        options["expireAfterSeconds"] = _seconds(index.expire_after)
    return options


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
