"""Queue entries that are sent, that move back (rule 5), and that a newer command supersedes.

Promise: a send is one write, the counting of attempts included. Entries with the same collapse key are found
by device and key, among the open entries only.
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby

from shared.domain.command import EntryState, QueueEntry, entry_id
from shared.ports.queue import Rival, SendClaim
from shared.storage.database import Collection, Document, Query, UpdateOne
from shared.storage.queue.documents import OPEN, collapse_name, superseding

SENT = EntryState.SENT.value


class SentEntries:
    """A part of `MongoCommandQueue`."""

    _entries: Collection

    async def mark_sent(self, claims: Sequence[SendClaim], by: str, at: datetime) -> set[str]:
        alike = [list(same) for _, same in groupby(sorted(claims, key=_kind), key=_kind)]
        if len(alike) == 1:
            # At once, not in a task: the write joins a commit that is about to begin.
            return await self._mark_sent(alike[0], by, at)
        writes = (self._mark_sent(same, by, at) for same in alike)
        won: set[str] = set()
        for outcome in await asyncio.gather(*writes, return_exceptions=True):
            if isinstance(outcome, BaseException):  # only now: no write may still be under way
                raise outcome
            won |= outcome
        return won

    async def _mark_sent(self, claims: list[SendClaim], by: str, at: datetime) -> set[str]:
        """Mark claims of one kind."""
        ids = [claim.entry.id for claim in claims]
        has_end = any(claim.entry.expires_at is not None for claim in claims)
        counts, has_moved = _kind(claims[0])
        # by the store's own clock: the clock of no process decides
        dated = [name for name, is_so in (("offered_at", has_end), ("moved", has_moved)) if is_so]
        condition: Document = {
            "_id": {"$in": ids},
            # generations are unique, so the generation of another device lets no entry through
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
                # sent: a newer command does not supersede it any more, unless it moved back
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
        # One that had expired when it was offered is not sent.
        ends = {each["_id"]: (each.get("offered_at"), each.get("expires_at")) for each in found}
        return {id_ for id_, (at, end) in ends.items() if at is None or end is None or at < end}

    async def move_back(self, entries: Sequence[QueueEntry]) -> set[str]:
        keyed = [entry for entry in entries if entry.collapse_key is not None]
        # Before they move: where this process dies here, the next attempt does it again.
        for entry in keyed:
            await self._entries.update_one(
                _about_to_move(entry), {"$set": {"collapse": collapse_name(entry)}}
            )
        await self.supersede(keyed)
        update = {
            "$set": {"counted": True},
            "$inc": {"unanswered": 1},
            "$currentDate": {"moved": True},
        }
        return {
            entry.id
            for entry in entries
            if await self._entries.update_one(_about_to_move(entry), update)
        }

    async def rivals(self, entries: Sequence[QueueEntry]) -> list[Rival]:
        wanted = {(entry.enrollment, entry.collapse_key) for entry in entries}
        found = await self._entries.find(
            _with_keys_of(entries),
            {"enrollment": 1, "command_uuid": 1, "collapse_key": 1, "collapse": 1, "order": 1},
        )
        return [
            Rival(
                each["enrollment"],
                each["command_uuid"],
                each["collapse_key"],
                each["order"],
                # An entry that was sent has no `collapse`, unless it moved back.
                can_lose="collapse" in each,
            )
            for each in found
            if (each["enrollment"], each["collapse_key"]) in wanted
        ]

    async def supersede(self, entries: Sequence[QueueEntry]) -> int:
        if not entries:
            return 0
        rivals = await self.rivals(entries)
        ended, _ = await self._entries.bulk_write(endings(rivals, rivals))
        return ended


def endings(rivals: Iterable[Rival], among: Iterable[Rival | QueueEntry]) -> list[UpdateOne]:
    """The updates that end each rival for the newest one of its collapse key among these."""
    newest = {
        (each.enrollment, each.collapse_key): each
        for each in sorted(among, key=lambda each: each.order)
    }
    pairs = ((rival, newest.get((rival.enrollment, rival.collapse_key))) for rival in rivals)
    return [
        UpdateOne(
            # One that was sent meanwhile, or queued again as the newest, is another one now.
            {
                "_id": entry_id(rival.enrollment, rival.command_uuid),
                "order": rival.order,
                "collapse": collapse_name(rival),
                "state": {"$in": OPEN},
            },
            superseding(by.command_uuid),
        )
        for rival, by in pairs
        if rival.can_lose and by is not None and rival.order < by.order
    ]


def _about_to_move(entry: QueueEntry) -> Document:
    return {"_id": entry.id, "state": SENT, "handed_by": entry.handed_by, "moved": None}


def _kind(claim: SendClaim) -> tuple[bool, bool]:
    """Sends of one kind are the same write."""
    return claim.counts, claim.entry.moved is not None


def _with_keys_of(entries: Sequence[QueueEntry]) -> Query:
    return {
        "open_device": {"$in": sorted({entry.device for entry in entries})},
        "collapse_key": {"$in": sorted({entry.collapse_key or "" for entry in entries})},
    }
