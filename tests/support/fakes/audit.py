"""AuditLog in memory."""

import asyncio
from collections.abc import Sequence

from shared.domain.access import AuditEntry, AuditPage, AuditQuery
from shared.domain.errors import BadRequest, StoreUnavailable


class FakeAuditLog:
    """`is_away` makes every call fail; `batches` are the sizes of what was recorded together."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.batches: list[int] = []
        self.is_away = False

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        await asyncio.sleep(0)  # let others come between, as the network does
        if self.is_away:
            raise StoreUnavailable("away")
        self.batches.append(len(entries))
        known = {entry.id for entry in self.entries}
        self.entries += [entry for entry in entries if entry.id not in known]

    async def find(self, query: AuditQuery) -> AuditPage:
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("away")
        # Later entries are added at the end, so a number leads on from where a page ended.
        end = len(self.entries)
        if query.cursor is not None:
            if not (query.cursor.isascii() and query.cursor.isdigit()):
                raise BadRequest("cursor: expected the `next` of a page")
            end = int(query.cursor)
        positions = [position for position in range(end) if query.holds(self.entries[position])][
            ::-1
        ]
        page = positions[: query.limit]
        entries = tuple(self.entries[position] for position in page)
        return AuditPage(entries, str(page[-1]) if len(positions) > len(page) else None)
