"""One queue of the broker that does not answer, or refuses a message, while the broker is there."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count

import aiormq
import pytest
from aiormq.abc import DeliveredMessage

from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import PARTITIONS, partition_of
from shared.domain.errors import StoreUnavailable
from shared.domain.event import Event
from shared.messaging.envelope import event_json, size_in_journal
from shared.messaging.rabbit.broker import RabbitBroker
from shared.messaging.topology import PUSH_QUEUE, partition_queue
from shared.ports.events import Received
from shared.telemetry.metrics import Metrics
from tests.integration.test_rabbit_faults import empty_queues, opened_by, until
from tests.support.harness.events import idle_event
from tests.support.harness.servers import Rabbit

STUCK = 7
DEADLINE = timedelta(seconds=3)
LONG = timedelta(seconds=60)
SOON = DEADLINE.total_seconds() / 2
"""What does not wait for a deadline ends within this, also on a machine that is busy."""
DEVICES = {
    partition: next(f"D{n}" for n in count() if partition_of(f"D{n}") == partition)
    for partition in range(PARTITIONS)
}
HEALTHY = [device for partition, device in DEVICES.items() if partition != STUCK]

numbers = count(1)


def event(device: str, payload: bytes = b"<plist/>") -> Event:
    return idle_event(next(numbers), device, payload)


def events(devices: Sequence[str]) -> list[Event]:
    return [event(device) for device in devices]


async def run(server: Rabbit, expression: str) -> None:
    """Evaluate Erlang in the broker."""
    await asyncio.to_thread(server.ctl, "eval", expression)


@asynccontextmanager
async def suspended(server: Rabbit, partition: int = STUCK) -> AsyncIterator[None]:
    """The queue of a partition stands still: as one without a leader, it answers nothing."""
    queue = f"whereis('%2F_{partition_queue(partition)}')"
    await run(server, f"sys:suspend({queue}).")
    try:
        yield
    finally:
        await run(server, f"sys:resume({queue}).")


def text_headers(message: DeliveredMessage) -> dict[str, str]:
    headers = message.header.properties.headers or {}
    return {name: each for name, each in headers.items() if isinstance(each, str)}


async def consumed(server: Rabbit, partition: int, last: Event) -> list[DeliveredMessage]:
    """The messages of a partition's queue in their order, up to the first one of an event."""
    got: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    messages: list[DeliveredMessage] = []
    async with aiormq.connect(server.url) as connection, asyncio.timeout(60):
        channel = await connection.channel()
        await channel.basic_consume(partition_queue(partition), got.put, no_ack=True)
        while not messages or messages[-1].header.properties.message_id != last.id:
            messages.append(await got.get())
        await channel.close()
    return messages


@pytest.fixture
async def server(fault_rabbit: Rabbit) -> Rabbit:
    await empty_queues(fault_rabbit.url)
    return fault_rabbit


@pytest.fixture
async def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def broker(server: Rabbit, metrics: Metrics) -> AsyncIterator[RabbitBroker]:
    made = RabbitBroker(server.url, clock=SystemClock(), metrics=metrics, publish_deadline=DEADLINE)
    await made.start(timedelta(seconds=30))
    yield made
    await made.close()


@pytest.fixture
async def patient(server: Rabbit) -> AsyncIterator[RabbitBroker]:
    """A broker whose deadline nothing misses, however busy the machine is."""
    made = RabbitBroker(server.url, clock=SystemClock(), publish_deadline=LONG)
    await made.start(timedelta(seconds=30))
    yield made
    await made.close()


async def publish_for(broker: RabbitBroker, seconds: float) -> tuple[list[bool], float]:
    """Publish events of healthy partitions one batch after the other, and one of the stuck partition now
    and then, as a relay does. Returns what became of the healthy ones, and the longest call for them."""
    end = time.monotonic() + seconds
    taken: list[bool] = []
    longest = 0.0

    async def relay() -> None:
        while time.monotonic() < end:
            await broker.publisher.publish([event(DEVICES[STUCK])])
            await asyncio.sleep(0.3)

    async def batches() -> None:
        nonlocal longest
        while time.monotonic() < end:
            began = time.monotonic()
            taken.extend(await broker.publisher.publish(events(HEALTHY)))
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(relay())
        tasks.create_task(batches())
    return taken, longest


