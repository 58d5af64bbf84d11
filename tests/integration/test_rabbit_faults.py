"""What the RabbitMQ adapter does when the broker is stopped, killed, frozen or changed under it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

import aiormq
import pytest
from aiormq.abc import ChannelFrame

from shared.concurrency.clock import SystemClock
from shared.domain.enrollment import PARTITIONS, EnrollmentKey, partition_of
from shared.domain.errors import BrokerUnavailable, Misconfigured
from shared.domain.event import Event, Topic
from shared.messaging.envelope import headers_without_body
from shared.messaging.frames import Message, publish_frames
from shared.messaging.rabbit.broker import RabbitBroker
from shared.messaging.rabbit.declare import declare
from shared.messaging.rabbit.event_publisher import event_message
from shared.messaging.topology import (
    DEAD_LETTER_QUEUE,
    EVENTS_EXCHANGE,
    PUSH_QUEUE,
    QUEUES,
    partition_queue,
)
from shared.ports.events import OpenPartition, Received
from shared.telemetry.metrics import Metrics
from tests.conftest import remove_topology
from tests.support.harness.events import idle_event
from tests.support.harness.servers import Rabbit, Server, free_port

DEVICE = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"
PARTITION = partition_of(DEVICE)
DEADLINE = timedelta(seconds=1)
PATIENCE = 60.0

T = TypeVar("T")


def event(number: int) -> Event:
    return idle_event(number, DEVICE)


@pytest.fixture
async def server(fault_rabbit: Server) -> AsyncIterator[Server]:
    """The broker, with empty queues before the test and running after it.

    They are not deleted: RabbitMQ 3.10 may lose what is in a queue that was deleted and made anew
    when it is killed a moment later."""
    await empty_queues(fault_rabbit.url)
    yield fault_rabbit
    fault_rabbit.resume()
    if not fault_rabbit.is_running:
        await asyncio.to_thread(fault_rabbit.restart)


@pytest.fixture
async def broker(server: Server) -> AsyncIterator[RabbitBroker]:
    made = RabbitBroker(server.url, clock=SystemClock(), publish_deadline=DEADLINE)
    await made.start(timedelta(seconds=30))
    yield made
    await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


async def received_by(broker: RabbitBroker, count: int) -> list[str]:
    """The ids of so many events, acked one by one as they come."""
    got: asyncio.Queue[Received] = asyncio.Queue()
    names = []
    async with asyncio.timeout(PATIENCE):
        opened = await opened_by(broker, got.put_nowait)
        for _ in range(count):
            received = await got.get()
            names.append(received.event_id)
            await received.ack()
    await opened.close()
    return names


async def opened_by(
    broker: RabbitBroker, on_event: Callable[[Received], None], partition: int = PARTITION
) -> OpenPartition:
    """The partition, as soon as the broker is there."""
    while True:
        try:
            return await broker.partitions.open(partition, on_event=on_event, on_lost=lambda: None)
        except BrokerUnavailable:
            await asyncio.sleep(0.1)


async def empty_queues(url: str) -> None:
    async with aiormq.connect(url) as connection:
        await declare(connection)
        channel = await connection.channel()
        for queue in QUEUES:
            await channel.queue_purge(queue.name)


async def put(url: str, messages: Sequence[Message]) -> None:
    """Publish as anybody may, whatever the headers and the body."""
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        for message in messages:
            frames = publish_frames(channel.number, message, 131_072)
            await connection.write_queue.put(ChannelFrame(frames, should_close=False))
        await channel.queue_declare(DEAD_LETTER_QUEUE, passive=True)  # all is written by then


async def depth(url: str, queue: str) -> int:
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        declared = await channel.queue_declare(queue, passive=True)
        return declared.message_count or 0


async def unbind(url: str) -> None:
    """Take the way to its queue from our device's events."""
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_unbind(
            partition_queue(PARTITION), EVENTS_EXCHANGE, f"mdm.*.{PARTITION:02d}"
        )


async def bodies(url: str, queue: str) -> list[tuple[dict[str, object], bytes]]:
    """Takes everything out of a queue: headers and body."""
    found: list[tuple[dict[str, object], bytes]] = []
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        while True:
            message = await channel.basic_get(queue, no_ack=True)
            if isinstance(message.delivery, aiormq.spec.Basic.GetEmpty):
                return found
            found.append((dict(message.header.properties.headers or {}), message.body))


