"""Makes the topology on a broker, at every connect and whenever a message finds no queue.

Promises: it is idempotent and may be done by any number of processes at once; where the broker
refuses a part (a queue that exists with other arguments, a user who may not configure) that is said
in the log, what is there is used, and the rest is made all the same.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from aiormq.abc import AbstractConnection
from aiormq.channel import Channel
from aiormq.exceptions import AMQPChannelError, ChannelClosed

from shared.messaging.connection import open_channel
from shared.messaging.topology import EVENTS_EXCHANGE, QUEUES, Queue

log = structlog.get_logger()


async def declare(connection: AbstractConnection) -> None:
    """Make everything that is missing. Raises what the library raises; no timeout of its own."""
    declaring = _Declaring(connection)
    await declaring.do(EVENTS_EXCHANGE, _declare_exchange)
    for queue in QUEUES:
        await declaring.do(queue.name, partial(_declare_queue, queue=queue))
        for binding in queue.bindings:
            await declaring.do(queue.name, partial(_bind, queue=queue, binding=binding))
    await declaring.close()


async def _declare_exchange(channel: Channel) -> None:
    await channel.exchange_declare(EVENTS_EXCHANGE, exchange_type="topic", durable=True)


async def _declare_queue(channel: Channel, queue: Queue) -> None:
    await channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)


async def _bind(channel: Channel, queue: Queue, binding: str) -> None:
    await channel.queue_bind(queue.name, EVENTS_EXCHANGE, binding)


class _Declaring:
    """Declares one by one, on a new channel after each refusal: a refusal ends its channel."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: Channel | None = None

    async def do(self, name: str, declaration: Callable[[Channel], Awaitable[object]]) -> None:
        if self._channel is None:
            self._channel = await open_channel(self._connection, confirms=False)
        try:
            await declaration(self._channel)
        except (AMQPChannelError, ChannelClosed) as exc:
            log.error("topology_refused", name=name, reason=str(exc))
            self._channel = None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
