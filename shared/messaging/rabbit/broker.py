"""The broker of separate services: RabbitMQ.

Promises: starting never fails because the broker is away, and closing never hangs because it is
frozen; publishing and each consumer have connections of their own, so a broker that blocks publishers
still takes acks, and a queue that hangs costs its own consumer only; the topology is declared at every
connect.
"""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from shared.domain.errors import BrokerUnavailable
from shared.messaging.rabbit.connection import Ends, FilteredConnection, Link
from shared.messaging.rabbit.consume import DeadLetters
from shared.messaging.rabbit.declare import Topology
from shared.messaging.rabbit.event_publisher import RabbitPublisher
from shared.messaging.rabbit.partitions import RabbitPartitions
from shared.messaging.rabbit.publish import PublishChannel
from shared.messaging.rabbit.push_requests import RabbitPushRequestConsumer, RabbitPushRequests
from shared.network.trusted_cas import check_files
from shared.ports.clock import Clock
from shared.ports.events import EventPublisher, PartitionConsumer
from shared.ports.pushes import PushRequestConsumer, PushRequests
from shared.telemetry.metrics import Metrics

START_PATIENCE = timedelta(seconds=2)
LAST_REQUESTS = timedelta(seconds=1)
PREFETCH = 128
"""Of each partition. It never goes down: a quorum queue puts what comes back at the end of all that came
back before, which is in order only if the next consumer takes it all at once. After a consumer with 128
and one with 64, which a rolling update can bring about, the third gets 65 to 128, then 1 to 64. Memory is
bounded in bytes instead (MDM_WEBHOOK_BODY_BUDGET)."""
PUBLISH_DEADLINE = timedelta(seconds=5)
LARGEST_MESSAGE = 15 * 1024**2
"""RabbitMQ 4 takes 16 MiB by default."""


class RabbitBroker:
    """Makes the four ports on RabbitMQ; between `start` and `close` they work by themselves."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        prefetch: int = PREFETCH,
        publish_deadline: timedelta = PUBLISH_DEADLINE,
        largest_message: int = LARGEST_MESSAGE,
    ) -> None:
        """Raises Misconfigured for a URL that cannot be one of RabbitMQ's, or whose files cannot be read."""
        metrics = metrics or Metrics()
        # It logs a stack for every connection that ends; each of our own lines says it once.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)
        self._publishing = Link(
            url,
            "macromdm publishing",
            clock,
            self._set_up_publishing,
            on_down=lambda: self._channel.detach(),
        )
        self._consuming = Link(
            url, "macromdm consuming", clock, self._set_up_consuming, on_down=lambda: None
        )
        check_files("MDM_AMQP_URL", url, "cafile", {"certfile", "keyfile"})
        self._topology = Topology(url, clock)
        self._channel = PublishChannel(
            publish_deadline, clock, metrics, self._topology.declare_again, self._publishing.drop
        )
        self._runner: asyncio.Task[None] | None = None
        self._push_requests = RabbitPushRequests(self._channel, clock)
        dead_letters = DeadLetters(self._channel, clock, metrics)
        self.publisher: EventPublisher = RabbitPublisher(self._channel, metrics, largest_message)
        self._partitions = RabbitPartitions(
            url, dead_letters, clock, self._topology.declare_again, prefetch
        )
        self.partitions: PartitionConsumer = self._partitions
        self.push_requests: PushRequests = self._push_requests
        self.push_request_consumer: PushRequestConsumer = RabbitPushRequestConsumer(
            self._consuming, dead_letters, clock, self._topology.declare_again
        )

    @property
    def healthy(self) -> bool:
        """The broker confirms what we publish, and we can consume if a consumer began."""
        return self._channel.is_live and not self._consuming.is_missing

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
        """Send the last push requests if that is quickly done, then disconnect; a few seconds at most."""
        if self._runner is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_REQUESTS.total_seconds()):
                await self._push_requests.flush(self._push_requests.send)
        self._runner.cancel()
        await asyncio.wait({self._runner})
        self._runner = None
        await self._partitions.close()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publishing.run())
            tasks.create_task(self._consuming.run())
            tasks.create_task(self._push_requests.keep_flushing(self._push_requests.send))

    async def _set_up_publishing(self, connection: FilteredConnection) -> Ends:
        await self._topology.declare()
        return await self._channel.attach(connection)

    async def _set_up_consuming(self, _connection: FilteredConnection) -> Ends:
        await self._topology.declare()
        return ()