async def timed(awaitable: "asyncio.Future[T] | asyncio.Task[T]") -> tuple[T, float]:
    began = time.monotonic()
    return await awaitable, time.monotonic() - began


async def test_an_event_survives_a_broker_restart(server: Server, broker: RabbitBroker) -> None:
    await broker.publisher.publish([event(1)])

    await asyncio.to_thread(server.restart)
    await until(lambda: broker.healthy)

    assert await broker.publisher.publish([event(2)]) == [True]
    assert await received_by(broker, 2) == [event(1).id, event(2).id]


async def test_confirmed_events_survive_a_kill_of_the_broker(
    server: Server, broker: RabbitBroker
) -> None:
    events = [event(number) for number in range(200)]
    confirmed = await broker.publisher.publish(events)

    server.kill()
    refused = await broker.publisher.publish([event(900)])
    await asyncio.to_thread(server.start)
    await until(lambda: broker.healthy)

    assert confirmed == [True] * 200
    assert refused == [False]
    assert await received_by(broker, 200) == [each.id for each in events]


async def test_publishing_while_the_broker_dies_ends_unconfirmed_and_cancels_nobody(
    server: Server, broker: RabbitBroker
) -> None:
    async def publish_until_refused() -> str:
        number = 0
        while True:
            number += 1
            if not all(await broker.publisher.publish([event(number)])):
                return "refused"

    publishing = asyncio.create_task(publish_until_refused())
    await asyncio.sleep(0.2)

    server.kill()

    async with asyncio.timeout(PATIENCE):
        assert await publishing == "refused"


async def test_rule_09_a_frozen_broker_costs_one_deadline_and_then_nothing_until_a_probe_is_confirmed(
    server: Server, broker: RabbitBroker
) -> None:
    server.pause()
    first, first_took = await timed(asyncio.ensure_future(broker.publisher.publish([event(1)])))
    second, second_took = await timed(asyncio.ensure_future(broker.publisher.publish([event(2)])))
    was_healthy = broker.healthy

    server.resume()
    await until(lambda: broker.healthy)
    third = await broker.publisher.publish([event(3)])

    assert (first, second, third) == ([False], [False], [True])
    assert DEADLINE.total_seconds() * 0.9 < first_took < DEADLINE.total_seconds() + 2
    assert second_took < 0.1
    assert not was_healthy


async def test_callers_that_wait_with_the_one_that_missed_its_deadline_are_answered_too(
    server: Server, broker: RabbitBroker
) -> None:
    server.pause()

    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            *(broker.publisher.publish([event(number)]) for number in range(20))
        )

    assert answers == [[False]] * 20


async def test_closing_ends_soon_though_the_broker_is_frozen(server: Server) -> None:
    broker = RabbitBroker(server.url, clock=SystemClock(), publish_deadline=DEADLINE)
    await broker.start(timedelta(seconds=30))
    await broker.partitions.open(PARTITION, on_event=lambda _: None, on_lost=lambda: None)
    before = asyncio.all_tasks()
    server.pause()
    broker.push_requests.add(["a"])

    _, took = await timed(asyncio.ensure_future(broker.close()))
    await asyncio.sleep(0.1)

    assert took < 10
    assert before - {asyncio.current_task()} & asyncio.all_tasks() == set()


async def test_giving_up_a_partition_ends_soon_though_the_broker_is_frozen_and_it_is_given_up(
    server: Server, broker: RabbitBroker
) -> None:
    await broker.publisher.publish([event(1)])
    got: list[Received] = []
    opened = await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))
    server.pause()

    _, took = await timed(asyncio.ensure_future(opened.close()))
    server.resume()

    assert took < 5
    assert await received_by(broker, 1) == [event(1).id]


async def test_our_own_cancellation_is_not_swallowed_while_the_broker_is_frozen(
    server: Server, broker: RabbitBroker
) -> None:
    server.pause()
    publishing = asyncio.create_task(broker.publisher.publish([event(1)]))
    await asyncio.sleep(0.1)

    publishing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_rule_09_an_unroutable_event_makes_the_topology_be_declared_anew(
    server: Server, broker: RabbitBroker
) -> None:
    await unbind(server.url)
    await asyncio.sleep(1)  # declarations are at least that far apart

    answers = await broker.publisher.publish([event(1), event(2)])

    assert answers == [True, True]
    assert sorted(await received_by(broker, 2)) == [event(1).id, event(2).id]