async def test_rule_09_a_queue_that_does_not_answer_costs_the_events_of_others_nothing(
    server: Rabbit, broker: RabbitBroker
) -> None:
    assert all(await broker.publisher.publish(events(list(DEVICES.values()))))

    async with suspended(server):
        taken, longest = await publish_for(broker, 3 * DEADLINE.total_seconds())
        is_live = broker.publisher.is_live

    print(
        f"{len(taken)} events of healthy partitions, {taken.count(False)} not confirmed, {longest:.2f} s"
    )
    assert len(taken) > len(HEALTHY)
    assert taken.count(False) == 0
    assert longest < SOON
    assert is_live


async def test_rule_09_a_queue_that_does_not_answer_costs_its_own_events_one_deadline(
    server: Rabbit, broker: RabbitBroker, metrics: Metrics
) -> None:
    async with suspended(server):
        first = await broker.publisher.publish(events(list(DEVICES.values())))
        away = broker.publisher.away
        began = time.monotonic()
        for _ in range(20):
            await broker.publisher.publish(events([DEVICES[STUCK], HEALTHY[0]]))
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        counted = metrics.registry.get_sample_value("macromdm_queues_away")

    assert [device for device, ok in zip(DEVICES, first, strict=True) if not ok] == [STUCK]
    assert away == {STUCK}
    assert took < 20 * 0.05 + SOON
    assert counted == 1


async def test_a_queue_that_answers_again_gets_its_events_again(
    server: Rabbit, broker: RabbitBroker, metrics: Metrics
) -> None:
    async with suspended(server):
        missed = await broker.publisher.publish([event(DEVICES[STUCK])])
    last = event(DEVICES[STUCK])

    async with asyncio.timeout(60):
        while not all(await broker.publisher.publish([last])):
            await asyncio.sleep(0.1)

    assert missed == [False]
    assert broker.publisher.away == frozenset()
    assert metrics.registry.get_sample_value("macromdm_queues_away") == 0
    messages = await consumed(server, STUCK, last)
    assert messages[-1].body == event_json(last)


async def test_thousands_of_events_for_a_queue_that_does_not_answer_hold_up_no_other(
    server: Rabbit, broker: RabbitBroker
) -> None:
    async with suspended(server):
        many = asyncio.create_task(broker.publisher.publish(events([DEVICES[STUCK]] * 2_000)))
        single = [
            asyncio.create_task(broker.publisher.publish([event(DEVICES[STUCK])]))
            for _ in range(1_000)
        ]
        await asyncio.sleep(0.1)
        taken, longest = await publish_for(broker, SOON)
        is_live = broker.publisher.is_live
        stuck = [*await many, *(ok for [ok] in await asyncio.gather(*single))]

    assert not any(stuck)
    assert taken.count(False) == 0
    assert longest < SOON
    assert is_live


async def test_rule_09_a_frozen_broker_costs_one_deadline_in_all_whatever_the_partitions(
    server: Rabbit, broker: RabbitBroker
) -> None:
    await broker.publisher.publish(events(HEALTHY[:8]))  # the other channels are not open yet
    server.pause()
    try:
        began = time.monotonic()
        answers = await asyncio.gather(
            *(broker.publisher.publish([each]) for each in events(HEALTHY)),
            broker.publisher.publish(events(HEALTHY)),
        )
        first = time.monotonic() - began
        answers += [await broker.publisher.publish([each]) for each in events(HEALTHY)]
        both = time.monotonic() - began
        away = broker.publisher.away
    finally:
        server.resume()
    await until(lambda: broker.healthy)

    assert not any(any(answer) for answer in answers)
    assert DEADLINE.total_seconds() * 0.9 < first <= both < DEADLINE.total_seconds() + SOON
    assert away == frozenset()
    assert all(await broker.publisher.publish(events(HEALTHY)))


