"""Collection `audit`: what API clients changed. Owner: commands.

Entries that are recorded together share a document (docs/adr/0014-audit-entries-share-documents.md): _id
(time of the first entry, its id), at, entries, keys. `keys` are its search keys, each in the order of the
log in one index: `c:` and a caller, `a:` and an action, `t:` and a target, and `*`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.domain.access import AuditEntry, AuditPage, AuditQuery
from shared.domain.errors import unfit
from shared.storage.database import Database, Document
from shared.storage.indexes import Index
from shared.storage.records import fields_of, record

NAME = "audit"

_GATHERED_WITHIN = timedelta(minutes=1)
"""The most by which an entry is later than its document; entries gather for moments only."""
_FIRST_STEP = timedelta(minutes=2)
_PAGE = 200
"""Documents in one read."""
_EVERYTHING = "*"
_OPTIONAL = ("targets_left_out", "detail", "request_id")


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
                if before is not None and position >= before:
                    continue
                if len(found) == query.limit and last is not None:
                    return AuditPage(tuple(found), str(last))
                if query.holds(entry):
                    found.append(entry)
                    last = position
        return AuditPage(tuple(found))

    async def _entries(self, query: AuditQuery, low: str, high: str) -> Any:
        """Each entry of the documents from `low` up to `high`, backwards, with its position."""
        keys = [("t:", query.target), ("c:", query.caller), ("a:", query.action)]  # narrowest first
        key = next((kind + of for kind, of in keys if of is not None), _EVERYTHING)
        while True:
            documents = await self._documents.find(
                {"keys": key, "_id": {"$gte": low, "$lt": high}},
                sort=[("_id", -1)],
                limit=_PAGE,
            )
            for document in documents:
                for index, entry in reversed(list(enumerate(document["entries"]))):
                    yield _Cursor(document["_id"], index), record(AuditEntry, entry)
            if len(documents) < _PAGE:
                return
            high = documents[-1]["_id"]


@dataclass(frozen=True, order=True)
class _Cursor:
    """The position of an entry in the log."""

    document: str
    index: int

    def __str__(self) -> str:
        return f"{self.document}.{self.index}"

    @classmethod
    def read(cls, cursor: str) -> "_Cursor":
        document, _, index = cursor.rpartition(".")
        time = document.partition("-")[0]
        is_cursor = len(time) == _TIME_DIGITS and set(time) <= set("0123456789")
        is_cursor = is_cursor and time < _END_OF_TIME
        if not is_cursor or not index.isascii() or not index.isdigit() or len(index) > 9:
            raise unfit("cursor", "the `next` of a page")
        return cls(document, int(index))


_TIME_DIGITS = 15
_BEGIN_OF_TIME = datetime(1970, 1, 2, tzinfo=UTC)
_END_OF_TIME = "253402300800000"
"""The year 10000, as `_digits` would format it."""


def _digits(time: datetime) -> str:
    """Milliseconds since 1970, in an order as text."""
    return f"{max(0, int(time.timestamp() * 1000)):0{_TIME_DIGITS}d}"


def _steps(query: AuditQuery, before: _Cursor | None) -> Iterator[tuple[str, str]]:
    """Spans of the log, backwards, each longer than the one before: a store may read a whole span despite
    the limit, and a short span fills a page where much happens."""
    high_time, high = query.until, _digits(query.until)
    if before is not None:
        milliseconds = int(before.document.partition("-")[0])
        high_time = min(high_time, datetime.fromtimestamp(milliseconds / 1000, UTC))
        high = min(high, f"{before.document}~")
    end, step = max(query.since, _BEGIN_OF_TIME) - _GATHERED_WITHIN, _FIRST_STEP
    while high_time > end:
        low_time = max(end, high_time - step)
        low = _digits(low_time)
        yield low, high
        high_time, high, step = low_time, low, step * 2


def _document(entries: Sequence[AuditEntry]) -> Document:
    keys = {_EVERYTHING}
    for entry in entries:
        keys |= {f"c:{entry.caller}", f"a:{entry.action}"}
        keys |= {f"t:{target}" for target in entry.targets}
    first = min(entries, key=lambda entry: entry.at)
    return {
        "_id": f"{_digits(first.at)}-{first.id}",
        "at": first.at,
        "keys": sorted(keys),
        "entries": [
            {name: each for name, each in fields_of(entry).items() if each or name not in _OPTIONAL}
            for entry in entries
        ],
    }
