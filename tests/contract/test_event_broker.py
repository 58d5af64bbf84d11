"""What every broker of events and push requests keeps, on RabbitMQ as in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import partition_of
from shared.domain.event import Event
from shared.messaging.envelope import event_json
from shared.messaging.memory.broker import LocalBroker
from shared.messaging.rabbit.broker import RabbitBroker
from shared.ports.events import OpenPartition, Received
from tests.support.harness.events import idle_event

DEVICE = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"
PARTITION = partition_of(DEVICE)
PATIENCE = 10.0

Broker = LocalBroker | RabbitBroker


@pytest.fixture(params=["local", pytest.param("rabbit", marks=pytest.mark.real)])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made: Broker
    if request.param == "local":
        made = LocalBroker(clock=SystemClock(), prefetch=4)
        await made.start()
    else:
        url = await _clean(request)
        made = RabbitBroker(url, clock=SystemClock(), prefetch=4)
        await made.start(timedelta(seconds=30))
    yield made
    await made.close()


async def _clean(request: pytest.FixtureRequest) -> str:
    from tests.conftest import remove_topology

    url: str = request.getfixturevalue("rabbit").url
    await remove_topology(url)
    return url


def event(number: int, device: str = DEVICE) -> Event:
    return idle_event(number, device)


class Consumer:
    """Opens a partition and keeps what comes."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._some = asyncio.Event()
        self.received: list[Received] = []
        self.lost = 0
        self.partition: OpenPartition

    async def open(self, partition: int = PARTITION) -> "Consumer":
        self.partition = await self._broker.partitions.open(
            partition, on_event=self._take, on_lost=self._lose
        )
        return self

    def _take(self, received: Received) -> None:
        self.received.append(received)
        self._some.set()

    def _lose(self) -> None:
        self.lost += 1

    @property
    def ids(self) -> list[str]:
        return [each.event_id for each in self.received]

    async def until(self, count: int) -> list[Received]:
        async with asyncio.timeout(PATIENCE):
            while len(self.received) < count:
                self._some.clear()
                await self._some.wait()
        return self.received


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def ids(events: Sequence[Event]) -> list[str]:
    return [each.id for each in events]


async def test_a_published_event_reaches_its_partition_with_the_bytes_of_the_webhook(
    broker: Broker,
) -> None:
    sent = event(1)
    consumer = await Consumer(broker).open()

    assert await broker.publisher.publish([sent]) == [True]

    [received] = await consumer.until(1)
    assert received.event_id == sent.id
    assert received.topic == "mdm.Connect"
    assert received.device == DEVICE
    assert received.created_at == sent.created_at
    assert received.body == event_json(sent)


async def test_a_received_event_tells_its_size_and_what_it_holds_in_memory(
    broker: Broker,
) -> None:
    sent = replace(event(1), raw_payload=b"x" * 3_000)
    consumer = await Consumer(broker).open()
    await broker.publisher.publish([sent])
    [received] = await consumer.until(1)

    size, held = received.size, received.held
    was_dropped = received.drop_body()

    assert abs(size - len(event_json(sent))) < 1_000
    assert was_dropped == (held > 0)
    assert received.held == 0
    assert received.size == size
    assert received.created_at == sent.created_at
    assert received.body == (None if was_dropped else event_json(sent))


async def test_an_event_whose_body_was_dropped_is_acked_and_comes_again_whole(
    broker: Broker,
) -> None:
    await broker.publisher.publish([event(1), event(2)])
    first = await Consumer(broker).open()
    received = await first.until(2)
    for each in received:
        each.drop_body()

    await received[0].ack()
    await first.partition.close()

    [again] = await (await Consumer(broker).open()).until(1)
    assert again.body == event_json(event(2))


async def test_publishing_nothing_is_answered_with_nothing(broker: Broker) -> None:
    assert await broker.publisher.publish([]) == []


async def test_events_of_a_partition_come_in_the_order_of_their_publishing(
    broker: Broker,
) -> None:
    events = [event(number) for number in range(60)]
    consumer = await Consumer(broker).open()

    for start in range(0, 60, 20):
        await broker.publisher.publish(events[start : start + 20])
    for taken in range(60):
        received = await consumer.until(taken + 1)
        await received[taken].ack()

    assert consumer.ids == ids(events)


async def test_an_event_published_before_anybody_consumes_waits(broker: Broker) -> None:
    await broker.publisher.publish([event(1)])

    consumer = await Consumer(broker).open()

    await consumer.until(1)
    assert consumer.ids == [event(1).id]


async def test_a_consumer_gets_no_events_of_other_partitions(broker: Broker) -> None:
    elsewhere = next(f"D{n}" for n in range(100) if partition_of(f"D{n}") != PARTITION)
    consumer = await Consumer(broker).open()

    await broker.publisher.publish([event(1, device=elsewhere), event(2)])

    await consumer.until(1)
    assert consumer.ids == [event(2).id]


async def test_no_more_than_the_prefetch_is_under_way_before_the_first_ack(
    broker: Broker,
) -> None:
    await broker.publisher.publish([event(number) for number in range(8)])
    consumer = await Consumer(broker).open()
    received = await consumer.until(4)
    await asyncio.sleep(0.1)
    before = len(consumer.received)

    await received[0].ack()
    await consumer.until(5)

    assert before == 4


async def test_what_is_not_acked_comes_again_in_order_after_the_partition_is_closed(
    broker: Broker,
) -> None:
    events = [event(number) for number in range(6)]
    await broker.publisher.publish(events)
    first = await Consumer(broker).open()
    received = await first.until(4)
    await received[1].ack()
    await first.until(5)

    await first.partition.close()
    second = await Consumer(broker).open()
    for taken in range(5):
        await (await second.until(taken + 1))[taken].ack()

    assert second.ids == [events[0].id, *ids(events[2:])]


