"""The document store as adapters see it: those of MongoDB's operations that they use.

Promises of every implementation (MongoDB by `shared.storage.mongo`, SQLite by `shared.storage.sqlite`): a
write that was answered is durable; a read that follows it sees it; each document changes as a whole, and of
several together only the order of `Database.write_in_order` is promised; every operation has a deadline. An
operator that is not listed here is refused (`NotImplementedError`) by SQLite, so do not use it before it is
there.

Conditions: equality, `$eq`, `$ne`, `$in`, `$gt`, `$gte`, `$lt`, `$lte`, `$exists`. Updates: `$set`, `$unset`,
`$inc`, `$min`, `$max`, `$addToSet` (with `$each`), `$currentDate`. A sort goes along an index, or by `_id`.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shared.storage.indexes import Index

Document = dict[str, Any]
Query = Mapping[str, Any]
Fields = Mapping[str, Any]
Sort = Sequence[tuple[str, int]]
"""Paths, each with 1 for ascending or -1 for descending."""

OPERATION_TIMEOUT = timedelta(seconds=10)
SCAN_DEADLINE = timedelta(hours=1)
"""The deadline of one step of a scan, in place of OPERATION_TIMEOUT: nothing indexes what is looked for."""
WRITTEN_TOGETHER = 8_000_000
"""Bytes of documents that one insert hands to the store; more go in several, one after the other."""


@dataclass(frozen=True, slots=True)
class UpdateOne:
    """An update of the first document that matches, in a bulk."""

    filter: Query
    update: Query
    upsert: bool = False


@dataclass(frozen=True, slots=True)
class DeleteOne:
    """The deletion of the first document that matches, in a bulk."""

    filter: Query


Operation = UpdateOne | DeleteOne


@dataclass(frozen=True, slots=True)
class Bulk:
    """Documents to insert into a collection, or operations on others of it."""

    collection: str
    inserts: Sequence[Document] = ()
    operations: Sequence[Operation] = ()


BulkResult = tuple[int, set[int]]
"""The number of documents inserted, matched or upserted, and the indexes with a duplicate key."""


class Collection(Protocol):
    """One collection, the base class of all implementations. Raises StoreUnavailable, TooLarge for a document
    over 16 MiB, and BadRequest for one with a value that the store has no type for."""

    async def find(
        self,
        query: Query,
        fields: Fields | None = None,
        *,
        sort: Sort = (),
        limit: int = 0,
        skip: int = 0,
    ) -> list[Document]:
        """The match set, from the document number `skip` on; with a limit, so many at most."""

    async def find_one(self, query: Query, fields: Fields | None = None) -> Document | None:
        found = await self.find(query, fields, limit=1)
        return found[0] if found else None

    def scan(
        self, query: Query, fields: Fields | None = None, *, batch: int = 100
    ) -> AsyncIterator[list[Document]]:
        """The match set in batches, in no order; what is written meanwhile may come or not."""

    async def insert_one(self, document: Document) -> bool:
        """False: a document with that unique key is there already."""
        return not await self.insert_many([document])

    async def insert_many(self, documents: Sequence[Document]) -> set[int]:
        """Insert in no order; the indexes of those that have a duplicate key."""

    async def update_one(self, query: Query, update: Query, *, upsert: bool = False) -> int:
        """Returns how many documents matched (0 or 1)."""

    async def update_many(self, query: Query, update: Query) -> int:
        """Returns how many documents matched."""

    async def bulk_write(self, operations: Sequence[Operation]) -> BulkResult:
        """Write in no order; deletions are not counted."""

    async def delete_one(self, query: Query) -> int: ...

    async def delete_many(self, query: Query) -> int: ...


class Database(Protocol):
    """All collections of one installation; the base class of all implementations."""

    @property
    def term(self) -> object:
        """Changes when another server, or the same one after an election, answers reads and writes. A read
        that decides something without a conditional write behind it counts only if the term is the same
        after a write that follows: a server that was deposed goes on reading for a while."""

    def collection(self, name: str) -> Collection: ...

    async def write_in_order(self, bulks: Sequence[Bulk]) -> list[BulkResult]:
        """Write one bulk after the other, the last one being the first that meets a duplicate key; the
        results of those that were written. Nothing of a bulk is durable without all bulks before it."""
        results: list[BulkResult] = []
        for bulk in bulks:
            collection = self.collection(bulk.collection)
            if bulk.inserts:
                met = await collection.insert_many(bulk.inserts)
                results.append((len(bulk.inserts) - len(met), met))
            else:
                results.append(await collection.bulk_write(bulk.operations))
            if results[-1][1]:
                break
        return results

    async def names(self) -> list[str]: ...

    async def ensure(self, indexes: Sequence[Index]) -> None:
        """Make missing indexes. An index whose options changed (a retention, say) is changed or rebuilt;
        other versions' indexes stay. Raises StoreUnavailable."""

    async def ping(self) -> None:
        """Raises StoreUnavailable when nothing can be read or written."""

    async def close(self) -> None: ...


Say = Callable[[str], None]
"""Reports the progress of long work, a line at a time."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The number of documents, some faults, and the number of faults."""

    documents: int
    faults: list[str]
    count: int


class FolderDatabase(Database, Protocol):
    """The database that one process holds in its data folder."""

    async def backup(self, file: Path, say: Say) -> int:
        """Write all that was answered so far to a new file; its size. Raises Misconfigured for a file that
        is there or cannot be, and StoreUnavailable where it was cut short; no file is left then."""

    async def check(self, say: Say) -> Checked:
        """Look at the whole file. Raises StoreUnavailable where that was cut short."""


def document_size(document: Document) -> int:
    return sum(len(value) for value in document.values() if isinstance(value, bytes | str))


Item = TypeVar("Item")


def sized_pieces(
    items: Iterable[tuple[Item, int]], most: int, most_bytes: int = WRITTEN_TOGETHER
) -> Iterator[list[Item]]:
    """Items with their sizes in bytes, cut in their order: each piece has so many of them at the most,
    and so many bytes unless a single item has more."""
    piece: list[Item] = []
    size = 0
    for item, item_size in items:
        if piece and (len(piece) >= most or size + item_size > most_bytes):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += item_size
    if piece:
        yield piece
