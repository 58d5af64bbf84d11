"""Open places of one enrollment and collapse key, of which the newest wins.

By the open places of their devices: an index of its own would make every write dearer.
"""

from collections.abc import Sequence

from shared.domain.command import Place
from shared.storage.database import Collection, Document, UpdateOne
from shared.storage.place_documents import OPEN, collapse_name, superseding


class Rivals:
    """Reads and endings of `MongoCommandQueue`."""

    def __init__(self, places: Collection) -> None:
        self._places = places

    async def highest_orders(self, places: Sequence[Place]) -> dict[tuple[str, str], str]:
        wanted = {(place.enrollment, place.collapse_key) for place in places}
        found = await self._places.find(
            {
                "open_device": {"$in": sorted({place.device for place in places})},
                "collapse_key": {"$in": sorted({place.collapse_key or "" for place in places})},
            },
            {"enrollment": 1, "collapse_key": 1, "order": 1},
        )
        highest: dict[tuple[str, str], str] = {}
        for each in found:
            key: tuple[str, str] = each["enrollment"], each["collapse_key"]
            if key in wanted:
                highest[key] = max(each["order"], highest.get(key, ""))
        return highest

    async def supersede(self, places: Sequence[Place]) -> int:
        names = sorted({collapse_name(place) for place in places})
        if not names:
            return 0
        devices = sorted({place.device for place in places})
        rivals = await self._places.find(
            {"open_device": {"$in": devices}, "collapse": {"$in": names}},
            {"collapse": 1, "order": 1, "command_uuid": 1},
        )
        newest = {each["collapse"]: each for each in sorted(rivals, key=lambda each: each["order"])}
        endings = [
            _ending(rival, by=newest[rival["collapse"]])
            for rival in rivals
            if rival["order"] < newest[rival["collapse"]]["order"]
        ]
        if not endings:
            return 0
        ended, _ = await self._places.bulk_write(endings)
        return ended


def _ending(older: Document, by: Document) -> UpdateOne:
    # One that was handed out meanwhile, or queued anew as the newest, has another `collapse` now.
    seen = {name: older[name] for name in ("_id", "order", "collapse")}
    return UpdateOne({**seen, "state": {"$in": OPEN}}, superseding(by["command_uuid"]))
