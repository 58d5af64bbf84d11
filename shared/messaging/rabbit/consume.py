"""Channels to consume on, their acks, and the way to the queue `dead_lettered`.

Promises: each consumer has a connection of its own, and loses it when its queue does not answer: whatever
the broker had begun to give goes back to the queue.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Protocol

import structlog
from aiormq.abc import AbstractConnection, ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import AMQPChannelError, ChannelClosed
from pamqp.commands import Basic

from shared.domain.errors import BrokerUnavailable
from shared.messaging.frames import Message
from shared.messaging.rabbit.connection import open_channel, translated
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.topology import DEAD_LETTER_QUEUE
from shared.ports.clock import Clock
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

OPEN_TIMEOUT = timedelta(seconds=5)
CLOSE_TIMEOUT = timedelta(seconds=2)
RETRY = timedelta(seconds=1)
_FULL_PAUSE = timedelta(milliseconds=5)
_NONE: Mapping[str, str] = {}


def text_headers(message: DeliveredMessage) -> dict[str, str]:
    """The headers that are texts; the broker adds others of its own."""
    headers = message.header.properties.headers or {}
    return {name: each for name, each in headers.items() if isinstance(each, str)}


Redeclare = Callable[[], Awaitable[None]]


class Line(Protocol):
    """A connection of one consumer, so that dropping it costs nobody else anything."""

    async def connection(self, patience: timedelta) -> AbstractConnection: ...
    def drop(self) -> None: ...


@asynccontextmanager
async def opened_channel(line: Line, prefetch: int, redeclare: Redeclare) -> AsyncIterator[Channel]:
    """A channel, to begin consuming on within the `with`; the whole has one timeout.

    When the broker refuses, the topology is declared anew for the next try. When it does not answer,
    nobody knows whether it has a consumer of ours, which might hold messages that nobody reads: so
    the connection is dropped."""
    connection = await line.connection(OPEN_TIMEOUT)
    try:
        with translated():
            async with asyncio.timeout(OPEN_TIMEOUT.total_seconds()):
                channel = await open_channel(connection, confirms=False)
                await channel.basic_qos(prefetch_count=prefetch)
                yield channel
    except BaseException as exc:
        if isinstance(exc.__cause__, AMQPChannelError | ChannelClosed):
            log.warning("consuming_refused", reason=str(exc.__cause__))
            await redeclare()
        else:
            line.drop()
        raise


async def close_channel(channel: Channel, line: Line) -> None:
    """Close it for certain, so that the broker gives what it holds to others: with its connection
    where the broker does not answer."""
    try:
        with translated():
            async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                await channel.close(BrokerUnavailable("RabbitMQ: channel closed"))
    except BrokerUnavailable:
        line.drop()


class Acks:
    """Acks of one channel, written together once per turn of the event loop: one by one they cost
    20 us of CPU more each (docs/adr/0010)."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._acks: list[Basic.Ack] = []
        self._is_ended = False

    def end(self) -> None:
        """Write what waits and then nothing more: a frame behind the close of its channel makes the
        broker end the whole connection."""
        self.flush()
        self._is_ended = True

    def add(self, delivery_tag: int) -> None:
        if self._is_ended:
            return
        if not self._acks:
            asyncio.get_running_loop().call_soon(self.flush)
        self._acks.append(Basic.Ack(delivery_tag=delivery_tag))

    def flush(self) -> None:
        if not self._acks or self._is_ended or self._channel.is_closed:
            return
        frame = ChannelFrame.marshall(channel_number=self._channel.number, frames=self._acks)
        try:
            self._channel.write_queue.put_nowait(frame)
        except asyncio.QueueFull:
            loop = asyncio.get_running_loop()
            loop.call_later(_FULL_PAUSE.total_seconds(), self.flush)
        else:
            self._acks.clear()


class DeadLetters:
    """The way to the queue `dead_lettered`, alike for all who consume."""

    def __init__(self, publishing: PublishChannel, clock: Clock, metrics: Metrics) -> None:
        self._publishing = publishing
        self._clock = clock
        self._metrics = metrics

    async def put(
        self, message: DeliveredMessage, queue: str, reason: str, more: Mapping[str, str] = _NONE
    ) -> None:
        """Raises BrokerUnavailable when the broker did not take it."""
        headers = {**text_headers(message), **more, "queue": queue, "reason": reason}
        name = message.header.properties.message_id or sha256(message.body).hexdigest()
        copy = Message("", DEAD_LETTER_QUEUE, name, headers, message.body)
        if not (await self._publishing.send([copy]))[0]:
            raise BrokerUnavailable("RabbitMQ: could not park a message")
        self._metrics.messages_dead_lettered.inc()
        log.error("message_parked", queue=queue, message_id=name, reason=reason)

    async def put_surely(
        self, message: DeliveredMessage, queue: str, reason: str, acks: Acks
    ) -> None:
        """Until it is dead-lettered, then acked; ends with its channel, when the message comes again."""
        while True:
            try:
                await self.put(message, queue, reason)
            except BrokerUnavailable:
                await self._clock.sleep(RETRY)
            else:
                acks.add(delivery_tag(message))
                return


def delivery_tag(message: DeliveredMessage) -> int:
    if not isinstance(message.delivery, Basic.Deliver) or message.delivery.delivery_tag is None:
        raise TypeError("not a delivery")
    return message.delivery.delivery_tag
