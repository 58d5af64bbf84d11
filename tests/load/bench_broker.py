"""What the broker adapters cost: CPU of this process per event, published and consumed.

`python -m tests.load.bench_broker [EVENTS]` measures the in-process broker and RabbitMQ (a private
node, or the one that MDM_TEST_AMQP_URL names, whose queues it deletes). Bounded: a few thousand events
of 1.1 KB, a minute at most. Not a test: nothing fails when a machine is slow.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import PARTITIONS
from shared.domain.event import Event
from shared.messaging.memory.broker import LocalBroker
from shared.messaging.rabbit.broker import RabbitBroker
from shared.ports.events import Received
from tests.conftest import remove_topology
from tests.support.harness.events import idle_event
from tests.support.harness.servers import AMQP_VARIABLE, Rabbit

EVENTS = 6_400
PATIENCE = 60.0


def event(number: int) -> Event:
    device = f"A5EF1BA1-586D-4F29-B4F3-{number % 500:012d}"
    return idle_event(number, device, b"<plist" * 130)


def measured(label: str, count: int) -> Callable[[], None]:
    cpu, began = time.process_time(), time.perf_counter()

    def done() -> None:
        each = (time.process_time() - cpu) / count * 1e6
        rate = count / (time.perf_counter() - began)
        print(f"  {label:24} {each:7.1f} us CPU per event {rate:9.0f}/s")

    return done


async def publish(broker: LocalBroker | RabbitBroker, count: int, in_flight: int) -> None:
    events = [event(number) for number in range(count)]
    done = measured(f"publish, {in_flight} in flight", count)
    taken = 0
    for start in range(0, count, in_flight):
        taken += sum(await broker.publisher.publish(events[start : start + in_flight]))
    done()
    if taken < count:
        print(f"  only {taken} of {count} were confirmed")


async def consume(broker: LocalBroker | RabbitBroker, count: int) -> None:
    received: asyncio.Queue[Received] = asyncio.Queue()
    done = measured("consume and ack", count)
    opened = [
        await broker.partitions.open(
            partition, on_event=received.put_nowait, on_lost=lambda: print("  partition lost")
        )
        for partition in range(PARTITIONS)
    ]
    async with asyncio.timeout(PATIENCE):
        for _ in range(count):
            await (await received.get()).ack()
    done()
    for partition in opened:
        await partition.close()


async def bench(broker: LocalBroker | RabbitBroker, count: int) -> None:
    await broker.start()
    sizes = (count // 8, count, count)
    for size, in_flight in zip(sizes, (1, 32, 128), strict=True):
        await publish(broker, size, in_flight)
    await consume(broker, sum(sizes))
    await broker.close()


async def bench_rabbit(url: str, count: int) -> None:
    await remove_topology(url)
    await bench(RabbitBroker(url, clock=SystemClock()), count)


def main(count: int) -> None:
    print("in-process broker")
    asyncio.run(bench(LocalBroker(clock=SystemClock()), count))
    print("RabbitMQ")
    if given := os.environ.get(AMQP_VARIABLE):
        asyncio.run(bench_rabbit(given, count))
        return
    with tempfile.TemporaryDirectory(prefix="mdm-bench-") as folder:
        server = Rabbit(Path(folder, "rabbit"))
        server.start()
        try:
            asyncio.run(bench_rabbit(server.url, count))
        finally:
            server.close()


if __name__ == "__main__":
    main(min(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS, 50_000))
