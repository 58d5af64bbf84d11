"""Places as they are shown: what is over has ended for good before anybody hears of it.

Promises: an open place of a past generation of its device ends, and one whose time is over ends as
expired; what is shown is what is there then (docs/rules.md, rule 4). What one reader saw as ended
never comes back.
"""

from collections.abc import Sequence

from services.commands.targets import Targets, is_stale
from shared.domain.command import Place
from shared.ports.clock import Clock
from shared.ports.expiries import Expiries
from shared.ports.queue import CommandQueue


class Settling:
    """Ends what is over among places that were read."""

    def __init__(
        self, queue: CommandQueue, expiries: Expiries, targets: Targets, clock: Clock
    ) -> None:
        self._queue = queue
        self._expiries = expiries
        self._targets = targets
        self._clock = clock

    async def settled(self, places: Sequence[Place]) -> list[Place]:
        """These places as they are now, in the order given; without those that are gone."""
        devices = {place.device for place in places if place.state.is_open}
        if not devices:
            return list(places)
        # The generation after the places, never before: else a place that was queued after a new
        # Authenticate would be held against the generation before it.
        known = await self._targets.devices(devices)
        found = []
        for place in places:
            device = known.get(place.device)
            there = await self.present(place, device.generation if device else None)
            if there is not None:
                found.append(there)
        return found

    async def present(self, place: Place, generation: str | None) -> Place | None:
        """One place as it is now, None where it is gone. `generation` is that of its device, read after
        the place."""
        if not place.state.is_open:
            return place
        if is_stale(place, generation):
            return await self._queue.drop(place)
        if place.is_expired(at := self._clock.now()):
            return (await self._expiries.expire([place], at)).get(place.id)
        return place