async def test_an_event_above_the_limit_is_published_without_its_body_in_its_devices_order(
    server: Rabbit, metrics: Metrics
) -> None:
    broker = RabbitBroker(
        server.url,
        clock=SystemClock(),
        metrics=metrics,
        publish_deadline=LONG,
        largest_message=10_000,
    )
    await broker.start(timedelta(seconds=30))
    before, large, after = event("D1"), event("D1", b"x" * 10_000), event("D1")
    settled: list[Event] = []

    taken = [
        (await broker.publisher.publish([each], settled=settled.append))[0]
        for each in (before, large, after)
    ]
    await broker.close()

    assert taken == [True] * 3
    assert settled == [before, large, after]
    messages = await consumed(server, partition_of("D1"), after)
    assert [each.body for each in messages] == [event_json(before), b"", event_json(after)]
    headers = [text_headers(each) for each in messages]
    size = len(event_json(large))
    assert [size_in_journal(each) for each in headers] == [None, size, None]
    assert headers[1]["device"] == "D1"
    assert metrics.registry.get_sample_value("macromdm_events_without_body_total") == 1


@pytest.fixture
def small_messages(server: Rabbit) -> Iterator[None]:
    """The broker takes no message above 100,000 bytes, which is less than we know of."""
    before = server.ctl("eval", "application:get_env(rabbit, max_message_size, undefined).").strip()
    server.ctl("eval", "application:set_env(rabbit, max_message_size, 100000).")
    yield
    server.ctl("eval", f"application:set_env(rabbit, max_message_size, {before}).")


async def test_an_event_that_the_broker_refuses_takes_no_other_with_it_for_long_and_arrives_without_its_body(
    server: Rabbit, patient: RabbitBroker, small_messages: None
) -> None:
    device = DEVICES[STUCK]
    large = event(device, b"x" * 200_000)
    first = await patient.publisher.publish([large, *events([device] * 5), *events(HEALTHY)])
    await patient.publisher.publish([large, *events([device] * 5)])

    third = await patient.publisher.publish([*events([device] * 5), large, *events([device] * 5)])

    *_, arrived = await consumed(server, STUCK, large)
    assert first[6:] == [True] * len(HEALTHY)
    assert third == [True] * 11
    assert arrived.body == b""
    assert size_in_journal(text_headers(arrived)) == len(event_json(large))
    assert patient.publisher.is_live


async def test_a_neighbour_that_was_refused_twice_with_a_large_event_arrives_whole(
    server: Rabbit, patient: RabbitBroker, small_messages: None
) -> None:
    device = DEVICES[STUCK]
    batch = [event(device, b"x" * 200_000), event(device)]

    answers = [await patient.publisher.publish(batch) for _ in range(3)]

    *_, arrived = await consumed(server, STUCK, batch[1])
    assert answers[2] == [True, True]
    assert arrived.body == event_json(batch[1])


async def test_the_queues_are_used_though_nothing_can_be_declared(server: Rabbit) -> None:
    # As in a minority of the metadata store of RabbitMQ 4: what is there works, declaring never ends.
    await run(
        server,
        "register(holder, spawn(fun() -> erlang:suspend_process(whereis(mnesia_locker)), "
        "receive stop -> ok end end)).",
    )
    broker = RabbitBroker(server.url, clock=SystemClock(), publish_deadline=LONG)
    try:
        await broker.start(timedelta(seconds=30))
        taken = await broker.publisher.publish(events(HEALTHY))
        got: asyncio.Queue[Received] = asyncio.Queue()
        async with asyncio.timeout(60):
            await opened_by(broker, got.put_nowait, partition_of(HEALTHY[0]))
            received = await got.get()
    finally:
        await run(server, "holder ! stop.")
        await broker.close()

    assert all(taken)
    assert received.device == HEALTHY[0]


async def test_an_outage_of_the_store_uses_up_no_deliveries_of_push_requests(
    server: Rabbit, broker: RabbitBroker
) -> None:
    attempts = asyncio.Semaphore(0)

    async def fail(_push_requests: Sequence[str]) -> None:
        attempts.release()
        raise StoreUnavailable("away")

    broker.push_requests.add(["a"])
    consuming = asyncio.create_task(broker.push_request_consumer.consume(fail))
    async with asyncio.timeout(60):
        for _ in range(3):
            await attempts.acquire()
    consuming.cancel()
    await asyncio.wait({consuming})

    async with aiormq.connect(server.url) as connection:
        channel = await connection.channel()
        message = await channel.basic_get(PUSH_QUEUE, no_ack=True)
    headers = message.header.properties.headers or {}
    assert message.body == b'{"enrollments":["a"]}'
    assert headers["x-delivery-count"] == 1  # given back once, by the end of its consumer
