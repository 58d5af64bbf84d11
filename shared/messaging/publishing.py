"""Events, and whatever else we publish: many messages written at once, confirmed together.

Promises: a message counts as taken only when the broker confirmed it and routed it to a queue; no
call takes longer than the deadline; after one missed deadline, and while there is no connection,
nobody waits at all until a probe has been confirmed (docs/rules.md, rule 9). A message that no queue
takes makes the topology be declared anew, and is then published once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial

import structlog
from aiormq.abc import AbstractConnection, ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import PublishError

from shared.domain.errors import BrokerUnavailable, Misconfigured
from shared.domain.event import Event
from shared.messaging.connection import open_channel, translated
from shared.messaging.envelope import event_json
from shared.messaging.frames import Message, publish_frames
from shared.messaging.topology import EVENTS_EXCHANGE, routing_key
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

Confirmed = Callable[[int], None]
"""Called with a message's index, once, when the broker took it."""


_PROBE = Message(EVENTS_EXCHANGE, "probe", "probe", {}, b"{}")
"""For no queue of ours: it asks whether the broker answers, whatever a single queue may suffer from."""


def _ignore(_index: int) -> None:
    return None


def check_library(channel: object) -> None:
    """Misconfigured where the AMQP library lacks what `_write` uses of it, which is no interface."""
    for name in ("confirmations", "message_id_delivery_tag", "delivery_tag", "write_queue"):
        if not hasattr(channel, name):
            raise Misconfigured(
                f"the installed aiormq has no Channel.{name}: install the version in pyproject.toml"
            )


class _Batch:
    """Messages whose confirms are waited for together. `taken` and `returned` are by index."""

    def __init__(self, messages: Sequence[Message], on_confirm: Confirmed) -> None:
        self.messages = messages
        self.taken = [False] * len(messages)
        self.returned: list[int] = []
        self.settled = asyncio.get_running_loop().create_future()
        self._on_confirm = on_confirm
        self._open = 0

    def expect(self, count: int) -> None:
        """Wait for so many answers from now on."""
        self._open = count
        self.returned = []
        self.settled = asyncio.get_running_loop().create_future()
        if not count:
            self.settled.set_result(None)

    def answer(self, index: int, confirmation: "asyncio.Future[object]") -> None:
        error = None if confirmation.cancelled() else confirmation.exception()
        if self.settled.done():  # too late: nobody counts on it any more
            return
        if isinstance(error, PublishError):
            self.returned.append(index)
        elif error is None and not confirmation.cancelled():
            self.taken[index] = True
            self._on_confirm(index)
        self._open -= 1
        if not self._open:
            self.settled.set_result(None)

    def give_up(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)


