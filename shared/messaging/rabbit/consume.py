"""Channels to consume on, and the way to the queue `dead_lettered`.

Promise: a consumer whose queue does not answer loses its connection: what the broker had begun to give goes
back to the queue.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256

import structlog
from aiormq.exceptions import AMQPChannelError, ChannelClosed

from shared.domain.errors import BrokerUnavailable
from shared.messaging.frame_filter import ReceivedMessage
from shared.messaging.frames import Message
from shared.messaging.rabbit.connection import Link, SingleConnection, translated
from shared.messaging.rabbit.fast_channel import FastChannel
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.topology import DEAD_LETTER_QUEUE
from shared.ports.clock import Clock
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

OPEN_TIMEOUT = timedelta(seconds=5)
CLOSE_TIMEOUT = timedelta(seconds=2)
RETRY = timedelta(seconds=1)


Line = Link | SingleConnection
"""A connection of one consumer, so that dropping it costs no other anything."""
Redeclare = Callable[[], Awaitable[None]]


@asynccontextmanager
async def opened_channel(
    line: Line, prefetch: int, redeclare: Redeclare
) -> AsyncIterator[FastChannel]:
    """A channel, to begin consuming on within the `with`; the whole has one timeout.

    When the broker refuses, the topology is declared again for the next try. When it does not answer, it may
    have a consumer of ours, which might hold messages that are never read: so the connection is dropped."""
    connection = await line.connection(OPEN_TIMEOUT)
    try:
        with translated():
            async with asyncio.timeout(OPEN_TIMEOUT.total_seconds()):
                channel = await FastChannel.open(connection, confirms=False)
                await channel.channel.basic_qos(prefetch_count=prefetch)
                yield channel
    except BaseException as exc:
        if isinstance(exc.__cause__, AMQPChannelError | ChannelClosed):
            log.warning("consuming_refused", reason=str(exc.__cause__))
            await redeclare()
        else:
            line.drop()
        raise


async def close_channel(channel: FastChannel, line: Line) -> None:
    """Close it for certain, so that the broker gives what it holds to others: with its connection
    where the broker does not answer."""
    try:
        with translated():
            async with asyncio.timeout(CLOSE_TIMEOUT.total_seconds()):
                await channel.close()
    except BrokerUnavailable:
        line.drop()


class DeadLetters:
    """The way to the queue `dead_lettered`, the same for all consumers."""

    def __init__(self, publishing: PublishChannel, clock: Clock, metrics: Metrics) -> None:
        self._publishing = publishing
        self._clock = clock
        self._metrics = metrics

    async def put(self, message: ReceivedMessage, queue: str, reason: str, **more: str) -> None:
        """Raises BrokerUnavailable when the broker did not take it."""
        headers = {**message.headers, **more, "queue": queue, "reason": reason}
        name = message.message_id or sha256(message.body).hexdigest()
        copy = Message("", DEAD_LETTER_QUEUE, name, headers, message.body)
        if not (await self._publishing.send([copy]))[0]:
            raise BrokerUnavailable("RabbitMQ: could not park a message")
        self._metrics.messages_dead_lettered.inc()
        log.error("message_parked", queue=queue, message_id=name, reason=reason)

    async def put_surely(
        self, message: ReceivedMessage, queue: str, reason: str, channel: FastChannel
    ) -> None:
        """Until it is dead-lettered, then acked; ends with its channel, when the message comes again."""
        while True:
            try:
                await self.put(message, queue, reason)
            except BrokerUnavailable:
                await self._clock.sleep(RETRY)
            else:
                channel.ack(message)
                return
