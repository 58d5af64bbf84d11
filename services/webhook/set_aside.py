"""Events of a partition that their subscriber cannot take: when they leave their lane, and which have.

Promises (docs/rules.md, rule 11): an event is set aside only for an answer about the event, after the first
waits of the schedule, and only if the subscriber took another device's event since its first failure; while a
device has one aside, its next ones are after one attempt. Where this process does not know, the event
stays the head of its lane.
"""

from services.webhook.attempts import Attempts
from services.webhook.open_lane import OpenLane
from services.webhook.sender import Outcome
from shared.domain.subscription import Lane

FIRST_WAITS = 5
"""So many waits of the schedule an event holds up its lane."""


class SetAside:
    """The events that are aside, by the lanes of their devices."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._lanes: dict[Lane, dict[OpenLane, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def add(self, lane: OpenLane) -> None:
        """Remember a lane, if it is one of these."""
        if lane.key.aside:
            self._lanes.setdefault(_device_lane(lane), {})[lane] = None

    def drop(self, lane: OpenLane) -> None:
        device_lane = _device_lane(lane)
        aside = self._lanes.get(device_lane, {})
        aside.pop(lane, None)
        if not aside:
            self._lanes.pop(device_lane, None)

    def takes(self, lane: OpenLane, outcome: Outcome, attempts: int) -> bool:
        """Whether the head of a lane, which failed just now for the `attempts`th time, is to leave it."""
        if lane.key.aside or not outcome.is_about_event:
            return False
        if aside := self._lanes.get(lane.key):
            since = next(iter(aside)).failing_since
        elif attempts > FIRST_WAITS:
            since = lane.failing_since
        else:
            return False
        endpoint = self._attempts.endpoint(lane.key.subscription)
        return endpoint.took_another(lane.key.device, since)


def _device_lane(lane: OpenLane) -> Lane:
    return Lane(lane.key.subscription, lane.key.device)
