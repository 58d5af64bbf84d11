"""One partition's queue does not answer, the broker does: its neighbours must not be disturbed.

The queue's process is suspended inside the broker, which looks like a quorum queue without a majority.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import partition_of
from shared.domain.errors import BrokerUnavailable
from shared.domain.event import Event
from shared.messaging.rabbit.broker import RabbitBroker
from shared.messaging.topology import partition_queue
from shared.ports.events import OpenPartition, Received
from tests.integration.test_rabbit_faults import empty_queues
from tests.support.harness.events import idle_event
from tests.support.harness.servers import Rabbit

AWAY = 7
OTHERS = (1, 2, 3)
PATIENCE = 60.0


def device_of(partition: int) -> str:
    return next(f"D{n}" for n in range(10_000) if partition_of(f"D{n}") == partition)


def event(partition: int, number: int) -> Event:
    return idle_event(number, device_of(partition))


async def erlang(server: Rabbit, call: str) -> None:
    await asyncio.to_thread(server.ctl, "eval", call)


def process_of(partition: int) -> str:
    return f"whereis('%2F_{partition_queue(partition)}')"


@pytest.fixture
async def server(fault_rabbit: Rabbit) -> AsyncIterator[Rabbit]:
    await empty_queues(fault_rabbit.url)
    yield fault_rabbit
    for partition in (AWAY, *OTHERS):
        await erlang(fault_rabbit, f"sys:resume({process_of(partition)}).")


@pytest.fixture
async def broker(server: Rabbit) -> AsyncIterator[RabbitBroker]:
    made = RabbitBroker(server.url, clock=SystemClock())
    await made.start(timedelta(seconds=30))
    yield made
    await made.close()


class Consumer:
    """Opens partitions, and holds what comes as one with a slow subscriber does."""

    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker
        self.opened: dict[int, OpenPartition] = {}
        self.lost: Counter[int] = Counter()
        self.received: dict[int, list[Received]] = {}

    async def open(self, partition: int) -> None:
        received = self.received[partition] = []

        def on_lost() -> None:
            self.lost[partition] += 1

        self.opened[partition] = await self._broker.partitions.open(
            partition, on_event=received.append, on_lost=on_lost
        )

    async def open_surely(self, partition: int) -> None:
        while True:
            try:
                return await self.open(partition)
            except BrokerUnavailable:
                await asyncio.sleep(0.1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_queue_that_does_not_answer_costs_the_partitions_beside_it_nothing(
    server: Rabbit, broker: RabbitBroker
) -> None:
    every = [event(partition, partition) for partition in (AWAY, *OTHERS)]
    assert all(await broker.publisher.publish(every))
    consumer = Consumer(broker)
    for partition in OTHERS:
        await consumer.open(partition)
    await until(lambda: all(consumer.received[partition] for partition in OTHERS))

    await erlang(server, f"sys:suspend({process_of(AWAY)}).")
    waited = []
    while sum(seconds > 4 for seconds in waited) < 2:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await consumer.open(AWAY)
        waited.append(time.monotonic() - began)
        await asyncio.sleep(0.1)
    await consumer.open(OTHERS[0] + 10)  # the connection is of use for new ones too
    await erlang(server, f"sys:resume({process_of(AWAY)}).")
    async with asyncio.timeout(PATIENCE):
        await consumer.open_surely(AWAY)
    await until(lambda: bool(consumer.received[AWAY]))

    assert consumer.lost == Counter()
    assert [len(consumer.received[partition]) for partition in (AWAY, *OTHERS)] == [1, 1, 1, 1]
    assert consumer.received[AWAY][0].event_id == event(AWAY, AWAY).id


async def test_a_queue_that_does_not_answer_rests_between_the_tries(
    server: Rabbit, broker: RabbitBroker
) -> None:
    await erlang(server, f"sys:suspend({process_of(AWAY)}).")
    consumer = Consumer(broker)
    with pytest.raises(BrokerUnavailable):
        await consumer.open(AWAY)

    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="did not answer lately"):
        await consumer.open(AWAY)

    assert time.monotonic() - began < 1


async def test_what_came_to_a_channel_that_was_abandoned_comes_again_to_the_next(
    server: Rabbit, broker: RabbitBroker
) -> None:
    """The broker begins to consume after we gave up waiting, and closes the channel right after."""
    events = [event(AWAY, number) for number in range(1, 6)]
    assert all(await broker.publisher.publish(events))
    await erlang(server, f"sys:suspend({process_of(AWAY)}).")
    consumer = Consumer(broker)
    with pytest.raises(BrokerUnavailable):
        await consumer.open(AWAY)
    abandoned = consumer.received[AWAY]

    await erlang(server, f"sys:resume({process_of(AWAY)}).")
    async with asyncio.timeout(PATIENCE):
        await consumer.open_surely(AWAY)
    await until(lambda: len(consumer.received[AWAY]) == len(events))

    assert abandoned == []
    assert [each.event_id for each in consumer.received[AWAY]] == [each.id for each in events]


async def test_a_partition_is_given_up_beside_a_queue_that_does_not_answer(
    server: Rabbit, broker: RabbitBroker
) -> None:
    consumer = Consumer(broker)
    for partition in (AWAY, *OTHERS):
        await consumer.open(partition)
    await erlang(server, f"sys:suspend({process_of(AWAY)}).")

    await consumer.opened[AWAY].close()
    assert all(
        await broker.publisher.publish([event(partition, partition) for partition in OTHERS])
    )
    await until(lambda: all(consumer.received[partition] for partition in OTHERS))

    assert consumer.lost == Counter()
