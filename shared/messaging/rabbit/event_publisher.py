"""Events on RabbitMQ: the port EventPublisher.

Promises: an event is settled when the broker confirms it; one that is too large for the broker, by our
limit or by the broker's own, is published without its body, which whoever consumes it reads from the
journal, so it keeps its place in its device's order and holds up nobody.
"""

from collections.abc import Callable, Sequence

import structlog

from shared.domain.event import Event
from shared.messaging.envelope import event_json, headers_without_body, size_in_journal
from shared.messaging.frames import Message
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.rabbit.refusals import Refused
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
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        if not self._channel.is_live:
            return [False] * len(events)
        alone = [i for i, event in enumerate(events) if event.id in self._channel.suspects]
        together = [i for i in range(len(events)) if i not in alone]
        messages = [event_message(events[i], self._largest) for i in together]

        def confirmed(at: int) -> None:
            self._confirmed(events[together[at]], messages[at], settled)

        taken = dict(zip(together, await self._channel.send(messages, confirmed), strict=True))
        for index in alone:  # last, so that nobody waits for them
            taken[index] = await self._publish_alone(events[index], settled)
        return [taken[index] for index in range(len(events))]

    async def _publish_alone(self, event: Event, settled: Settled | None) -> bool:
        """Publish an event that may be why the broker closed two channels; without its body if it is."""
        message = event_message(event, self._largest)
        try:
            return await self._channel.send_alone(
                message, lambda _: self._confirmed(event, message, settled)
            )
        except Refused as exc:
            log.error(
                "event_refused_by_broker",
                event_id=event.id,
                size=len(message.body),
                reason=str(exc),
            )
        small = event_message(event, largest=0)
        [is_taken] = await self._channel.send(
            [small], lambda _: self._confirmed(event, small, settled)
        )
        return is_taken

    def _confirmed(self, event: Event, message: Message, settled: Settled | None) -> None:
        if (size := size_in_journal(message.headers)) is not None:
            self._metrics.events_without_body.inc()
            log.warning(
                "event_published_without_body",
                event_id=event.id,
                device=event.key.device,
                size=size,
            )
        if settled is not None:
            settled(event)
