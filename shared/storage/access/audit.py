"""Collection `audit`: what API clients changed. Owner: commands.

What is recorded together stands in one document, since a document and its place in an index cost
far more than an entry inside it (docs/adr/0014-audit-entries-share-documents.md).

_id (time of the first entry, its id), at, entries, keys. `keys` says what the document may be found
by: `c:` and a caller, `a:` and an action, `t:` and a target, and `*`. One index holds them all,
each in the order of the log.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.domain.access import AuditEntry, AuditPage, AuditQuery
from shared.domain.errors import unfit
from shared.storage.database import Database, Document
from shared.storage.indexes import Index

NAME = "audit"

_GATHERED_WITHIN = timedelta(minutes=1)
"""How much later than its document an entry can be; they are gathered for moments only."""
_FIRST_STEP = timedelta(minutes=2)
_PAGE = 200
"""Documents that are read at once."""
_EVERYTHING = "*"


def indexes(retention: timedelta) -> tuple[Index, ...]:
    return (
        Index(NAME, [("keys", 1), ("_id", 1)], of_array=True),
        Index(NAME, [("at", 1)], expire_after=retention),
    )


class MongoAuditLog:
    """Implements `shared.ports.access.AuditLog`."""

    def __init__(self, database: Database) -> None:
        self._documents = database.collection(NAME)

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        if entries:
            await self._documents.insert_one(_document(entries))

    async def find(self, query: AuditQuery) -> AuditPage:
        before = _Cursor.read(query.cursor) if query.cursor else None
        found: list[AuditEntry] = []
        last: _Cursor | None = None
        for low, high in _steps(query, before):
            async for position, entry in self._entries(query, low, high):
                if before is not None and not position.is_before(before):
                    continue
                if len(found) == query.limit and last is not None:
                    return AuditPage(tuple(found), str(last))
                if query.holds(entry):
                    found.append(entry)
                    last = position
        return AuditPage(tuple(found))

    async def _entries(self, query: AuditQuery, low: str, high: str) -> Any:
        """Each entry of the documents from `low` up to `high`, backwards, with its place."""
        while True:
            documents = await self._documents.find(
                {"keys": _key(query), "_id": {"$gte": low, "$lt": high}},
                sort=[("_id", -1)],
                limit=_PAGE,
            )
            for document in documents:
                for index, entry in reversed(list(enumerate(document["entries"]))):
                    yield _Cursor(document["_id"], index), _entry(entry)
            if len(documents) < _PAGE:
                return
            high = documents[-1]["_id"]


class _Cursor:
    """Where an entry stands in the log."""

    def __init__(self, document: str, index: int) -> None:
        self.document = document
        self.index = index

    def is_before(self, other: "_Cursor") -> bool:
        return (self.document, self.index) < (other.document, other.index)

    def __str__(self) -> str:
        return f"{self.document}.{self.index}"

    @classmethod
    def read(cls, cursor: str) -> "_Cursor":
        document, _, index = cursor.rpartition(".")
        time = document.partition("-")[0]
        is_cursor = len(time) == _TIME_DIGITS and set(time) <= set("0123456789")
        is_cursor = is_cursor and time < _END_OF_TIME
        if not is_cursor or not index.isascii() or not index.isdigit() or len(index) > 9:
            expected = "the `next` of a page"
            raise unfit("cursor", expected)
        return cls(document, int(index))


_TIME_DIGITS = 15
_BEGIN_OF_TIME = datetime(1970, 1, 2, tzinfo=UTC)
_END_OF_TIME = "253402300800000"
"""The year 10000, as `_written` would write it."""


def _written(time: datetime) -> str:
    """Milliseconds since 1970, in an order as text."""
    return f"{max(0, int(time.timestamp() * 1000)):0{_TIME_DIGITS}d}"


def _steps(query: AuditQuery, before: _Cursor | None) -> Iterator[tuple[str, str]]:
    """Spans of the log, backwards, each longer than the one before: a store may pay for all that a
    span holds, whatever the limit says, and a page is full after a short one where much happens."""
    high_time, high = query.until, _written(query.until)
    if before is not None:
        milliseconds = int(before.document.partition("-")[0])
        high_time = min(high_time, datetime.fromtimestamp(milliseconds / 1000, UTC))
        high = min(high, f"{before.document}~")
    end, step = max(query.since, _BEGIN_OF_TIME) - _GATHERED_WITHIN, _FIRST_STEP
    while high_time > end:
        low_time = max(end, high_time - step)
        low = _written(low_time)
        yield low, high
        high_time, high, step = low_time, low, step * 2


def _key(query: AuditQuery) -> str:
    """The narrowest one."""
    if query.target is not None:
        return f"t:{query.target}"
    if query.caller is not None:
        return f"c:{query.caller}"
    return _EVERYTHING if query.action is None else f"a:{query.action}"


def _document(entries: Sequence[AuditEntry]) -> Document:
    keys = {_EVERYTHING}
    for entry in entries:
        keys |= {f"c:{entry.caller}", f"a:{entry.action}"}
        keys |= {f"t:{target}" for target in entry.targets}
    first = min(entries, key=lambda entry: entry.at)
    return {
        "_id": f"{_written(first.at)}-{first.id}",
        "at": first.at,
        "keys": sorted(keys),
        "entries": [_inner(entry) for entry in entries],
    }


_OPTIONAL = ("targets_left_out", "detail", "request_id")


def _inner(entry: AuditEntry) -> Document:
    inner: Document = {
        "id": entry.id,
        "at": entry.at,
        "caller": entry.caller,
        "address": entry.address,
        "route": entry.route,
        "action": entry.action,
        "status": entry.status,
        "targets": list(entry.targets),
    }
    optional = {name: getattr(entry, name) for name in _OPTIONAL}
    return inner | {name: value for name, value in optional.items() if value}


def _entry(inner: Document) -> AuditEntry:
    return AuditEntry(
        id=inner["id"],
        at=inner["at"],
        caller=inner["caller"],
        address=inner["address"],
        route=inner["route"],
        action=inner["action"],
        status=inner["status"],
        targets=tuple(inner["targets"]),
        targets_left_out=inner.get("targets_left_out", 0),
        detail=inner.get("detail"),
        request_id=inner.get("request_id"),
    )
