"""What a consumer had not acked comes to the next one in order: why PREFETCH never goes down.

A quorum queue keeps what comes back in a list, and what comes back once more goes to that list's end. So
the order holds only if each consumer takes at least as many as the one before it. With 128 and then 64
the third one gets 65 to 128, 1 to 64, 129 and so on (RabbitMQ 3.10).
"""

import asyncio
from datetime import timedelta

import pytest

from shared.concurrency.clock import SystemClock
from shared.messaging.rabbit.broker import PREFETCH, RabbitBroker
from shared.ports.events import Received
from tests.integration.test_one_queue_away import event
from tests.integration.test_rabbit_faults import empty_queues
from tests.support.harness.servers import Rabbit

PARTITION = 3
COUNT = 200
PATIENCE = 30.0


async def taken(server: Rabbit, prefetch: int, count: int) -> list[str]:
    """The events that a consumer has when it dies without an ack."""
    broker = RabbitBroker(server.url, clock=SystemClock(), prefetch=prefetch)
    await broker.start(timedelta(seconds=30))
    received: asyncio.Queue[Received] = asyncio.Queue()
    await broker.partitions.open(PARTITION, on_event=received.put_nowait, on_lost=lambda: None)
    async with asyncio.timeout(PATIENCE):
        names = [(await received.get()).event_id for _ in range(count)]
    await broker.close()
    return names


@pytest.mark.parametrize(("first", "second"), [(128, 128), (64, 64), (64, 128)])
async def test_two_deaths_at_an_equal_or_a_larger_prefetch_keep_the_order(
    fault_rabbit: Rabbit, first: int, second: int
) -> None:
    await empty_queues(fault_rabbit.url)
    events = [event(PARTITION, number) for number in range(1, COUNT + 1)]
    broker = RabbitBroker(fault_rabbit.url, clock=SystemClock())
    await broker.start(timedelta(seconds=30))
    assert all(await broker.publisher.publish(events))
    await broker.close()

    await taken(fault_rabbit, first, first)
    await taken(fault_rabbit, second, second)

    assert await taken(fault_rabbit, 2 * COUNT, COUNT) == [each.id for each in events]


def test_the_prefetch_is_not_below_that_of_any_released_version() -> None:
    """A version with a smaller one breaks the order in its own rolling update: see above."""
    assert PREFETCH >= 128
