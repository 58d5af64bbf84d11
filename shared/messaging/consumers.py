"""Partitions of the event stream, as their consumer gets them from RabbitMQ.

Promises: events of a partition come in the order of its queue, each until it is acked; closing gives
the partition up together with all that is not acked; a consumer hears at once when its channel is
gone; a message that nobody can understand is parked here and never seen outside.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any

import orjson
import structlog
from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from aiormq.exceptions import AMQPChannelError, ChannelClosed
from pamqp.commands import Basic

from shared.domain.errors import BrokerUnavailable
from shared.messaging.connection import Link, open_channel, translated
from shared.messaging.frames import Message
from shared.messaging.publishing import PublishChannel
from shared.messaging.topology import PARKED_QUEUE, partition_queue
from shared.ports.clock import Clock
from shared.ports.events import OpenPartition, Received
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

OPEN_TIMEOUT = timedelta(seconds=5)
CLOSE_TIMEOUT = timedelta(seconds=2)
PARK_AGAIN = timedelta(seconds=1)
_FULL_PAUSE = timedelta(milliseconds=5)


NEEDED = frozenset({"device", "topic"})
OURS = NEEDED | {"enrollment"}
"""The headers that our own publisher writes; a body that comes with them is not parsed here."""


class Unintelligible(Exception):
    """A message that nobody can understand; the text says why, in words from a closed set."""


def text_headers(message: DeliveredMessage) -> dict[str, str]:
    """The headers that are texts; the broker adds others of its own."""
    headers = message.header.properties.headers or {}
    return {name: each for name, each in headers.items() if isinstance(each, str)}


Redeclare = Callable[[], Awaitable[None]]


@asynccontextmanager
async def opened_channel(link: Link, prefetch: int, redeclare: Redeclare) -> AsyncIterator[Channel]:
    """A channel, to begin consuming on within the `with`; the whole has one timeout.

    When the broker refuses, the topology is declared anew for the next try. When it does not answer,
    nobody knows whether it has a consumer of ours, which might hold messages that nobody reads: so
    the connection is dropped."""
    connection = await link.connection(OPEN_TIMEOUT)
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
            link.drop()
        raise


async def close_channel(channel: Channel, link: Link) -> None:
    """Close it for certain, so that the broker gives what it holds to others: with its connection
    where the broker does not answer."""
    try:
        with translated():
            async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                await channel.close(BrokerUnavailable("RabbitMQ: channel closed"))
    except BrokerUnavailable:
        link.drop()


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


class Parking:
    """The way to the queue `parked`, alike for all who consume."""

    def __init__(self, publishing: PublishChannel, clock: Clock, metrics: Metrics) -> None:
        self._publishing = publishing
        self._clock = clock
        self._metrics = metrics

    async def put(self, message: DeliveredMessage, queue: str, reason: str) -> None:
        """Raises BrokerUnavailable when the broker did not take it."""
        headers = {**text_headers(message), "queue": queue, "reason": reason}
        name = message.header.properties.message_id or sha256(message.body).hexdigest()
        copy = Message("", PARKED_QUEUE, name, headers, message.body)
        if not (await self._publishing.send([copy]))[0]:
            raise BrokerUnavailable("RabbitMQ: could not park a message")
        self._metrics.messages_parked.inc()
        log.error("message_parked", queue=queue, message_id=name, reason=reason)

    async def put_surely(
        self, message: DeliveredMessage, queue: str, reason: str, acks: Acks
    ) -> None:
        """Until it is parked, then acked; ends with its channel, when the message comes again."""
        while True:
            try:
                await self.put(message, queue, reason)
            except BrokerUnavailable:
                await self._clock.sleep(PARK_AGAIN)
            else:
                acks.add(delivery_tag(message))
                return


def delivery_tag(message: DeliveredMessage) -> int:
    if not isinstance(message.delivery, Basic.Deliver) or message.delivery.delivery_tag is None:
        raise TypeError("not a delivery")
    return message.delivery.delivery_tag


class _Delivered:
    """One event of an open partition."""

    __slots__ = ("_message", "_partition", "body", "device", "event_id", "topic")

    def __init__(self, partition: "_Partition", message: DeliveredMessage) -> None:
        properties = message.header.properties
        headers = text_headers(message)
        if not properties.message_id:
            raise Unintelligible("no message_id")
        if not NEEDED <= headers.keys():
            raise Unintelligible("no device or topic header")
        if not (
            message.body.startswith(b"{") and (OURS <= headers.keys() or _is_object(message.body))
        ):
            raise Unintelligible("body is not a JSON object")
        self._partition = partition
        self._message = message
        self.event_id: str = properties.message_id
        self.topic: str = headers["topic"]
        self.device: str = headers["device"]
        self.body: bytes = message.body

    async def ack(self) -> None:
        if not self._partition.is_lost:
            self._partition.acks.add(delivery_tag(self._message))

    async def park(self, reason: str) -> None:
        await self._partition.parking.put(self._message, self._partition.queue, reason)
        await self.ack()


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


class _Partition:
    """An open partition: one channel, one consumer."""

    def __init__(
        self,
        queue: str,
        channel: Channel,
        link: Link,
        parking: Parking,
    ) -> None:
        self.queue = queue
        self.parking = parking
        self.acks = Acks(channel)
        self.on_event: Callable[[Received], None] = _ignore
        self.on_lost: Callable[[], None] = _ignore
        self._channel = channel
        self._link = link
        self._is_lost = False
        self._farewell: asyncio.Task[None] | None = None
        self._closing = channel.closing
        self._closing.add_done_callback(self._lost)
        channel.on_consumer_cancel_callbacks.add(self._cancelled)

    @property
    def is_lost(self) -> bool:
        return self._is_lost

    async def deliver(self, message: DeliveredMessage) -> None:
        if self._is_lost:
            return
        try:
            event = _Delivered(self, message)
        except Unintelligible as exc:
            await self.parking.put_surely(message, self.queue, str(exc), self.acks)
            return
        # No await before this line: deliveries run side by side, and they start in order.
        try:
            self.on_event(event)
        except Exception:
            log.exception("event_handler_failed", queue=self.queue, event_id=event.event_id)

    async def close(self) -> None:
        if self._is_lost:
            return
        self.acks.end()
        self._is_lost = True
        await close_channel(self._channel, self._link)

    def _lost(self, _closing: "asyncio.Future[Any]") -> None:
        if not self._is_lost:
            self._is_lost = True
            self.on_lost()

    async def _cancelled(self, _frame: Basic.Cancel) -> None:
        """The broker ended the consumer: its queue was deleted, or moves."""
        self._lost(self._closing)
        # Not from here: closing waits for the task that calls this.
        self._farewell = asyncio.create_task(close_channel(self._channel, self._link))


class RabbitPartitions:
    """The port PartitionConsumer on RabbitMQ. Each open partition has a channel of its own."""

    def __init__(self, link: Link, parking: Parking, prefetch: int, redeclare: Redeclare) -> None:
        self._link = link
        self._parking = parking
        self._redeclare = redeclare
        self._prefetch = prefetch

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        queue = partition_queue(partition)
        async with opened_channel(self._link, self._prefetch, self._redeclare) as channel:
            opened = _Partition(queue, channel, self._link, self._parking)
            opened.on_event = on_event
            await channel.basic_consume(queue, opened.deliver)
        if opened.is_lost:
            raise BrokerUnavailable("RabbitMQ: channel lost")
        opened.on_lost = on_lost
        return opened


def _ignore(*_arguments: object) -> None:
    return None
