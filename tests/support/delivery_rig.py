"""Replicas of the webhook service around one queue, one store and one receiver, on fake time."""

import asyncio
from collections.abc import Collection, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any, Self

from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.first_attempt import Crew, PartitionQueues
from services.webhook.delivery.retry import QueueRetry, RetryPolicy
from services.webhook.delivery.scheduler import Retries
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.attempts import PATIENCE, Attempts
from services.webhook.partitions import Partitions
from shared.concurrency.periodic import Loops
from shared.domain.enrollment import EnrollmentKey, partition_of
from shared.domain.event import Event, Topic
from shared.domain.subscription import Subscription
from tests.support.fakes.clock import FakeClock, FakeIds, settle
from tests.support.fakes.deliveries import FakeDeliveries, Owed
from tests.support.fakes.event_queue import (
    FakeChannel,
    FakeConsumer,
    FakeQueue,
    FakeReceiver,
    QueuedEvent,
    body_of,
)
from tests.support.fakes.journal import FakeJournal

DEVICE = "MAC"
PARTITION = partition_of(DEVICE)
WAITS = [timedelta(seconds=seconds) for seconds in (1, 5, 30)]
SUBSCRIPTION = Subscription("config", "http://receiver.invalid/")


class Barriers:
    """Holds a replica's store operations back, by name, until they are let through."""

    def __init__(self) -> None:
        self._held: dict[str, asyncio.Event] = {}
        self.reached: list[str] = []
        self.faults: dict[str, Exception] = {}

    def hold(self, operation: str) -> None:
        self._held[operation] = asyncio.Event()

    def let(self, operation: str) -> None:
        self._held.pop(operation).set()

    async def __call__(self, operation: str) -> None:
        self.reached.append(operation)
        await asyncio.sleep(0)
        if gate := self._held.get(operation):
            await gate.wait()
        if fault := self.faults.get(operation):
            raise fault


class FixedShare:
    """A share that a test sets."""

    def __init__(self, partitions: Collection[int]) -> None:
        self.partitions = frozenset(partitions)

    async def refresh(self) -> frozenset[int]:
        return self.partitions

    async def leave(self) -> None:
        self.partitions = frozenset()


class Count:
    """A counter."""

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Counts:
    def __init__(self) -> None:
        self.deliveries_retried = Count()
        self.deliveries_dead_lettered = Count()
        self.deliveries_set_aside = Count()


class World:
    """What all replicas share."""

    def __init__(self, prefetch: int = 16, budget: int = 2**20) -> None:
        self.budget = budget
        self.clock = FakeClock()
        self.ids = FakeIds()
        self.queue = FakeQueue(prefetch)
        self.records: dict[str, Owed] = {}
        self.store = FakeDeliveries(self.records)
        self.journal = FakeJournal()
        self.receiver = FakeReceiver()

    def publish(
        self,
        *event_ids: str,
        device: str = DEVICE,
        topic: Topic = Topic.CONNECT,
        has_body: bool = True,
    ) -> None:
        """Journal events, then put them in the queue."""
        for number, event_id in enumerate(event_ids):
            self.journal.events[event_id] = Event(
                id=event_id,
                topic=topic,
                key=EnrollmentKey(device, device=device, udid=device),
                created_at=number,
                raw_payload=event_id.encode(),
                writer="w",
                number=number,
            )
        self.queue.publish(
            *(QueuedEvent(event_id, device, topic.value, has_body) for event_id in event_ids)
        )

    async def run(self, seconds: float) -> None:
        await self.clock.run(timedelta(seconds=seconds))

    async def jump(self, seconds: float) -> None:
        """A long time passes at once; what is due then has three seconds to be done."""
        await settle()
        self.clock.advance(timedelta(seconds=seconds - 3))
        await self.run(3)

    @property
    def is_settled(self) -> bool:
        """Nothing is owed anywhere."""
        return self.queue.is_empty and not self.records


class Replica:
    """One webhook process. Leaving the context kills it."""

    def __init__(
        self,
        world: World,
        waits: list[timedelta] | None = None,
        patience: timedelta = PATIENCE,
        share: FixedShare | None = None,
        consumer: FakeConsumer | None = None,
    ) -> None:
        self.world = world
        self.barriers = Barriers()
        self.counts = Counts()
        self.delivered = Count()
        self.share = share or FixedShare([PARTITION])
        self.answers = Barriers()
        self.deliveries = FakeDeliveries(world.records, self.barriers, self.answers)
        store = DeliveryStore(self.deliveries, world.journal, world.clock, world.ids)
        self.attempts = Attempts(world.receiver, world.clock, self.delivered, patience)
        self.read_back = Count()
        self.bodies = Bodies(world.budget, store, lambda event: body_of(event.id), self.read_back)
        policy = RetryPolicy(
            WAITS if waits is None else waits,
            lambda: 0.5,
            {SUBSCRIPTION.id: SUBSCRIPTION}.get,
            self.bodies,
        )
        queue_retry = QueueRetry(store, self.attempts, policy, world.clock, self.counts)
        self.retries = Retries(queue_retry, self.attempts, world.clock)
        self.consumer = consumer or FakeConsumer(world.queue, PARTITION)
        self.subscriptions = [SUBSCRIPTION]
        self._tasks: set[asyncio.Task[None]] = set()
        crew = Crew(
            subscribers=lambda: self.subscriptions,
            attempts=self.attempts,
            store=store,
            bodies=self.bodies,
            retries=self.retries,
            clock=world.clock,
            next_attempt=policy.next_attempt,
            spawn=self._spawn,
        )
        self.partitions = Partitions(
            self.consumer, self.share, self.deliveries, world.clock, partial(PartitionQueues, crew)
        )

    @property
    def channel(self) -> FakeChannel:
        assert self.consumer.channel is not None
        return self.consumer.channel

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> Self:
        loops = Loops(self.world.clock)
        self._spawn(self.retries.run(loops))
        self._spawn(self.partitions.run(self._spawn, loops))
        await settle()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """The process is gone: its channel with it, and nothing of it goes on."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        if self.consumer.channel is not None:
            self.world.queue.end(self.consumer.channel)
        await settle()
