"""The push service as it is built for a process: real store, in-process broker, fake APNs over TLS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import httpx

from services.push.app import build
from services.runtime.adapters import Adapters
from services.runtime.stores import Stores
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.clock import SystemClock, SystemIds
from shared.concurrency.periodic import Loops
from shared.domain.binding import Binding
from shared.domain.command import QueueEntry
from shared.domain.enrollment import EnrollmentKey, PushTarget
from shared.domain.event import Topic
from shared.messaging.memory.broker import LocalBroker
from shared.ports.enrollments import Change
from shared.settings import PushSettings
from shared.storage.database import Database
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.queue.store import MongoCommandQueue
from shared.telemetry.metrics import Metrics
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.contract.stores import KEYRING
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.harness.apns import FakeApns
from tests.support.harness.push_certificates import TOPIC
from tests.support.harness.system import SECRET_KEY

MAC = EnrollmentKey("MAC", "MAC", udid="MAC")
PATIENCE = 15.0


def settings(apns: FakeApns, *, certified: bool = True) -> PushSettings:
    pair = apns.certificate()
    return PushSettings.model_validate(
        {
            "secret_key": SECRET_KEY,
            # Both are required, and neither is used: `process` is given its store and its broker.
            "mongodb_url": "mongodb://127.0.0.1:1/",
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

    async def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        edge = create_app([self.service], max_body=10**6, metrics=self.metrics)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(edge),
            base_url="http://server",
            auth=("micromdm", "secret"),
        ) as client:
            return await client.request(method, path, json=body)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"macromdm_{name}", labels)


@asynccontextmanager
async def process(chosen: PushSettings, database: Database) -> AsyncIterator[Process]:
    metrics, clock = Metrics(), SystemClock()
    broker = LocalBroker(clock=clock, metrics=metrics)
    await broker.start()
    parts = Adapters(
        stores=Stores(database, KEYRING),
        broker=broker,
        publisher=broker.publisher,
        partitions=broker.partitions,
        push_requests=broker.push_requests,
        push_request_consumer=broker.push_request_consumer,
        clock=clock,
        loops=Loops(clock),
        wanted=WantedTopics(FakeSubscriptions()),
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


async def enroll(database: Database) -> None:
    store = MongoEnrollments(database, KEYRING)
    assert await store.bind([Binding(MAC, None, "c" * 64, is_new=True)]) == [True]
    now = datetime.now(UTC)
    authenticate = Change(
        MAC, "event-1", None, Topic.AUTHENTICATE, now, certificate="c" * 64, makes_record=True
    )
    target = PushTarget(TOPIC, b"token", "magic")
    token = Change(MAC, "event-2", "event-1", Topic.TOKEN_UPDATE, now, push=target)
    token = replace(token, expected_change="event-1")
    assert await store.apply([authenticate]) == [True]
    assert await store.apply([token]) == [True]


async def queue_command(database: Database) -> None:
    entry = QueueEntry(
        enrollment="MAC",
        device="MAC",
        command_uuid="c1",
        command_hash="a" * 64,
        request_type="DeviceInformation",
        generation="event-1",
        order="o1",
        accepted_at=datetime.now(UTC),
    )
    assert await MongoCommandQueue(database, KEYRING).insert([entry]) == [None]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)
