"""The adapters that services are built on: one store, one broker, real time.

`PartsOfProcess` opens them by the settings, and closes them after all services have drained: the broker
first, the store last, since a service that drains still writes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from services.runtime.key_files import keyring_of
from services.runtime.single_process import Alone, held_folder
from services.runtime.store_folder import check_folder
from services.runtime.store_health import StorePulse
from services.runtime.stores import Stores
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.clock import SystemClock, SystemIds
from shared.concurrency.periodic import Loops
from shared.ports.clock import Clock, Ids
from shared.ports.events import EventPublisher, PartitionConsumer
from shared.ports.pushes import PushRequestConsumer, PushRequests
from shared.settings import ServiceSettings
from shared.storage.database import Database
from shared.storage.remote import StoreServer
from shared.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from shared.messaging.memory.broker import LocalBroker
    from shared.messaging.rabbit.broker import RabbitBroker


FOLDER_PATIENCE = timedelta(seconds=5)
"""The longest time for which a start waits for a command that holds the data folder."""


class Broker(Protocol):
    """A connection to RabbitMQ, or the in-process broker."""

    @property
    def healthy(self) -> bool:
        """False while publishing would fail or wait."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """The argument of `services.<name>.app.build`; tests fill it with fakes of the ports.

    `is_alone`: the broker is in this process, so no other process may work on this store.
    """

    stores: Stores
    broker: Broker
    publisher: EventPublisher
    partitions: PartitionConsumer
    push_requests: PushRequests
    push_request_consumer: PushRequestConsumer
    clock: Clock
    ids: Ids
    metrics: Metrics
    loops: Loops
    wanted: WantedTopics
    is_alone: bool = False


class PartsOfProcess:
    """Opens the adapters of one process, watches those that can fail by themselves, closes all."""

    def __init__(self, settings: ServiceSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = SystemClock()
        self._ids = SystemIds()
        self.loops = Loops(self._clock, lambda loop: metrics.loop_failures.labels(loop).inc())
        metrics.loops_hanging.set_function(lambda: self.loops.hanging())
        self._stack = AsyncExitStack()
        self._watched: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._checked: list[Callable[[], None]] = []
        self._opened: Adapters | None = None

    async def open(self) -> Adapters:
        """Open them. Raises Misconfigured, and Unavailable: not now, so call again."""
        if self._opened is None:
            try:
                self._opened = await self._open()
            except BaseException:
                await self.close()
                raise
        return self._opened

    async def _open(self) -> Adapters:
        settings = self._settings
        is_alone = settings.amqp_url is None
        if is_alone or settings.mongodb_url is None:
            await self._stack.enter_async_context(
                held_folder(settings.data_dir, self._clock, FOLDER_PATIENCE)
            )
        if settings.mongodb_url is None:
            check_folder(settings.data_dir)
        keyring = keyring_of(settings)
        database = await self._database()
        stores = Stores(database, keyring)
        if is_alone and settings.mongodb_url is not None:
            # The lock speaks for the data folder; a MongoDB may be used from elsewhere.
            alone = Alone(stores.members, self._clock, self._ids.new())
            await alone.enter(self.loops)
            self._stack.push_async_callback(alone.leave)
            self._watched.append(alone.watch)
            self._checked.append(alone.check)
        pulse = StorePulse(database.ping, self._clock)
        self._metrics.watch(self._metrics.store_up, lambda: pulse.is_up)
        # From now on: the services may build an index for minutes before `watch`.
        await self._stack.enter_async_context(pulse.running(self.loops))
        wanted = WantedTopics(stores.subscriptions())
        self._watched.append(partial(wanted.run, self.loops))
        broker = await self._broker()
        return Adapters(
            stores=stores,
            broker=broker,
            publisher=broker.publisher,
            partitions=broker.partitions,
            push_requests=broker.push_requests,
            push_request_consumer=broker.push_request_consumer,
            clock=self._clock,
            ids=self._ids,
            metrics=self._metrics,
            loops=self.loops,
            wanted=wanted,
            is_alone=is_alone,
        )

    async def _database(self) -> Database:
        """MongoDB, which several processes share, or the SQLite file of the data folder."""
        settings = self._settings
        if settings.mongodb_url is not None:
            from shared.storage.mongo import Mongo

            mongo = Mongo(settings.mongodb_url.get_secret_value(), driver=settings.mongo_driver)
            self._stack.push_async_callback(mongo.close)
            return mongo
        from shared.storage.sqlite import open_database

        database = open_database(settings.data_dir, self._clock)
        self._stack.push_async_callback(database.close)
        self._watched.append(partial(database.watch, self.loops))
        self._checked.append(database.refuse_damage)
        server = StoreServer(database, settings.data_dir)
        await server.start()
        self._stack.push_async_callback(server.close)
        return database

    async def _broker(self) -> "RabbitBroker | LocalBroker":
        broker = self._new_broker()
        self._stack.push_async_callback(broker.close)
        await broker.start()
        self._watched.append(broker.watch)
        return broker

    def _new_broker(self) -> "RabbitBroker | LocalBroker":
        url, largest = self._settings.amqp_url, self._settings.amqp_max_message
        clock, metrics = self._clock, self._metrics
        if url is None:
            from shared.messaging.memory.broker import LocalBroker

            return LocalBroker(clock=clock, metrics=metrics)
        from shared.messaging.rabbit.broker import RabbitBroker

        address = url.get_secret_value()
        return RabbitBroker(address, clock=clock, metrics=metrics, largest_message=largest)

    def check(self) -> None:
        """Before the port opens: raises Misconfigured where they cannot be used any more."""
        for check in self._checked:
            check()

    async def watch(self) -> None:
        """Watch until cancelled. Raises the error of an adapter that failed by itself."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watched:
                tasks.create_task(watch())

    async def close(self) -> None:
        """May be called twice."""
        self._watched.clear()
        self._checked.clear()
        self._opened = None
        await self._stack.aclose()
