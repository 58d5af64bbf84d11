"""Events of a partition that their subscriber cannot take: when they leave their delivery queue, and which
have.

Promises (docs/rules.md, rule 11): an event is set aside only for an answer about the event, after the first
waits of the schedule, and only if the subscriber took another device's event since its first failure; while a
device has one aside, its next ones are after one attempt. Where this process does not know, the event
stays the head of its delivery queue.
"""

from services.webhook.delivery.queue_state import DeliveryQueue
from services.webhook.endpoints.attempts import Attempts
from services.webhook.endpoints.sender import Outcome
from shared.domain.subscription import DeliveryQueueKey

FIRST_WAITS = 5
"""So many waits of the schedule an event holds up its delivery queue."""


class SetAside:
    """The events that are aside, by the delivery queues of their devices."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._queues: dict[DeliveryQueueKey, dict[DeliveryQueue, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, queue: DeliveryQueue) -> None:
        """Remember a delivery queue, if it is one of these."""
        if queue.key.aside:
            self._queues.setdefault(_device_queue(queue), {})[queue] = None

    def drop(self, queue: DeliveryQueue) -> None:
        device_queue = _device_queue(queue)
        aside = self._queues.get(device_queue, {})
        aside.pop(queue, None)
        if not aside:
            self._queues.pop(device_queue, None)

    def takes(self, queue: DeliveryQueue, outcome: Outcome, attempts: int) -> bool:
        """True if the head of a delivery queue, which failed just now for the `attempts`th time, is to
        leave it."""
        if queue.key.aside or not outcome.is_about_event:
            return False
        if aside := self._queues.get(queue.key):
            since = next(iter(aside)).failing_since
        elif attempts > FIRST_WAITS:
            since = queue.failing_since
        else:
            return False
        endpoint = self._attempts.endpoint(queue.key.subscription)
        return endpoint.took_another(queue.key.device, since)


def _device_queue(queue: DeliveryQueue) -> DeliveryQueueKey:
    return DeliveryQueueKey(queue.key.subscription, queue.key.device)
