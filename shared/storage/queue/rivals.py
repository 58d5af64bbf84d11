"""Open entries of one enrollment and collapse key, of which the newest wins.

By the open entries of their devices: an index of its own would make every write dearer.
"""

from collections.abc import Sequence

from shared.domain.command import QueueEntry
from shared.storage.database import Collection, Document, Query, UpdateOne
from shared.storage.queue.documents import OPEN, superseding


class Rivals:
    """Reads and endings of `MongoCommandQueue`."""

    def __init__(self, entries: Collection) -> None:
        self._entries = entries

    async def highest_orders(self, entries: Sequence[QueueEntry]) -> dict[tuple[str, str], str]:
        wanted = {(entry.enrollment, entry.collapse_key) for entry in entries}
        found = await self._entries.find(
            _of_keys(entries), {"enrollment": 1, "collapse_key": 1, "order": 1}
        )
        highest: dict[tuple[str, str], str] = {}
        for each in found:
            if (key := _key(each)) in wanted:
                highest[key] = max(each["order"], highest.get(key, ""))
        return highest

    async def supersede(self, entries: Sequence[QueueEntry]) -> int:
        if not entries:
            return 0
        rivals = await self._entries.find(
            _of_keys(entries),
            {"enrollment": 1, "collapse_key": 1, "collapse": 1, "order": 1, "command_uuid": 1},
        )
        # One that was sent cannot lose, but an older one that moved back loses to it.
        newest = {_key(each): each for each in sorted(rivals, key=lambda each: each["order"])}
        endings = [
            _ending(rival, by=newest[_key(rival)])
            for rival in rivals
            if "collapse" in rival and rival["order"] < newest[_key(rival)]["order"]
        ]
        if not endings:
            return 0
        ended, _ = await self._entries.bulk_write(endings)
        return ended


def _of_keys(entries: Sequence[QueueEntry]) -> Query:
    return {
        "open_device": {"$in": sorted({entry.device for entry in entries})},
        "collapse_key": {"$in": sorted({entry.collapse_key or "" for entry in entries})},
    }


def _key(document: Document) -> tuple[str, str]:
    return document["enrollment"], document["collapse_key"]


def _ending(older: Document, by: Document) -> UpdateOne:
    # One that was sent meanwhile, or queued anew as the newest, has another `collapse` now.
    seen = {name: older[name] for name in ("_id", "order", "collapse")}
    return UpdateOne({**seen, "state": {"$in": OPEN}}, superseding(by["command_uuid"]))