async def test_deleted_queues_and_exchange_come_back(server: Server, broker: RabbitBroker) -> None:
    await remove_topology(server.url)

    await broker.publisher.publish([event(1)])
    await until(lambda: broker.healthy)

    assert await broker.publisher.publish([event(2)]) == [True]


async def test_a_queue_that_exists_with_other_arguments_is_used_as_it_is(
    server: Server,
) -> None:
    await remove_topology(server.url)
    async with aiormq.connect(server.url) as connection:
        channel = await connection.channel()
        await channel.queue_declare(partition_queue(PARTITION), durable=True)
    broker = RabbitBroker(server.url, clock=SystemClock(), publish_deadline=DEADLINE)

    await broker.start(timedelta(seconds=30))
    answers = await broker.publisher.publish([event(1)])
    await broker.close()
    await remove_topology(server.url)

    assert answers == [True]


async def test_rule_09_an_event_that_stays_unroutable_is_not_confirmed_and_counts_until_it_is_routed(
    fault_rabbit: Rabbit, server: Server
) -> None:
    metrics = Metrics()
    broker = RabbitBroker(server.url, clock=SystemClock(), metrics=metrics)
    await broker.start(timedelta(seconds=30))
    await unbind(server.url)
    allow = partial(fault_rabbit.ctl, "set_permissions", "guest")
    await asyncio.to_thread(allow, "^$", r"^(mdm\.events|amq\.default)$", ".*")
    try:
        during = await broker.publisher.publish([event(1)])
        counted = metrics.registry.get_sample_value("macromdm_events_unroutable_total")
        healthy = broker.healthy
    finally:
        await asyncio.to_thread(allow, ".*", ".*", ".*")
    await asyncio.sleep(1)  # declarations are at least that far apart
    after = await broker.publisher.publish([event(1)])
    await broker.close()

    assert (during, after) == ([False], [True])
    assert counted == 1
    assert healthy


async def test_a_consumer_hears_that_its_partition_is_lost(
    server: Server, broker: RabbitBroker
) -> None:
    lost = 0

    def on_lost() -> None:
        nonlocal lost
        lost += 1

    opened = await broker.partitions.open(PARTITION, on_event=lambda _: None, on_lost=on_lost)

    server.kill()
    await until(lambda: opened.is_lost)
    await asyncio.sleep(0.1)

    assert lost == 1


