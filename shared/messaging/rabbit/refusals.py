"""Refusals of the broker: messages that no queue takes, and messages for which it closes a channel."""

from collections.abc import Iterable

import structlog

from shared.messaging.rabbit.confirms import Batch, QueueChannel
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

MOST_SUSPECTS = 1_000


class MessageRefused(Exception):
    """The broker closed the channel for a message; the text is its reason."""


class Unroutable:
    """The routing keys that lead to no queue."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._keys: set[str] = set()

    def note(self, batch: Batch) -> None:
        """Alarm once for each key that leads nowhere, and say when it leads somewhere again."""
        if not batch.returned and not self._keys:
            return
        self._metrics.events_unroutable.inc(len(batch.returned))
        lost = {batch.messages[index].routing_key for index in batch.returned}
        found = {
            message.routing_key
            for message, taken in zip(batch.messages, batch.taken, strict=True)
            if taken
        }
        for key in lost - self._keys:
            log.error("events_unroutable", routing_key=key)
        for key in found & self._keys:
            log.info("events_routable_again", routing_key=key)
        self._keys = (self._keys | lost) - found


class Suspects:
    """The messages that were under way at two consecutive ends of a channel by the broker: one of them is
    to blame, and published together they would go on taking the others with them."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._ids

    def note_end(self, queue: QueueChannel, under_way: Iterable[str], reason: str) -> None:
        """The broker closed the channel of a queue."""
        names = frozenset(under_way)
        log.warning("publishing_refused", queue=queue.name, messages=len(names), reason=reason)
        if len(self._ids) < MOST_SUSPECTS:
            self._ids |= names & queue.at_last_refusal
        queue.at_last_refusal = names
        queue.refusal = reason

    def note(self, batch: Batch) -> None:
        """An accepted message is no longer suspected."""
        if self._ids:
            taken = zip(batch.messages, batch.taken, strict=True)
            self._ids -= {message.message_id for message, is_taken in taken if is_taken}
