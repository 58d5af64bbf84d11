"""The push service as it is built for a process: real store, in-process broker, fake APNs over TLS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from services.adapters import Adapters
from services.push.app import build, check
from shared.clock import SystemClock, SystemIds
from shared.domain.command import Place
from shared.domain.enrollment import EnrollmentKey, PushTarget
from shared.domain.errors import Misconfigured
from shared.domain.event import Topic
from shared.messaging.local import LocalBroker
from shared.ports.enrollments import Binding, Change
from shared.settings import PushSettings
from shared.storage import enrollments, place_documents, schema
from shared.storage.enrollments import MongoEnrollments
from shared.storage.mongo import Mongo
from shared.storage.pushes import MongoPushes
from shared.storage.queue import MongoCommandQueue
from shared.telemetry.metrics import Metrics
from shared.web.app import create_app
from shared.web.service import Service
from tests.contract.stores import SEALER
from tests.harness.apns import FakeApns, running
from tests.harness.push_certificates import TOPIC, PushAuthority
from tests.harness.system import SECRET_KEY

MAC = EnrollmentKey("MAC", "MAC", udid="MAC")
PATIENCE = 15.0


@pytest.fixture
async def apns(tmp_path: Path) -> AsyncIterator[FakeApns]:
    async with running(tmp_path / "apns") as fake:
        yield fake


@pytest.fixture
async def mongo(mongodb_url: str) -> AsyncIterator[Mongo]:
    opened = Mongo(mongodb_url)
    await schema.ensure(opened, enrollments.INDEXES)
    await schema.ensure(opened, place_documents.indexes(timedelta(days=30)))
    yield opened
    await opened.close()


def settings(apns: FakeApns, mongodb_url: str, *, certified: bool = True) -> PushSettings:
    pair = apns.certificate()
    return PushSettings.model_validate(
        {
            "mongodb_url": mongodb_url,
            "secret_key": SECRET_KEY,
            "amqp_url": "amqp://127.0.0.1:1/",
            "api_key": "secret",
            "apns_url": apns.url,
            "apns_ca": apns.authority.ca_file,
            "push_cert": [str(pair.certificate)] if certified else [],
            "push_key": [str(pair.key)] if certified else [],
        }
    )


@dataclass
class Process:
    """A running push service."""

    service: Service
    broker: LocalBroker
    metrics: Metrics


@asynccontextmanager
async def process(chosen: PushSettings, mongo: Mongo) -> AsyncIterator[Process]:
    metrics, clock = Metrics(), SystemClock()
    broker = LocalBroker(clock=clock, metrics=metrics)
    await broker.start()
    parts = Adapters(
        mongo=mongo,
        seal=SEALER,
        broker=broker,
        publisher=broker.publisher,
        partitions=broker.partitions,
        wishes=broker.wishes,
        wish_consumer=broker.wish_consumer,
        clock=clock,
        ids=SystemIds(),
        metrics=metrics,
    )
    service = await build(chosen, parts)
    work = asyncio.ensure_future(service.run())
    try:
        yield Process(service, broker, metrics)
        await service.drain()
    finally:
        work.cancel()
        await asyncio.wait({work})
        await broker.close()
    assert work.cancelled()


async def enroll(mongo: Mongo) -> None:
    store = MongoEnrollments(mongo, SEALER)
    assert await store.bind([Binding(MAC, None, "c" * 64, is_new=True)]) == [True]
    now = datetime.now(UTC)
    authenticate = Change(
        MAC, "event-1", None, Topic.AUTHENTICATE, now, certificate="c" * 64, makes_record=True
    )
    target = PushTarget(TOPIC, b"token", "magic")
    token = Change(MAC, "event-2", "event-1", Topic.TOKEN_UPDATE, now, push=target)
    assert await store.apply([authenticate]) == [True]
    assert await store.apply([token]) == [True]


async def queue_command(mongo: Mongo) -> None:
    place = Place(
        enrollment="MAC",
        device="MAC",
        command_uuid="c1",
        command_hash="a" * 64,
        request_type="DeviceInformation",
        generation="event-1",
        order="o1",
        accepted_at=datetime.now(UTC),
    )
    assert await MongoCommandQueue(mongo).insert([place]) == [None]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_wish_reaches_the_device_and_is_recorded(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url), mongo) as running_push:
        await queue_command(mongo)
        running_push.broker.wishes.wish(["MAC"])

        async def recorded() -> bool:
            return "MAC" in await MongoPushes(mongo).load(["MAC"])

        await until(recorded)

    assert apns.tokens() == [b"token"]


async def test_a_command_whose_wish_was_lost_is_pushed_within_ten_seconds(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url), mongo):
        await queue_command(mongo)
        accepted = asyncio.get_running_loop().time()

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)
        took = asyncio.get_running_loop().time() - accepted

    assert took < 10


async def test_the_api_pushes_through_the_app(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url), mongo) as running_push:
        edge = create_app([running_push.service], max_body=1000, metrics=running_push.metrics)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(edge),
            base_url="http://server",
            auth=("micromdm", "secret"),
        ) as client:
            answer = await client.get("/push/MAC")

    assert answer.status_code == 200
    assert len(answer.json()["push_notification_id"]) == 36
    assert apns.tokens() == [b"token"]


async def test_without_a_certificate_it_is_ready_and_what_was_queued_is_pushed_once_there_is_one(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url, certified=False), mongo) as without:

        async def ready() -> bool:
            return await without.service.ready() == []

        await until(ready)
        await queue_command(mongo)
        without.broker.wishes.wish(["MAC"])
        await asyncio.sleep(0.2)
        pushed_without = list(apns.pushes)
    async with process(settings(apns, mongodb_url), mongo):

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)

    assert pushed_without == []
    assert apns.tokens() == [b"token"]


async def test_the_expiry_of_each_certificate_is_a_metric(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    async with process(settings(apns, mongodb_url), mongo) as running_push:

        async def shown() -> bool:
            name = "macromdm_push_certificate_expiry_timestamp_seconds"
            value = running_push.metrics.registry.get_sample_value(name, {"topic": TOPIC})
            return value is not None and value > datetime.now(UTC).timestamp()

        await until(shown)


async def test_a_certificate_that_cannot_be_used_is_refused_before_anything_starts(
    apns: FakeApns, mongo: Mongo, mongodb_url: str, tmp_path: Path
) -> None:
    chosen = settings(apns, mongodb_url)
    other = PushAuthority(tmp_path / "other").issue()
    wrong = chosen.model_copy(update={"push_key": (str(other.key),)})

    with pytest.raises(Misconfigured, match="MDM_PUSH_KEY"):
        check(wrong, SystemClock())
    with pytest.raises(Misconfigured, match="MDM_PUSH_KEY"):
        async with process(wrong, mongo):
            pytest.fail("it started")
