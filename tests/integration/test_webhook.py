"""The webhook service as it is put together, over a real store, both brokers, and real HTTP."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import orjson
import pytest

from services.runtime.adapters import Adapters
from services.runtime.stores import Stores
from services.runtime.wanted_topics import WantedTopics
from services.webhook.app import build
from shared.concurrency.clock import SystemClock, SystemIds
from shared.concurrency.periodic import Loops
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Event, Topic
from shared.messaging.memory.broker import LocalBroker
from shared.messaging.rabbit.broker import RabbitBroker
from shared.settings import AllSettings
from shared.storage.database import Database
from shared.storage.events.journal import MongoJournal
from shared.storage.mongo import Mongo
from shared.telemetry.metrics import Metrics
from shared.web.server.server import DRAIN_DEADLINE
from shared.web.server.service import Service
from shared.web.version import VERSION
from tests.conftest import remove_topology
from tests.contract.stores import KEYRING
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.harness.sink import Behaviour, Kind, Sink

DELIVERED = "macromdm_deliveries_delivered_total"
IDS = SystemIds()
CLOCK = SystemClock()
SCHEDULE = tuple(timedelta(seconds=seconds) for seconds in (0.3, 0.5, 1, 2, 4, 8))
Broker = LocalBroker | RabbitBroker


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as sink:
        yield sink


@pytest.fixture(params=["local", "rabbit"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    made: Broker
    if request.param == "local":
        made = LocalBroker(clock=CLOCK)
        await made.start()
    else:
        url = request.getfixturevalue("rabbit").url  # `amqp_url` is async, and so is this fixture
        await remove_topology(url)
        made = RabbitBroker(url, clock=CLOCK)
        await made.start(timedelta(seconds=30))
    yield made
    await made.close()


@dataclass
class Running:
    service: Service
    metrics: Metrics


@asynccontextmanager
async def running(database: Database, broker: Broker, url: str | None) -> AsyncIterator[Running]:
    """A replica; leaving the context ends it without draining, as a kill would."""
    metrics = Metrics()
    settings = AllSettings.model_validate({"webhook_url": url, "webhook_retry_schedule": SCHEDULE})
    adapters = Adapters(
        stores=Stores(database, KEYRING),
        broker=broker,
        publisher=broker.publisher,
        partitions=broker.partitions,
        push_requests=broker.push_requests,
        push_request_consumer=broker.push_request_consumer,
        clock=CLOCK,
        loops=Loops(CLOCK),
        wanted=WantedTopics(FakeSubscriptions()),
        ids=IDS,
        metrics=metrics,
    )
    service = await build(settings, adapters)
    task = asyncio.ensure_future(service.run())
    try:
        await until(lambda: is_ready(service))
        yield Running(service, metrics)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def is_ready(service: Service) -> bool:
    return not await service.ready()


async def until(condition: Callable[[], Awaitable[bool]], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.02)


async def publish(
    database: Database, broker: Broker, devices: int, each: int
) -> dict[str, list[str]]:
    """Journal and publish events; device -> event ids in order."""
    made: dict[str, list[str]] = {}
    for number in range(each):
        events = [event(f"device-{device}", number) for device in range(devices)]
        assert all(await MongoJournal(database, KEYRING).append(events))
        assert all(await broker.publisher.publish(events))
        for one in events:
            made.setdefault(one.key.device, []).append(one.id)
    return made


def event(device: str, number: int) -> Event:
    return Event(
        id=IDS.new(),
        topic=Topic.CONNECT,
        key=EnrollmentKey(device, device=device, udid=device),
        created_at=CLOCK.time_ns(),
        raw_payload=f"<plist>{number}</plist>".encode(),
        writer="writer",
        number=number,
        status="Idle",
    )


def assert_in_order(sink: Sink, made: dict[str, list[str]]) -> None:
    for device, ids in made.items():
        assert sink.first_taken(device) == ids


async def nothing_is_owed(database: Database) -> bool:
    return not await database.collection("deliveries").find({"partition": {"$gte": 0, "$lt": 32}})


async def test_every_event_arrives_in_order_per_device(
    database: Database, broker: Broker, sink: Sink
) -> None:
    async with running(database, broker, sink.url) as replica:
        made = await publish(database, broker, devices=40, each=5)
        await sink.wait_for(200)

        # The sink knows of the last one before we do.
        await until(lambda: happened(lambda: delivered(replica) == 200))
    assert_in_order(sink, made)
    assert await nothing_is_owed(database)


def delivered(replica: Running) -> float | None:
    return replica.metrics.registry.get_sample_value(DELIVERED)


async def test_an_outage_of_the_subscriber_loses_nothing(
    database: Database, broker: Broker, sink: Sink
) -> None:
    async with running(database, broker, sink.url):
        before = await publish(database, broker, devices=20, each=2)
        await sink.wait_for(40)
        sink.behaviour = Behaviour(status=503)
        during = await publish(database, broker, devices=20, each=5)
        await asyncio.sleep(1)
        sink.behaviour = Behaviour()
        await sink.wait_for(140, timeout=20)
        await until(lambda: nothing_is_owed(database))

    assert_in_order(sink, {device: before[device] + during[device] for device in before})


async def test_a_retry_carries_the_same_bytes_as_the_first_attempt(
    database: Database, broker: Broker, sink: Sink
) -> None:
    sink.behaviour = Behaviour(status=500)
    async with running(database, broker, sink.url):
        await publish(database, broker, devices=1, each=1)
        await until(lambda: arrived(sink, 1))
        sink.behaviour = Behaviour()
        await sink.wait_for(1)

    assert len(sink.arrivals) > 1
    assert len({arrival.body for arrival in sink.arrivals}) == 1


async def arrived(sink: Sink, count: int) -> bool:
    return len(sink.arrivals) >= count


async def test_a_replica_that_ends_leaves_nothing_behind(
    database: Database, broker: Broker, sink: Sink
) -> None:
    sink.behaviour = Behaviour(status=500)
    async with running(database, broker, sink.url) as first:
        made = await publish(database, broker, devices=10, each=3)
        await until(lambda: arrived(sink, 10))
        await first.service.drain()
    sink.behaviour = Behaviour()
    async with running(database, broker, sink.url):
        await sink.wait_for(30, timeout=60)
        await until(lambda: nothing_is_owed(database))

    assert_in_order(sink, made)


async def test_without_a_subscriber_events_are_taken_for_nobody(
    database: Database, broker: Broker
) -> None:
    async with running(database, broker, None):
        settled: list[Event] = []
        events = [event("device", number) for number in range(10)]
        await broker.publisher.publish(events, settled=settled.append)
        await until(lambda: happened(lambda: len(settled) == 10))

    assert await nothing_is_owed(database)


async def test_a_service_that_ends_at_once_leaves_nothing_that_was_begun_in_vain(
    database: Database, broker: Broker
) -> None:
    """A warning of a coroutine that nobody awaited is an error in our tests."""
    for number in range(10):
        async with running(database, broker, None):
            await broker.publisher.publish([event("device", 10 * number + n) for n in range(10)])
            for _ in range(number):
                await asyncio.sleep(0)
    gc.collect()


async def happened(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_two_replicas_share_the_partitions_and_keep_the_order(
    mongodb_url: str, amqp_url: str, sink: Sink
) -> None:
    database = Mongo(mongodb_url)
    brokers = [RabbitBroker(amqp_url, clock=CLOCK) for _ in range(2)]
    for one in brokers:
        await one.start()
    try:
        async with running(database, brokers[0], sink.url) as first:
            made = await publish(database, brokers[0], devices=60, each=2)
            async with running(database, brokers[1], sink.url) as second:
                more = await publish(database, brokers[0], devices=60, each=2)
                await until(lambda: happened(lambda: served(first) == served(second) == 16))
                rest = await publish(database, brokers[0], devices=60, each=2)
                await sink.wait_for(360, timeout=30)
    finally:
        for one in brokers:
            await one.close()
        await database.close()

    assert_in_order(sink, {d: made[d] + more[d] + rest[d] for d in made})


def served(replica: Running) -> float:
    value = replica.metrics.registry.get_sample_value("macromdm_partitions_served")
    return value or 0.0


async def test_the_record_of_a_delivery_shows_no_credentials(
    database: Database, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://anna:secret@127.0.0.1:1/hook"
    async with running(database, broker, url):
        await publish(database, broker, devices=1, each=1)
        await until(lambda: has_backlog(database))

    shown = capsys.readouterr()
    stored = await database.collection("deliveries").find({})
    assert "secret" not in shown.out + shown.err + repr(stored)


async def has_backlog(database: Database) -> bool:
    return not await nothing_is_owed(database)


async def test_the_events_of_a_sink_are_what_subscribers_get(
    database: Database, broker: Broker, sink: Sink
) -> None:
    async with running(database, broker, sink.url):
        made = await publish(database, broker, devices=1, each=1)
        await sink.wait_for(1)

    got = orjson.loads(sink.arrivals[0].body)
    assert got["event_id"] == made["device-0"][0]
    assert got["acknowledge_event"]["status"] == "Idle"
    assert sink.arrivals[0].device == "device-0"


async def test_a_post_names_the_version(database: Database, broker: Broker, sink: Sink) -> None:
    async with running(database, broker, sink.url):
        await publish(database, broker, devices=1, each=1)
        await sink.wait_for(1)

    assert sink.arrivals[0].headers["user-agent"] == f"MacroMDM/{VERSION}"


async def test_draining_ends_within_its_deadline_while_the_subscriber_hangs(
    database: Database, broker: Broker, sink: Sink
) -> None:
    sink.behaviour = Behaviour(Kind.HANG)
    async with running(database, broker, sink.url) as replica:
        await publish(database, broker, devices=20, each=2)
        await until(lambda: happened(lambda: sink.open_requests == 20))
        began = CLOCK.monotonic()
        await replica.service.drain()

        assert CLOCK.monotonic() - began < DRAIN_DEADLINE.total_seconds()
        assert served(replica) == 0
