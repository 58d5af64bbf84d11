"""Entries of collection `queue` that go out to their devices, and those that move back (rule 5).

Promise: a send is one write, the counting of attempts included.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from shared.domain.command import EntryState, QueueEntry
from shared.ports.queue import SendClaim
from shared.storage.database import Collection, Document
from shared.storage.queue.documents import OPEN, collapse_name

SENT = EntryState.SENT.value


class SentEntries:
    """Writes of `MongoCommandQueue`."""

    def __init__(self, entries: Collection) -> None:
        self._entries = entries

    async def mark_sent(self, claims: Sequence[SendClaim], by: str, at: datetime) -> set[str]:
        alike = groupby(sorted(claims, key=_kind), key=_kind)
        writes = (self._mark_sent(list(same), by, at) for _, same in alike)
        won: set[str] = set()
        for outcome in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(outcome, BaseException):  # only now: no write may still be under way
                raise outcome
            won |= outcome
        return won

    async def _mark_sent(self, claims: list[SendClaim], by: str, at: datetime) -> set[str]:
        """Of one kind."""
        ids = [claim.entry.id for claim in claims]
        has_end = any(claim.entry.expires_at is not None for claim in claims)
        counts, has_moved = _kind(claims[0])
        # by the store's own clock, which nobody's clock or standstill changes
        dated = [name for name, is_so in (("offered_at", has_end), ("moved", has_moved)) if is_so]
        condition: Document = {
            "_id": {"$in": ids},
            # generations are unique, so none of another device's lets an entry through
            "generation": {"$in": [None, *(claim.generation for claim in claims)]},
            "state": {"$in": OPEN},
            "moved": {"$ne": None} if has_moved else None,
        }
        if counts:
            condition["state"] = SENT
            condition["handed_by"] = {"$in": [claim.entry.handed_by for claim in claims]}
        matched = await self._entries.update_many(
            condition,
            {
                "$set": {"state": SENT, "handed_by": by, "handed_at": at},
                "$inc": {"attempts": 1} | ({"unanswered": 1} if counts else {}),
                "$min": {"first_handed_at": at},
                # sent: a newer one does not make it needless any more, unless it moved back
                "$unset": {"counted" if has_moved else "collapse": ""},
                **({"$currentDate": dict.fromkeys(dated, True)} if dated else {}),
            },
        )
        if matched == len(ids) and not has_end:
            return set(ids)
        found = await self._entries.find(
            {"_id": {"$in": ids}, "handed_by": by, "state": {"$in": OPEN}},
            {"offered_at": 1, "expires_at": 1},
        )
        return {each["_id"] for each in found if not _is_late(each)}

    async def let_supersede(self, entries: Sequence[QueueEntry]) -> None:
        """Entries with a collapse key that are about to move back are needless where there is a newer one."""
        for entry in entries:
            await self._entries.update_one(
                _about_to_move(entry), {"$set": {"collapse": collapse_name(entry)}}
            )

    async def move_back(self, entries: Sequence[QueueEntry]) -> set[str]:
        update = {
            "$set": {"counted": True},
            "$inc": {"unanswered": 1},
            "$currentDate": {"moved": True},
        }
        moved = set()
        for entry in entries:
            if await self._entries.update_one(_about_to_move(entry), update):
                moved.add(entry.id)
        return moved


def _about_to_move(entry: QueueEntry) -> Document:
    return {"_id": entry.id, "state": SENT, "handed_by": entry.handed_by, "moved": None}


def _kind(claim: SendClaim) -> tuple[bool, bool]:
    """Sends of one kind are the same write."""
    return claim.counts, claim.entry.moved is not None


def _is_late(document: Document) -> bool:
    """Its time was over when it was offered."""
    offered, expires = document.get("offered_at"), document.get("expires_at")
    return offered is not None and expires is not None and bool(offered >= expires)
