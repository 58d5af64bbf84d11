"""Partitions of the event stream, as their consumer gets them from RabbitMQ.

Promises: events of a partition come in the order of its queue, each until it is acked; closing gives
the partition up together with all that is not acked; a consumer hears at once when its channel is
gone; a message that nobody can understand is parked here and never seen outside. A partition whose
queue does not answer rests, longer and longer, and the others do not notice.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import orjson
import structlog
from aiormq.abc import DeliveredMessage
from aiormq.channel import Channel
from pamqp.commands import Basic

from shared.domain.errors import BrokerUnavailable
from shared.messaging.connection import Link
from shared.messaging.consumers import (
    Acks,
    Parking,
    Redeclare,
    close_channel,
    delivery_tag,
    opened_channel,
    text_headers,
)
from shared.messaging.topology import partition_queue
from shared.ports.clock import Clock
from shared.ports.events import OpenPartition, Received

log = structlog.get_logger()

FIRST_REST = timedelta(seconds=1)
LONGEST_REST = timedelta(seconds=30)

NEEDED = frozenset({"device", "topic"})
OURS = NEEDED | {"enrollment"}
"""The headers that our own publisher writes; a body that comes with them is not parsed here."""


class Unintelligible(Exception):
    """A message that nobody can understand; the text says why, in words from a closed set."""


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

    def abandon(self) -> None:
        """It could not be opened: ignore what still comes, since all of it comes again."""
        self._is_lost = True

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


class _Rests:
    """Partitions that are left alone for a while, because they could not be opened."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}
        self._last: dict[int, timedelta] = {}

    def check(self, partition: int) -> None:
        if self._clock.monotonic() < self._until.get(partition, 0.0):
            raise BrokerUnavailable(f"RabbitMQ: {partition_queue(partition)} did not answer lately")

    def begin(self, partition: int) -> None:
        rest = min(self._last.get(partition, FIRST_REST / 2) * 2, LONGEST_REST)
        self._last[partition] = rest
        self._until[partition] = self._clock.monotonic() + rest.total_seconds()
        log.warning("partition_rests", partition=partition, seconds=rest.total_seconds())

    def end(self, partition: int) -> None:
        self._until.pop(partition, None)
        self._last.pop(partition, None)


class RabbitPartitions:
    """The port PartitionConsumer on RabbitMQ. Each open partition has a channel of its own."""

    def __init__(
        self, link: Link, parking: Parking, clock: Clock, redeclare: Redeclare, prefetch: int
    ) -> None:
        self._link = link
        self._parking = parking
        self._redeclare = redeclare
        self._prefetch = prefetch
        self._rests = _Rests(clock)

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        self._rests.check(partition)
        try:
            opened = await self._open(partition_queue(partition), on_event)
        except BrokerUnavailable:
            if self._link.is_up:  # else the broker is away, which is no fault of this partition
                self._rests.begin(partition)
            raise
        self._rests.end(partition)
        opened.on_lost = on_lost
        return opened

    async def _open(self, queue: str, on_event: Callable[[Received], None]) -> _Partition:
        async with opened_channel(self._link, self._prefetch, self._redeclare) as channel:
            opened = _Partition(queue, channel, self._link, self._parking)
            opened.on_event = on_event
            try:
                await channel.basic_consume(queue, opened.deliver)
            except BaseException:
                opened.abandon()
                raise
        if opened.is_lost:
            raise BrokerUnavailable("RabbitMQ: channel lost")
        return opened


def _ignore(*_arguments: object) -> None:
    return None
