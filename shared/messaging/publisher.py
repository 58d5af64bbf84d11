"""Events on their way to RabbitMQ: the port EventPublisher."""

from collections.abc import Callable, Sequence

from shared.domain.event import Event
from shared.messaging.envelope import event_json
from shared.messaging.frames import Message
from shared.messaging.outbox import Outbox
from shared.messaging.topology import EVENTS_EXCHANGE, routing_key


def event_message(event: Event) -> Message:
    """The message of an event: a public contract, like the JSON in it."""
    topic = event.topic.value
    return Message(
        exchange=EVENTS_EXCHANGE,
        routing_key=routing_key(topic, event.key.partition),
        message_id=event.id,
        headers={"device": event.key.device, "enrollment": event.key.id, "topic": topic},
        body=event_json(event),
    )


class RabbitPublisher:
    """An event is settled when the broker confirms it."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        if not self._outbox.is_live:
            return [False] * len(events)
        messages = [event_message(event) for event in events]
        if settled is None:
            return await self._outbox.send(messages)
        return await self._outbox.send(messages, lambda index: settled(events[index]))
