"""Events on RabbitMQ: the port EventPublisher.

Promises: an event is settled when the broker confirms it; one that is too large for the broker, by our
limit or by the broker's own, is published without its body, which its consumer reads from the journal, so
it keeps its place in its device's order and holds up no other.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from shared.domain.event import Event
from shared.messaging.envelope import event_json, headers_without_body, size_in_journal
from shared.messaging.frames import Message
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.rabbit.refusals import MessageRefused
from shared.messaging.topology import EVENTS_EXCHANGE, routing_key
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

Settled = Callable[[Event], None]


def event_message(event: Event, largest: int | None = None) -> Message:
    """The message of an event: a public contract, like the JSON in it. Above `largest` bytes the JSON stays
    in the journal, and headers say so."""
    topic = event.topic.value
    body = event_json(event)
    headers = {"device": event.key.device, "enrollment": event.key.id, "topic": topic}
    if largest is not None and len(body) > largest:
        headers |= headers_without_body(len(body))
        body = b""
    return Message(
        exchange=EVENTS_EXCHANGE,
        routing_key=routing_key(topic, event.key.partition),
        message_id=event.id,
        headers=headers,
        body=body,
    )


class RabbitPublisher:
    """The port EventPublisher."""

    def __init__(self, channel: PublishChannel, metrics: Metrics, largest: int) -> None:
        self._channel = channel
        self._metrics = metrics
        self._largest = largest

    @property
    def is_live(self) -> bool:
        return self._channel.is_live

    @property
    def away(self) -> frozenset[int]:
        tails = (name.rpartition(".")[2] for name in self._channel.away)
        return frozenset(int(tail) for tail in tails if tail.isdigit())

    async def publish(
        self, events: Sequence[Event], *, settled: Settled | None = None
    ) -> list[bool]:
        if not self._channel.is_live:
            return [False] * len(events)
        alone = [i for i, event in enumerate(events) if event.id in self._channel.suspects]
        together = [i for i in range(len(events)) if i not in alone]
        sent = await self._send([events[i] for i in together], self._largest, settled)
        taken = dict(zip(together, sent, strict=True))
        for index in alone:  # last, so that no other event waits for them
            taken[index] = await self._send_alone(events[index], settled)
        return [taken[index] for index in range(len(events))]

    async def _send(
        self, events: Sequence[Event], largest: int, settled: Settled | None
    ) -> list[bool]:
        messages = [event_message(event, largest) for event in events]
        by_id = {event.id: event for event in events}
        return await self._channel.send(messages, partial(self._confirmed, by_id, settled))

    async def _send_alone(self, event: Event, settled: Settled | None) -> bool:
        """Publish an event that may be why the broker closed two channels; without its body if it is."""
        message = event_message(event, self._largest)
        try:
            on_confirm = partial(self._confirmed, {event.id: event}, settled)
            return await self._channel.send_alone(message, on_confirm)
        except MessageRefused as exc:
            size, reason = len(message.body), str(exc)
            log.error("event_refused_by_broker", event_id=event.id, size=size, reason=reason)
        return (await self._send([event], 0, settled))[0]

    def _confirmed(
        self, events: Mapping[str, Event], settled: Settled | None, message: Message
    ) -> None:
        event = events[message.message_id]
        if (size := size_in_journal(message.headers)) is not None:
            self._metrics.events_without_body.inc()
            device = event.key.device
            log.warning("event_published_without_body", event_id=event.id, device=device, size=size)
        if settled is not None:
            settled(event)
