"""Copy all documents of one store into another one.

Promises: a target that holds anything else is not written to; a copy that was cut short goes on when it is
begun again; at the end the target has every document of the source, equal in values and types, and nothing
else; a document that differs is reported by its collection and `_id`. One that left the source by its age
since it was copied stays in the target until its services remove it."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta

from shared.domain.errors import Conflict
from shared.storage.certificates import challenges, issued
from shared.storage.database import (
    WRITTEN_TOGETHER,
    Collection,
    Database,
    Document,
    Fields,
)
from shared.storage.indexes import all_indexes
from shared.storage.sqlite.engine.documents import encoded

TOGETHER = 64
"""Documents that are looked up and written at once."""

Tell = Callable[[str, int, str], None]
"""Called after every few documents: the collection, how many so far, and what was done with them."""

_EXPIRES_BY = {
    index.collection: index.keys[0][0] for index in all_indexes() if index.expire_after is not None
}
_KEPT_FOR = {challenges.NAME: challenges.KEPT_FOR, issued.NAME: issued.KEPT_FOR}
"""Their time is an end, and how long they stay after it is no setting. The time of the other collections is
one of origin, nearly always past, and the source's retention is unknown here."""
_BEGIN_AGAIN = (
    "is in the target only; if it left the source by its age since a copy was cut short, begin again with an "
    "empty target"
)


class Copying:
    """One copy: `check_target`, `fill` and `verify`, in this order. Raises Conflict."""

    def __init__(self, source: Database, target: Database, now: datetime, tell: Tell) -> None:
        self._source = source
        self._target = target
        self._now = now
        self._tell = tell

    async def check_target(self) -> None:
        """Conflict where the target holds a document that is not of the source. Writes nothing."""
        for name in await self._target.names():
            await self._check_target(name, _KEPT_FOR.get(name))

    async def fill(self) -> None:
        """Make the indexes, and insert what is missing."""
        await self._target.ensure(all_indexes())
        for name in await self._source.names():
            count = 0
            with _taken(name):
                target = self._target.collection(name)
                async for piece in _pieces(self._source.collection(name)):
                    there = await _found(target, piece, {"_id": 1})
                    missing = [document for key, (document, _) in piece.items() if key not in there]
                    for number in sorted(await target.insert_many(missing)):
                        how = "has a unique key that another one in the target has"
                        raise _Differs(name, missing[number], how)
                    count += len(piece)
                    self._tell(name, count, "copied")

    async def verify(self) -> dict[str, int]:
        """Count the documents of each collection of the source, once all are in the target, and equal."""
        counts: dict[str, int] = {}
        for name in await self._source.names():
            with _taken(name):
                counts[name] = await self._verify(name)
        for name in set(await self._target.names()) - set(counts):
            await self._check_target(name, timedelta())
        return counts

    async def _verify(self, name: str) -> int:
        count = 0
        target = self._target.collection(name)
        async for piece in _pieces(self._source.collection(name)):
            copies = await _found(target, piece)
            for key, (document, blob) in piece.items():
                if key not in copies:
                    raise _Differs(name, document, "is missing in the target")
                _check_equal(name, document, blob, copies[key])
            count += len(piece)
            self._tell(name, count, "compared")
        there = sum([len(batch) async for batch in target.scan({}, {"_id": 1}, batch=1)])
        if there != count:
            # This reports which one. `check_target` found nothing foreign, and only we write to the target: a
            # document that is missing in the source, and is old enough, has left it meanwhile.
            await self._check_target(name, timedelta())
        return count

    async def _check_target(self, name: str, kept: timedelta | None) -> None:
        """Conflict where this collection of the target has a document that the source does not have, nor had
        until it was over for so long (None: for any time)."""
        count = 0
        with _taken(name):
            source = self._source.collection(name)
            async for piece in _pieces(self._target.collection(name)):
                originals = await _found(source, piece)
                for key, (document, blob) in piece.items():
                    if key in originals:
                        _check_equal(name, document, blob, originals[key])
                    elif kept is None or not self._is_over(name, document, kept):
                        is_aged = self._is_over(name, document)
                        how = _BEGIN_AGAIN if is_aged else "is in the target only"
                        raise _Differs(name, document, how)
                count += len(piece)
                self._tell(name, count, "found in the target")

    def _is_over(self, name: str, document: Document, kept: timedelta = timedelta()) -> bool:
        """True where the source may have removed it by its age."""
        since = document.get(_EXPIRES_BY.get(name, ""))
        return isinstance(since, datetime) and since + kept < self._now


class _Differs(Conflict):
    def __init__(self, name: str, document: Document, how: str) -> None:
        super().__init__(f"collection {name}: document {document['_id']!r} {how}")


Piece = Mapping[bytes, tuple[Document, bytes]]
"""Documents and what they are encoded, by their encoded ids."""


async def _pieces(collection: Collection) -> AsyncIterator[Piece]:
    """All documents, a few at a time: so few of them, and of so few bytes, as one write takes."""
    piece: dict[bytes, tuple[Document, bytes]] = {}
    size = 0
    # One by one, since a batch is counted in documents, and each may have 16 MiB.
    async for [document] in collection.scan({}, batch=1):
        blob = encoded(document)
        if piece and (len(piece) == TOGETHER or size + len(blob) > WRITTEN_TOGETHER):
            yield piece
            piece, size = {}, 0
        piece[_key(document)] = document, blob
        size += len(blob)
    if piece:
        yield piece


async def _found(
    collection: Collection, piece: Piece, fields: Fields | None = None
) -> dict[bytes, Document]:
    """The documents of the same ids, by their encoded ids."""
    ids = [document["_id"] for document, _ in piece.values()]
    found = await collection.find({"_id": {"$in": ids}}, fields)
    return {_key(document): document for document in found}


def _check_equal(name: str, document: Document, blob: bytes, other: Document) -> None:
    if encoded(other) != blob:
        raise _Differs(name, document, "differs in the target")


def _key(document: Document) -> bytes:
    return encoded({"_id": document["_id"]})


@contextmanager
def _taken(name: str) -> Iterator[None]:
    """Around work on a collection: one that a store of ours cannot have is none of ours."""
    try:
        yield
    except NotImplementedError as exc:
        raise Conflict(f"collection {name}: MacroMDM does not store {exc}") from exc
