"""Replicas of the webhook service around one queue, one store and one receiver, on fake time."""

import asyncio
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Self

from services.webhook.delivery.bodies import Bodies
from services.webhook.delivery.filters import Filters
from services.webhook.delivery.first_attempt import PartitionQueues
from services.webhook.delivery.retry import QueueRetry
from services.webhook.delivery.schedule import RetryPolicy
from services.webhook.delivery.scheduler import Retries
from services.webhook.delivery.store import DeliveryStore
from services.webhook.endpoints.slots import PATIENCE
from services.webhook.endpoints.subscribers import Subscribers
from services.webhook.partitions import Partitions
from shared.concurrency.periodic import Loops, Step
from shared.domain.enrollment import EnrollmentKey, partition_of
from shared.domain.event import Event, Topic
from shared.domain.subscription import Subscription
from shared.telemetry.metrics import Metrics
from tests.support.fakes.clock import FakeClock, FakeIds, settle
from tests.support.fakes.deliveries import FakeDeliveries, Owed
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.event_queue import (
    FakeChannel,
    FakeConsumer,
    FakeQueue,
    FakeReceiver,
    QueuedEvent,
    body_of,
)
from tests.support.fakes.journal import FakeJournal
from tests.support.fakes.queue import FakeCommandQueue

DEVICE = "MAC"
PARTITION = partition_of(DEVICE)
WAITS = [timedelta(seconds=seconds) for seconds in (1, 5, 30)]
SUBSCRIPTION = Subscription("config", "http://receiver.invalid/", name="MDM_WEBHOOK_URL")


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


class FixedSubscriptions:
    """The subscriptions that a test sets."""

    def __init__(self, *subscriptions: Subscription) -> None:
        self.subscriptions = list(subscriptions)

    async def all(self) -> list[Subscription]:
        return self.subscriptions


class StrictLoops(Loops):
    """Loops whose single attempts must not fail: their errors end the test."""

    async def attempt(self, name: str, step: Step, waits: str) -> None:
        await step()


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
        self.enrollments = FakeEnrollments()
        self.commands = FakeCommandQueue()

    def publish(
        self,
        *event_ids: str,
        device: str = DEVICE,
        topic: Topic = Topic.CONNECT,
        has_body: bool = True,
    ) -> None:
        """Journal events, then put them in the queue."""
        self.write(*event_ids, device=device, topic=topic)
        self.queue.publish(
            *(QueuedEvent(event_id, device, topic.value, has_body) for event_id in event_ids)
        )

    def write(self, *event_ids: str, device: str = DEVICE, topic: Topic = Topic.CONNECT) -> None:
        """Journal events: they are published later, or were."""
        for number, event_id in enumerate(event_ids):
            self.journal.events[event_id] = Event(
                id=event_id,
                topic=topic,
                key=EnrollmentKey(device, device=device, udid=device),
                created_at=self.clock.time_ns() + number,
                raw_payload=event_id.encode(),
                writer="w",
                number=number,
            )

    async def run(self, seconds: float) -> None:
        await self.clock.run(timedelta(seconds=seconds))

    async def run_beside(self, seconds: int) -> None:
        """Time passes, and every second the subscriber takes an event of another device."""
        for _ in range(seconds):
            self.publish(f"good at {self.clock.monotonic()}", device="good")
            await self.run(1)

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
        self.metrics = Metrics()
        self.loops = StrictLoops(world.clock)
        self.share = share or FixedShare([PARTITION])
        self.answers = Barriers()
        self.deliveries = FakeDeliveries(world.records, self.barriers, self.answers)
        store = DeliveryStore(self.deliveries, world.journal, world.clock, world.ids)
        self.subscriptions = FixedSubscriptions(SUBSCRIPTION)
        self.subscribers = Subscribers(
            self.subscriptions, world.receiver, world.clock, self.metrics, patience
        )
        self.bodies = Bodies(world.budget, store, lambda event: body_of(event.id), self.metrics)
        policy = RetryPolicy(WAITS if waits is None else waits, lambda: 0.5)
        queue_retry = QueueRetry(
            store, self.subscribers, self.bodies, policy, world.clock, self.metrics
        )
        self.retries = Retries(queue_retry, self.subscribers, world.clock)
        filters = Filters(store.event, world.enrollments, world.commands)
        self.consumer = consumer or FakeConsumer(world.queue, PARTITION)
        self._tasks: list[asyncio.Task[None]] = []
        self.partitions = Partitions(
            self.consumer,
            self.share,
            self.deliveries,
            world.clock,
            self.loops,
            partial(
                PartitionQueues,
                self.subscribers,
                store,
                self.bodies,
                filters.pass_id,
                self.retries,
                world.clock,
            ),
            is_cut_off=lambda: self.subscribers.is_cut_off,
        )

    @property
    def channel(self) -> FakeChannel:
        assert self.consumer.channel is not None
        return self.consumer.channel

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"macromdm_{name}_total")

    async def subscribe(self, *subscriptions: Subscription) -> None:
        """These are all subscriptions from now on."""
        self.subscriptions.subscriptions = list(subscriptions)
        await self.subscribers.read()

    async def __aenter__(self) -> Self:
        await self.subscribers.read()
        self._tasks = [
            asyncio.ensure_future(self.subscribers.run(self.loops)),
            asyncio.ensure_future(self.retries.run(self.loops)),
            asyncio.ensure_future(self.partitions.run()),
        ]
        await settle()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """The process is gone: its channel with it, and nothing of it goes on."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        if self.consumer.channel is not None:
            self.world.queue.end(self.consumer.channel)
        await settle()