async def test_acked_events_do_not_come_again(broker: Broker) -> None:
    await broker.publisher.publish([event(1), event(2)])
    first = await Consumer(broker).open()
    for received in await first.until(2):
        await received.ack()
    await first.partition.close()

    await broker.publisher.publish([event(3)])
    second = await Consumer(broker).open()

    await second.until(1)
    assert second.ids == [event(3).id]


async def test_a_second_consumer_of_a_partition_waits_until_the_first_gives_it_up(
    broker: Broker,
) -> None:
    first = await Consumer(broker).open()
    second = await Consumer(broker).open()
    await broker.publisher.publish([event(1)])
    await first.until(1)

    await first.partition.close()

    await second.until(1)
    assert first.ids == second.ids == [event(1).id]


async def test_an_ack_after_the_partition_was_closed_has_no_effect(broker: Broker) -> None:
    await broker.publisher.publish([event(1)])
    first = await Consumer(broker).open()
    [received] = await first.until(1)
    await first.partition.close()

    await received.ack()

    await (await Consumer(broker).open()).until(1)


async def test_a_closed_partition_is_lost_but_its_closing_is_no_news_to_its_owner(
    broker: Broker,
) -> None:
    consumer = await Consumer(broker).open()

    await consumer.partition.close()
    await consumer.partition.close()
    await asyncio.sleep(0.05)

    assert consumer.partition.is_lost
    assert consumer.lost == 0


async def test_rule_10_each_event_is_settled_once_by_the_time_it_is_acked(broker: Broker) -> None:
    settled: list[Event] = []
    events = [event(1), event(2)]
    consumer = await Consumer(broker).open()

    await broker.publisher.publish(events, settled=settled.append)
    for received in await consumer.until(2):
        await received.ack()
        await received.ack()

    assert settled == events


async def test_a_handler_that_fails_keeps_its_event_unacked(broker: Broker) -> None:
    await broker.publisher.publish([event(1)])
    called = asyncio.Event()

    def fail(_received: Received) -> None:
        called.set()
        raise ValueError("a bug")

    opened = await broker.partitions.open(PARTITION, on_event=fail, on_lost=lambda: None)
    async with asyncio.timeout(PATIENCE):
        await called.wait()
    await opened.close()

    await (await Consumer(broker).open()).until(1)


async def test_a_dead_lettered_event_is_out_of_the_way(broker: Broker) -> None:
    await broker.publisher.publish([event(1), event(2)])
    first = await Consumer(broker).open()
    received = await first.until(2)

    await received[0].dead_letter("nobody understands it")
    await first.partition.close()

    second = await Consumer(broker).open()
    await second.until(1)
    assert second.ids == [event(2).id]


class Granter:
    """Consumes push requests in the background."""

    def __init__(self, broker: Broker, failures: int = 0) -> None:
        self._broker = broker
        self._failures = failures
        self.calls = 0
        self.granted: list[str] = []

    async def __aenter__(self) -> "Granter":
        self._task = asyncio.create_task(self._broker.push_request_consumer.consume(self._grant))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _grant(self, push_requests: Sequence[str]) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise ValueError("not now")
        self.granted += push_requests


async def test_push_requests_reach_their_consumer(broker: Broker) -> None:
    async with Granter(broker) as granter:
        broker.push_requests.add(["a", "b"])
        broker.push_requests.add(["c"])

        await until(lambda: {"a", "b", "c"} <= set(granter.granted))


async def test_push_requests_made_before_anybody_consumes_wait(broker: Broker) -> None:
    broker.push_requests.add([f"d{n}" for n in range(1200)])

    async with Granter(broker) as granter:
        await until(lambda: len(granter.granted) >= 1200)

    assert sorted(granter.granted) == sorted(f"d{n}" for n in range(1200))


async def test_push_requests_come_again_when_their_handler_raised(broker: Broker) -> None:
    broker.push_requests.add(["a"])

    async with Granter(broker, failures=1) as granter:
        await until(lambda: granter.granted == ["a"])

    assert granter.calls == 2


async def test_the_broker_is_healthy_while_it_takes_events(broker: Broker) -> None:
    assert broker.healthy


async def test_a_full_local_broker_refuses_in_time_and_then_at_once_until_there_is_room() -> None:
    broker = LocalBroker(
        clock=SystemClock(),
        publish_deadline=timedelta(seconds=0.05),
        most_events=2,
    )
    consumer = await Consumer(broker).open()

    first = await broker.publisher.publish([event(1), event(2), event(3)])
    second = await broker.publisher.publish([event(3)])
    await (await consumer.until(2))[0].ack()
    third = await broker.publisher.publish([event(3)])

    assert (first, second, third) == ([True, True, False], [False], [True])


async def test_a_local_broker_that_was_full_is_live_again_once_there_is_room() -> None:
    """Whoever has a backlog asks before it publishes; it may be the only one that has anything."""
    broker = LocalBroker(
        clock=SystemClock(),
        publish_deadline=timedelta(seconds=0.05),
        most_events=1,
    )
    consumer = await Consumer(broker).open()
    await broker.publisher.publish([event(1), event(2)])
    while_full = broker.publisher.is_live

    await (await consumer.until(1))[0].ack()

    assert (while_full, broker.publisher.is_live) == (False, True)


async def test_no_partition_is_away_while_the_broker_takes_events(broker: Broker) -> None:
    await broker.publisher.publish([event(1)])

    assert broker.publisher.is_live
    assert broker.publisher.away == frozenset()