class PublishChannel:
    """Sends while a channel is attached; answers at once that nothing was taken while none is."""

    def __init__(
        self,
        deadline: timedelta,
        metrics: Metrics,
        redeclare: Callable[[], Awaitable[None]],
        on_missed: Callable[[], None],
    ) -> None:
        self._deadline = deadline
        self._metrics = metrics
        self._redeclare = redeclare
        self._on_missed = on_missed
        self._channel: Channel | None = None
        self._batches: set[_Batch] = set()
        self._unroutable: set[str] = set()

    @property
    def is_live(self) -> bool:
        return self._channel is not None

    async def attach(self, connection: AbstractConnection) -> Channel:
        """Open the channel and use it once a probe is answered; else raises BrokerUnavailable."""
        batch = _Batch([_PROBE], _ignore)
        with translated():
            async with asyncio.timeout(self._deadline.total_seconds()):
                channel = await open_channel(connection, confirms=True)
                check_library(channel)
                await _write(channel, batch, [0])
                await asyncio.wait(
                    {batch.settled, channel.closing}, return_when=asyncio.FIRST_COMPLETED
                )
        if not batch.taken[0] and not batch.returned:
            raise BrokerUnavailable("RabbitMQ: the probe was not confirmed")
        self._channel = channel
        self._metrics.broker_up.set(1)
        return channel

    def detach(self) -> None:
        """Forget the channel; what waits for confirms ends now, unconfirmed."""
        self._channel = None
        self._metrics.broker_up.set(0)
        for batch in self._batches:
            batch.give_up()

    async def send(
        self, messages: Sequence[Message], on_confirm: Confirmed = _ignore
    ) -> list[bool]:
        """Publish all and wait for their confirms; per message whether the broker took it."""
        channel = self._channel
        if channel is None or not messages:
            return [False] * len(messages)
        batch = _Batch(messages, on_confirm)
        self._batches.add(batch)
        try:
            with translated():
                async with asyncio.timeout(self._deadline.total_seconds()):
                    await self._transmit(channel, batch)
        except BrokerUnavailable as exc:
            log.warning("publish_unconfirmed", events=batch.taken.count(False), reason=str(exc))
            if self._channel is channel:
                self.detach()
                self._on_missed()
        finally:
            batch.give_up()
            self._batches.discard(batch)
        return batch.taken

    async def _transmit(self, channel: Channel, batch: _Batch) -> None:
        await _write(channel, batch, range(len(batch.messages)))
        await batch.settled
        if batch.returned:
            log.warning("messages_returned", messages=len(batch.returned))
            await self._redeclare()
            if channel is not self._channel:
                return
            await _write(channel, batch, batch.returned)
            await batch.settled
        if batch.returned or self._unroutable:
            self._note_routes(batch)

    def _note_routes(self, batch: _Batch) -> None:
        """Alarm once for each way that leads nowhere, and say when it leads somewhere again."""
        self._metrics.events_unroutable.inc(len(batch.returned))
        lost = {batch.messages[index].routing_key for index in batch.returned}
        found = {
            message.routing_key
            for message, taken in zip(batch.messages, batch.taken, strict=True)
            if taken
        }
        for key in lost - self._unroutable:
            log.error("events_unroutable", routing_key=key)
        for key in found & self._unroutable:
            log.info("events_routable_again", routing_key=key)
        self._unroutable = (self._unroutable | lost) - found


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
    """The port EventPublisher: an event is settled when the broker confirms it."""

    def __init__(self, channel: PublishChannel) -> None:
        self._channel = channel

    @property
    def is_live(self) -> bool:
        return self._channel.is_live

    @property
    def away(self) -> frozenset[int]:
        return frozenset()

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        if not self._channel.is_live:
            return [False] * len(events)
        messages = [event_message(event) for event in events]
        if settled is None:
            return await self._channel.send(messages)
        return await self._channel.send(messages, lambda index: settled(events[index]))


async def _write(channel: Channel, batch: _Batch, indexes: Sequence[int]) -> None:
    """Hand the messages to the connection in one piece, with the confirms they will get.

    The library's own publish costs three times as much, in tasks and locks (docs/adr/0010)."""
    while channel.write_queue.full():
        await channel.write_queue.join()
    if channel.is_closed:
        raise BrokerUnavailable("RabbitMQ: channel closed")
    # No await from here on: delivery tags must be counted in the order of the bytes.
    under_way = channel.message_id_delivery_tag
    # The broker names a message that it returns by its id alone, so no id may be under way twice.
    first = {batch.messages[index].message_id: index for index in reversed(indexes)}
    unique = sorted(index for name, index in first.items() if name not in under_way)
    batch.expect(len(unique))
    frame_max = channel.connection.connection_tune.frame_max or 131_072
    frames = []
    for index in unique:
        message = batch.messages[index]
        channel.delivery_tag += 1
        confirmation = channel.loop.create_future()
        channel.confirmations[channel.delivery_tag] = confirmation
        under_way[message.message_id] = channel.delivery_tag
        confirmation.add_done_callback(partial(_answered, channel, batch, index))
        frames.append(publish_frames(channel.number, message, frame_max))
    channel.write_queue.put_nowait(ChannelFrame(payload=b"".join(frames), should_close=False))


def _answered(
    channel: Channel, batch: _Batch, index: int, confirmation: "asyncio.Future[object]"
) -> None:
    channel.message_id_delivery_tag.pop(batch.messages[index].message_id, None)
    batch.answer(index, confirmation)
