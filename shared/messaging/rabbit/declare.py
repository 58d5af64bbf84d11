"""Makes the topology on a broker, at every connect and whenever a message finds no queue.

Promises: any number of processes may do it at once, and again; where the broker refuses a part (a queue that
exists with other arguments, a user who may not configure) or can declare nothing now, as when its metadata
store is without a majority, the log says so, what is there is used, and the rest is made.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from aiormq.abc import AbstractConnection
from aiormq.channel import Channel
from aiormq.exceptions import AMQPChannelError, ChannelClosed

from shared.domain.errors import BrokerUnavailable
from shared.messaging.rabbit.connection import SingleConnection, checked_url, translated
from shared.messaging.rabbit.fast_channel import open_channel
from shared.messaging.topology import EVENTS_EXCHANGE, QUEUES
from shared.ports.clock import Clock

log = structlog.get_logger()

TIMEOUT = timedelta(seconds=10)
AGAIN = timedelta(seconds=1)
AGAIN_AFTER_FAILURE = timedelta(seconds=10)


class Topology:
    """Declares on a connection of its own: a broker that cannot declare in time ends the connection."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._declaring = asyncio.Lock()
        self._rest_until = clock.monotonic() + AGAIN.total_seconds()
        self._has_failed = False

    async def declare(self) -> None:
        """Make everything that is missing, if that can be done now; it may all be there already."""
        async with self._declaring:
            if not (self._has_failed and self._is_resting):
                await self._declare()

    async def declare_again(self) -> None:
        """Declare once for all who ask meanwhile, or did a moment ago."""
        async with self._declaring:
            if not self._is_resting:
                await self._declare()

    @property
    def _is_resting(self) -> bool:
        return self._clock.monotonic() < self._rest_until

    async def _declare(self) -> None:
        self._has_failed = True
        single = SingleConnection(checked_url(self._url, "macromdm declaring"))
        try:
            connection = await single.connection(TIMEOUT)
            with translated():
                async with asyncio.timeout(TIMEOUT.total_seconds()):
                    await declare(connection)
            self._has_failed = False
        except BrokerUnavailable as exc:
            log.warning("topology_not_declared", reason=str(exc))
        finally:
            await single.end(orderly=not self._has_failed)
            rest = AGAIN_AFTER_FAILURE if self._has_failed else AGAIN
            self._rest_until = self._clock.monotonic() + rest.total_seconds()


async def declare(connection: AbstractConnection) -> None:
    """Make everything that is missing. Raises what the library raises; no timeout of its own."""
    declaring = _Declaring(connection)
    async with declaring.part_of(EVENTS_EXCHANGE) as channel:
        await channel.exchange_declare(EVENTS_EXCHANGE, exchange_type="topic", durable=True)
    for queue in QUEUES:
        async with declaring.part_of(queue.name) as channel:
            await channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)
        for binding in queue.bindings:
            async with declaring.part_of(queue.name) as channel:
                await channel.queue_bind(queue.name, EVENTS_EXCHANGE, binding)
    if declaring.channel is not None:
        await declaring.channel.close()


class _Declaring:
    """The channel to declare on; a new one after each refusal, which ends its channel."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.channel: Channel | None = None

    @asynccontextmanager
    async def part_of(self, name: str) -> AsyncIterator[Channel]:
        if self.channel is None:
            self.channel = await open_channel(self._connection, confirms=False)
        try:
            yield self.channel
        except (AMQPChannelError, ChannelClosed) as exc:
            log.error("topology_refused", name=name, reason=str(exc))
            self.channel = None
