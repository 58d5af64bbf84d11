"""Partitions of the event stream, as their consumer gets them from RabbitMQ.

Promises: events of a partition come in the order of its queue, each until it is acked; closing gives up the
partition and all that is not acked; a consumer learns at once when its channel is gone; a message that cannot
be understood is dead-lettered here. A partition whose queue does not answer is tried again after longer and
longer rests, and the others do not notice.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from weakref import WeakSet

import orjson
import structlog

from shared.domain.enrollment import PARTITIONS
from shared.domain.errors import BrokerUnavailable
from shared.messaging.envelope import headers_without_body, size_in_journal, time_in
from shared.messaging.frame_filter import ReceivedMessage
from shared.messaging.rabbit.breaker import LONGEST_PAUSE as LONGEST_REST
from shared.messaging.rabbit.breaker import Breaker
from shared.messaging.rabbit.connection import LONGEST_PAUSE, SingleConnection, checked_url
from shared.messaging.rabbit.consume import (
    DeadLetters,
    Redeclare,
    close_channel,
    opened_channel,
)
from shared.messaging.rabbit.fast_channel import FastChannel
from shared.messaging.topology import partition_queue
from shared.ports.clock import Clock
from shared.ports.events import OpenPartition, Received

log = structlog.get_logger()

NEEDED = frozenset({"device", "topic"})
OURS = NEEDED | {"enrollment"}
"""The headers that our own publisher writes; a body that comes with them is not parsed here."""


class Unintelligible(Exception):
    """A message that cannot be understood; the text says why, in words from a closed set."""


class _Delivered:
    """One event of an open partition."""

    __slots__ = (
        "_created_at",
        "_is_ours",
        "_message",
        "_partition",
        "body",
        "device",
        "event_id",
        "size",
        "topic",
    )

    def __init__(self, partition: "_Partition", message: ReceivedMessage) -> None:
        headers, event_id = message.headers, message.message_id
        if not event_id:
            raise Unintelligible("no message_id")
        if not NEEDED <= headers.keys():
            raise Unintelligible("no device or topic header")
        self._is_ours = OURS <= headers.keys()
        self._partition = partition
        self._message = message
        self._created_at: int | None = None
        self.event_id = event_id
        self.topic: str = headers["topic"]
        self.device: str = headers["device"]
        self.body: bytes | None = message.body or None
        self.size = self._read_size(headers, message.body)

    def _read_size(self, headers: Mapping[str, str], body: bytes) -> int:
        try:
            size = size_in_journal(headers) if self._is_ours else None
        except ValueError as exc:
            raise Unintelligible("no size header") from exc
        if size is not None:
            return size
        if not (body.startswith(b"{") and (self._is_ours or _is_object(body))):
            raise Unintelligible("body is not a JSON object")
        return len(body)

    @property
    def created_at(self) -> int | None:
        return time_in(self.body) if self.body else self._created_at

    @property
    def held(self) -> int:
        return len(self.body or b"")

    def drop_body(self) -> bool:
        """Only of a message as our own publisher writes it: others need not be in the journal."""
        if not self._is_ours or self.body is None:
            return False
        self._created_at = time_in(self.body)
        self.body = None
        self._message = replace(self._message, body=b"")
        return True

    async def ack(self) -> None:
        if not self._partition.is_lost:
            self._partition.channel.ack(self._message)

    async def dead_letter(self, reason: str) -> None:
        more = {} if self.body else headers_without_body(self.size)
        await self._partition.dead_letters.put(self._message, self._partition.queue, reason, **more)
        await self.ack()


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


class _Partition:
    """An open partition: one connection, one channel, one consumer."""

    def __init__(
        self,
        queue: str,
        channel: FastChannel,
        single: SingleConnection,
        dead_letters: DeadLetters,
        on_event: Callable[[Received], None],
    ) -> None:
        self.queue = queue
        self.dead_letters = dead_letters
        self.channel = channel
        self.on_lost: Callable[[], None] = lambda: None
        self._on_event = on_event
        self._single = single
        self.is_lost = False
        self._farewell: asyncio.Task[None] | None = None
        self._unintelligible: set[asyncio.Task[None]] = set()
        channel.channel.closing.add_done_callback(lambda _: self._lost())
        # The broker ends a consumer whose queue was deleted, or moves.
        channel.channel.on_consumer_cancel_callbacks.add(lambda _: self._lost())

    def deliver(self, message: ReceivedMessage) -> None:
        if self.is_lost:
            return
        try:
            event = _Delivered(self, message)
        except Unintelligible as exc:
            putting = self.dead_letters.put_surely(message, self.queue, str(exc), self.channel)
            task = asyncio.create_task(putting)
            self._unintelligible.add(task)
            task.add_done_callback(self._unintelligible.discard)
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("event_handler_failed", queue=self.queue, event_id=event.event_id)

    async def close(self) -> None:
        """First the channel, so that the last acks arrive; then its connection."""
        if self.is_lost:
            return
        self._end()
        await close_channel(self.channel, self._single)
        await self._single.end(orderly=True)

    def _lost(self) -> None:
        if not self.is_lost:
            self._end()
            self._farewell = asyncio.create_task(self._single.end(orderly=False))
            self.on_lost()

    def _end(self) -> None:
        self.is_lost = True
        for task in self._unintelligible:  # its message comes again
            task.cancel()


class RabbitPartitions:
    """The port PartitionConsumer on RabbitMQ.

    Each open partition has a connection of its own: a broker ends the whole connection of a channel
    that waits a minute for its queue, and with it every other channel on it."""

    def __init__(
        self, url: str, dead_letters: DeadLetters, clock: Clock, redeclare: Redeclare, prefetch: int
    ) -> None:
        self._url = url
        self._dead_letters = dead_letters
        self._redeclare = redeclare
        self._prefetch = prefetch
        self._breakers = [Breaker(clock) for _ in range(PARTITIONS)]
        self._singles: WeakSet[SingleConnection] = WeakSet()

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        queue = partition_queue(partition)
        breaker = self._breakers[partition]
        if breaker.refuses:
            raise BrokerUnavailable(f"RabbitMQ: {queue} did not answer lately")
        single = SingleConnection(checked_url(self._url, f"macromdm {queue}"))
        self._singles.add(single)
        try:
            async with opened_channel(single, self._prefetch, self._redeclare) as channel:
                opened = _Partition(queue, channel, single, self._dead_letters, on_event)
                await channel.consume(queue, opened.deliver)
            if opened.is_lost:
                raise BrokerUnavailable("RabbitMQ: channel lost")
        except BaseException as exc:
            await single.end(orderly=False)
            if isinstance(exc, BrokerUnavailable):
                breaker.trip(LONGEST_REST if single.was_made else LONGEST_PAUSE)
                seconds = breaker.pause.total_seconds()
                log.warning("partition_rests", partition=partition, seconds=seconds)
            raise
        breaker.close()
        opened.on_lost = on_lost
        return opened

    async def close(self) -> None:
        """End what is open still."""
        async with asyncio.TaskGroup() as group:
            for single in list(self._singles):
                group.create_task(single.end(orderly=True))