async def test_a_consumer_hears_that_its_queue_was_deleted(
    server: Server, broker: RabbitBroker
) -> None:
    lost = asyncio.Event()
    other = await broker.partitions.open(
        (PARTITION + 1) % PARTITIONS, on_event=lambda _: None, on_lost=lambda: None
    )
    await broker.partitions.open(PARTITION, on_event=lambda _: None, on_lost=lost.set)

    async with aiormq.connect(server.url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(partition_queue(PARTITION))

    async with asyncio.timeout(PATIENCE):
        await lost.wait()
        opened = await opened_by(broker, lambda _: None)
    assert not opened.is_lost
    assert not other.is_lost


async def test_starting_without_a_broker_succeeds_and_connects_when_it_comes() -> None:
    broker = RabbitBroker(f"amqp://127.0.0.1:{free_port()}/", clock=SystemClock())

    await broker.start(timedelta(seconds=0.1))
    answers = await broker.publisher.publish([event(1)])
    with pytest.raises(BrokerUnavailable):
        async with asyncio.timeout(20):
            await broker.partitions.open(1, on_event=lambda _: None, on_lost=lambda: None)
    healthy = broker.healthy
    await broker.close()

    assert answers == [False]
    assert not healthy


@pytest.mark.parametrize("url", ["", "http://localhost", "amqp://", "amqp://h:99999/", "localhost"])
async def test_an_unusable_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(Misconfigured, match="MDM_AMQP_URL"):
        RabbitBroker(url, clock=SystemClock())


async def test_push_requests_made_while_the_broker_is_away_are_sent_when_it_is_back(
    server: Server, broker: RabbitBroker
) -> None:
    server.kill()
    broker.push_requests.add(["a"])
    granted: list[str] = []

    async def grant(push_requests: object) -> None:
        granted.extend(push_requests if isinstance(push_requests, list) else [])

    consuming = asyncio.create_task(broker.push_request_consumer.consume(grant))
    await asyncio.to_thread(server.start)
    await until(lambda: granted == ["a"])
    consuming.cancel()

    with pytest.raises(asyncio.CancelledError):
        await consuming


BROKEN: list[tuple[str, dict[str, str], bytes]] = [
    ("", {"device": DEVICE, "topic": "mdm.Connect"}, b"{}"),
    ("id-1", {"topic": "mdm.Connect"}, b"{}"),
    ("id-2", {"device": DEVICE, "topic": "mdm.Connect"}, b"{broken"),
    ("id-3", {"device": DEVICE, "enrollment": DEVICE, "topic": "mdm.Connect"}, b"[]"),
    ("id-4", {"device": DEVICE, "topic": "mdm.Connect"}, b"\xff" * 10_000_000),
    ("id-5", {"device": DEVICE, "topic": "mdm.Connect"}, b""),
]


async def test_a_body_that_comes_with_our_own_headers_is_not_parsed(
    server: Server, broker: RabbitBroker
) -> None:
    headers = {"device": DEVICE, "enrollment": DEVICE, "topic": "mdm.Connect"}
    await put(
        server.url,
        [Message("", partition_queue(PARTITION), "id-1", headers, b"{" + b"x" * 10)],
    )
    got: list[Received] = []

    await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))

    assert got[0].body == b"{xxxxxxxxxx"


async def test_a_message_without_a_body_tells_the_size_of_what_the_journal_has(
    server: Server, broker: RabbitBroker
) -> None:
    headers = {"device": DEVICE, "enrollment": DEVICE, "topic": "mdm.Connect"}
    whole = {**headers, **headers_without_body(20_000_000)}
    broken = {**whole, "size": "large"}
    queue = partition_queue(PARTITION)
    await put(server.url, [Message("", queue, "id-0", broken, b"")])
    await put(server.url, [Message("", queue, "id-1", whole, b"")])
    got: list[Received] = []

    await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))

    [received] = got
    assert (received.event_id, received.size) == ("id-1", 20_000_000)
    assert (received.held, received.body, received.drop_body()) == (0, None, False)
    assert received.created_at is None


async def test_what_is_dead_lettered_without_its_body_says_where_the_body_is(
    server: Server, broker: RabbitBroker
) -> None:
    await broker.publisher.publish([event(1)])
    got: list[Received] = []
    await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))

    got[0].drop_body()
    await got[0].dead_letter("the store refuses it")

    [(headers, body)] = await bodies(server.url, DEAD_LETTER_QUEUE)
    assert body == b""
    assert (headers["body"], headers["size"]) == ("journal", str(got[0].size))


async def test_a_body_of_somebody_elses_message_is_never_dropped(
    server: Server, broker: RabbitBroker
) -> None:
    headers = {"device": DEVICE, "topic": "mdm.Connect"}
    await put(server.url, [Message("", partition_queue(PARTITION), "id-1", headers, b'{"a":1}')])
    got: list[Received] = []

    await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))

    assert not got[0].drop_body()
    assert got[0].body == b'{"a":1}'
    assert got[0].created_at is None


class BrokenClock(SystemClock):
    """Whoever sleeps by it is ended."""

    async def sleep(self, duration: timedelta) -> None:
        raise ZeroDivisionError


async def test_whoever_watches_the_broker_hears_what_ended_its_background_work() -> None:
    broker = RabbitBroker(f"amqp://127.0.0.1:{free_port()}/", clock=BrokenClock())
    await broker.start(timedelta())
    try:
        with pytest.raises(ExceptionGroup) as ended:
            async with asyncio.timeout(PATIENCE):
                await broker.watch()
    finally:
        await broker.close()

    assert ended.group_contains(ZeroDivisionError)


async def test_watching_ends_quietly_when_the_broker_is_closed() -> None:
    broker = RabbitBroker(f"amqp://127.0.0.1:{free_port()}/", clock=SystemClock())
    await broker.start(timedelta())
    watching = asyncio.create_task(broker.watch())
    await asyncio.sleep(0)

    await broker.close()

    async with asyncio.timeout(PATIENCE):
        await watching


