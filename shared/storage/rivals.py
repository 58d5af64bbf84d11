"""Open places of one enrollment and collapse key, of which the newest wins.

By the open places of their devices: an index of its own would make every write dearer.
"""

from collections.abc import Sequence

from shared.domain.command import Place
from shared.storage.database import Collection, Document, Query, UpdateOne
from shared.storage.place_documents import OPEN, superseding


class Rivals:
    """Reads and endings of `MongoCommandQueue`."""

    def __init__(self, places: Collection) -> None:
        self._places = places

    async def highest_orders(self, places: Sequence[Place]) -> dict[tuple[str, str], str]:
        wanted = {(place.enrollment, place.collapse_key) for place in places}
        found = await self._places.find(
            _of_keys(places), {"enrollment": 1, "collapse_key": 1, "order": 1}
        )
        highest: dict[tuple[str, str], str] = {}
        for each in found:
            if (key := _key(each)) in wanted:
                highest[key] = max(each["order"], highest.get(key, ""))
        return highest

    async def supersede(self, places: Sequence[Place]) -> int:
        if not places:
            return 0
        rivals = await self._places.find(
            _of_keys(places),
            {"enrollment": 1, "collapse_key": 1, "collapse": 1, "order": 1, "command_uuid": 1},
        )
        # One that was handed out cannot lose, but an older one that moved back loses to it.
        newest = {_key(each): each for each in sorted(rivals, key=lambda each: each["order"])}
        endings = [
            _ending(rival, by=newest[_key(rival)])
            for rival in rivals
            if "collapse" in rival and rival["order"] < newest[_key(rival)]["order"]
        ]
        if not endings:
            return 0
        ended, _ = await self._places.bulk_write(endings)
        return ended


def _of_keys(places: Sequence[Place]) -> Query:
    return {
        "open_device": {"$in": sorted({place.device for place in places})},
        "collapse_key": {"$in": sorted({place.collapse_key or "" for place in places})},
    }


def _key(document: Document) -> tuple[str, str]:
    return document["enrollment"], document["collapse_key"]


def _ending(older: Document, by: Document) -> UpdateOne:
    # One that was handed out meanwhile, or queued anew as the newest, has another `collapse` now.
    seen = {name: older[name] for name in ("_id", "order", "collapse")}
    return UpdateOne({**seen, "state": {"$in": OPEN}}, superseding(by["command_uuid"]))
