"""The broker of separate services: RabbitMQ.

Promises: starting never fails because the broker is away, and closing never hangs because it is
frozen; publishing and consuming have connections of their own, so a broker that blocks publishers
still takes acks; the topology is declared at every connect.
"""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from aiormq.abc import AbstractConnection

from shared.domain.errors import BrokerUnavailable
from shared.messaging.connection import Ends, Link, translated
from shared.messaging.consumers import Parking, RabbitPartitions
from shared.messaging.declaring import declare
from shared.messaging.publishing import PublishChannel, RabbitPublisher
from shared.messaging.wishes import RabbitWishConsumer, RabbitWishes
from shared.ports.clock import Clock
from shared.ports.events import EventPublisher, PartitionConsumer
from shared.ports.pushes import PushWishes, WishConsumer
from shared.telemetry.metrics import Metrics

PUBLISH_DEADLINE = timedelta(seconds=5)
DECLARE_TIMEOUT = timedelta(seconds=10)
DECLARE_AGAIN = timedelta(seconds=1)
START_PATIENCE = timedelta(seconds=2)
LAST_WISHES = timedelta(seconds=1)
PREFETCH = 128


class RabbitBroker:
    """Makes the four ports on RabbitMQ; between `start` and `close` they work by themselves."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        publish_deadline: timedelta = PUBLISH_DEADLINE,
        prefetch: int = PREFETCH,
    ) -> None:
        """Raises Misconfigured for a URL that cannot be one of RabbitMQ's."""
        metrics = metrics or Metrics()
        # It logs a stack for every connection that ends; each of our own lines says it once.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)
        self._publishing = Link(
            url, "macromdm publishing", clock, self._set_up_publishing, self._publishing_down
        )
        self._consuming = Link(url, "macromdm consuming", clock, self._set_up_consuming, _ignore)
        self._channel = PublishChannel(
            publish_deadline, metrics, self._declare_again, self._publishing.drop
        )
        self._connection: AbstractConnection | None = None
        self._declaring = asyncio.Lock()
        self._declared = clock.monotonic()
        self._clock = clock
        self._runner: asyncio.Task[None] | None = None
        self._wishes = RabbitWishes(self._channel, clock)
        parking = Parking(self._channel, clock, metrics)
        self.publisher: EventPublisher = RabbitPublisher(self._channel)
        self.partitions: PartitionConsumer = RabbitPartitions(
            self._consuming, parking, prefetch, self._declare_again
        )
        self.wishes: PushWishes = self._wishes
        self.wish_consumer: WishConsumer = RabbitWishConsumer(
            self._consuming, parking, clock, self._declare_again
        )

    @property
    def healthy(self) -> bool:
        """The broker confirms what we publish, and we can consume if anybody wants to."""
        can_consume = self._consuming.is_up or not self._consuming.is_wanted
        return self._channel.is_live and can_consume

    async def start(self, patience: timedelta = START_PATIENCE) -> None:
        """Connect in the background; waits a moment, so that a broker that is there is used at once."""
        self._runner = asyncio.create_task(self._run(), name="rabbit-broker")
        with suppress(BrokerUnavailable):
            await self._publishing.connection(patience)
        if self._runner.done():
            self._runner.result()

    async def watch(self) -> None:
        """Return once it was closed; raise what ended its work in the background."""
        if self._runner is None:
            raise RuntimeError("the broker was not started")
        runner = self._runner
        await asyncio.wait({runner})
        if not runner.cancelled():
            runner.result()

    async def close(self) -> None:
        """Send the last wishes if that is quickly done, then disconnect; a few seconds at most."""
        if self._runner is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WISHES.total_seconds()):
                await self._wishes.flush()
        self._runner.cancel()
        await asyncio.wait({self._runner})
        self._runner = None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publishing.run())
            tasks.create_task(self._consuming.run())
            tasks.create_task(self._wishes.run())

    async def _set_up_publishing(self, connection: AbstractConnection) -> Ends:
        await self._declare(connection)
        channel = await self._channel.attach(connection)
        self._connection = connection
        return [channel.closing]

    async def _set_up_consuming(self, connection: AbstractConnection) -> Ends:
        await self._declare(connection)
        return ()

    def _publishing_down(self) -> None:
        self._connection = None
        self._channel.detach()

    async def _declare_again(self) -> None:
        """Declare the topology once for all who ask meanwhile, or did a moment ago."""
        async with self._declaring:
            since = timedelta(seconds=self._clock.monotonic() - self._declared)
            if since > DECLARE_AGAIN and self._connection is not None:
                await self._declare(self._connection)

    async def _declare(self, connection: AbstractConnection) -> None:
        with translated():
            async with asyncio.timeout(DECLARE_TIMEOUT.total_seconds()):
                await declare(connection)
        self._declared = self._clock.monotonic()


def _ignore() -> None:
    return None