async def test_unintelligible_messages_are_dead_lettered_with_a_reason_and_the_queue_moves_on(
    server: Server, broker: RabbitBroker
) -> None:
    await put(
        server.url,
        [
            Message("", partition_queue(PARTITION), name, headers, body)
            for name, headers, body in BROKEN
        ],
    )
    await broker.publisher.publish([event(1)])
    got: list[Received] = []

    await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))
    async with asyncio.timeout(PATIENCE):
        while await depth(server.url, DEAD_LETTER_QUEUE) < len(BROKEN):
            await asyncio.sleep(0.05)

    assert [each.event_id for each in got] == [event(1).id]
    reasons = sorted(
        str(headers["reason"]) for headers, _ in await bodies(server.url, DEAD_LETTER_QUEUE)
    )
    assert reasons == ["body is not a JSON object"] * 4 + [
        "no device or topic header",
        "no message_id",
    ]


async def test_what_nobody_can_use_as_a_push_request_is_dead_lettered(
    server: Server, broker: RabbitBroker
) -> None:
    async with aiormq.connect(server.url) as connection:
        channel = await connection.channel()
        await channel.basic_publish(b"{broken", routing_key=PUSH_QUEUE)
    granted: list[str] = []

    async def grant(push_requests: object) -> None:
        granted.extend(push_requests if isinstance(push_requests, list) else [])

    broker.push_requests.add(["a"])
    consuming = asyncio.create_task(broker.push_request_consumer.consume(grant))
    await until(lambda: granted == ["a"])
    consuming.cancel()
    await asyncio.wait({consuming})

    [(headers, body)] = await bodies(server.url, DEAD_LETTER_QUEUE)
    assert body == b"{broken"
    assert headers["queue"] == PUSH_QUEUE


async def test_an_event_dead_lettered_by_its_consumer_keeps_its_bytes_and_says_why(
    server: Server, broker: RabbitBroker
) -> None:
    await broker.publisher.publish([event(1)])
    got: list[Received] = []
    await broker.partitions.open(PARTITION, on_event=got.append, on_lost=lambda: None)
    await until(lambda: bool(got))

    await got[0].dead_letter("too strange")

    [(headers, body)] = await bodies(server.url, DEAD_LETTER_QUEUE)
    assert body == event_message(event(1)).body
    assert headers["reason"] == "too strange"
    assert headers["device"] == DEVICE


async def test_a_message_over_its_delivery_limit_is_dead_lettered(
    server: Server, broker: RabbitBroker
) -> None:
    # The real limit is too far away for a test, so this queue has the same arguments but the limit.
    arguments = {**QUEUES[1].arguments, "x-delivery-limit": 1}
    async with aiormq.connect(server.url) as connection:
        channel = await connection.channel()
        await channel.queue_declare("limited", durable=True, arguments=arguments)
        await channel.basic_publish(b"{}", routing_key="limited")
        for _ in range(2):
            message = await channel.basic_get("limited")
            assert message.delivery_tag is not None
            await channel.basic_nack(message.delivery_tag, requeue=True)
            await asyncio.sleep(0.3)

    async with asyncio.timeout(PATIENCE):
        while await depth(server.url, DEAD_LETTER_QUEUE) == 0:
            await asyncio.sleep(0.1)


async def test_every_partition_has_a_queue_that_takes_every_topic(
    server: Server, broker: RabbitBroker
) -> None:
    events = []
    for partition in range(PARTITIONS):
        device = next(f"D{n}" for n in range(10_000) if partition_of(f"D{n}") == partition)
        for number, topic in enumerate(Topic):
            events.append(
                Event(
                    id=f"{partition:08x}-0000-7000-8000-{number:012d}",
                    topic=topic,
                    key=EnrollmentKey(device, device, udid=device),
                    created_at=1,
                    raw_payload=b"{}",
                    writer="w",
                    number=number,
                    status="Idle",
                )
            )

    assert all(await broker.publisher.publish(events))

    depths = [await depth(server.url, partition_queue(p)) for p in range(PARTITIONS)]
    assert depths == [len(Topic)] * PARTITIONS
