"""Events that no message brings, from what is stored to the webhook that asked for them: once, from two
replicas, over kills, on a real store and both brokers; and by a whole server."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.checkin.journal.outbox import Outbox
from services.checkin.journal.relay import Relay
from services.checkin.review.worker import DeviceReview
from services.push.certificates.expiry import PushExpiryEvents
from services.push.certificates.store import CertificateStore
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.clock import SystemClock
from shared.domain.command import QueueEntry
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BrokerUnavailable
from shared.domain.event import Topic
from shared.domain.identity import BoundBy, DeviceCertificate, Identity
from shared.domain.subscription import Subscription
from shared.messaging.memory.broker import LocalBroker
from shared.messaging.rabbit.broker import RabbitBroker
from shared.ports.enrollments import Change
from shared.ports.events import EventPublisher
from shared.security.push_certificate import PushCertificate, read_pair
from shared.storage.certificates.push import MongoPushExpiries
from shared.storage.database import Database
from shared.storage.enrollments import identities
from shared.storage.enrollments.identities import MongoIdentities
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events import journal
from shared.storage.events.journal import MongoJournal
from shared.storage.queue.store import MongoCommandQueue
from shared.storage.sqlite import open_database
from shared.telemetry.metrics import Metrics
from tests.contract.stores import KEYRING
from tests.integration.test_command_expiry import CLOCK, IDS, MONTH, Dying, Killed, Share, webhook
from tests.integration.whole import Whole, whole_server
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.harness.push_certificates import TOPIC, PushAuthority
from tests.support.harness.sink import Arrival, Sink
from tests.support.harness.system import ServiceProcess

TOPICS = (Topic.DEVICE_SILENT, Topic.IDENTITY_EXPIRING, Topic.PUSH_CERTIFICATE_EXPIRING)
DAY, WEEK, YEAR = timedelta(days=1), timedelta(days=7), timedelta(days=365)
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
Broker = LocalBroker | RabbitBroker


@dataclass
class World:
    """A device that was silent for eight days; its certificate, and a push certificate, end in ten."""

    database: Database
    broker: Broker
    sink: Sink
    wanted: WantedTopics
    certificate: PushCertificate

    def replica(self, publisher: EventPublisher | None = None) -> Callable[[], Awaitable[None]]:
        """One pass of a replica of check-in and push."""
        publisher = publisher or self.broker.publisher
        stored, kept = MongoIdentities(self.database, KEYRING), MongoJournal(self.database, KEYRING)
        queue = MongoCommandQueue(self.database, KEYRING)
        enrollments = MongoEnrollments(self.database, KEYRING)
        share = Share()
        review = DeviceReview(stored, queue, publisher, self.wanted, share, CLOCK, IDS, WEEK)
        outbox = Outbox(stored, enrollments, kept, publisher, share, CLOCK)
        relay = Relay(enrollments, kept, publisher, share, CLOCK, Metrics())
        expiry = PushExpiryEvents(
            CertificateStore({TOPIC: self.certificate}, CLOCK),
            MongoPushExpiries(self.database),
            kept,
            publisher,
            self.wanted,
            share,
            CLOCK,
            IDS,
        )

        async def look() -> None:
            await review.look()
            both = asyncio.gather(outbox.look(), expiry.look(), return_exceptions=True)
            for failure in filter(None, await both):
                raise failure
            await relay.relay_waiting()  # what one replica's publication left while another made it

        return look

    async def arrived(self) -> dict[str, list[Arrival]]:
        """What the subscriber got, by topic, once each is there and nothing more has come for a while."""
        async with asyncio.timeout(20):
            while len({arrival.event["topic"] for arrival in self.sink.taken}) < len(TOPICS):
                await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        found: dict[str, list[Arrival]] = {}
        for arrival in self.sink.taken:
            found.setdefault(arrival.event["topic"], []).append(arrival)
        return found


@pytest.fixture
async def world(database: Database, broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    await database.ensure((*identities.INDEXES, *journal.indexes(MONTH)))
    await enroll(database, CLOCK.now())
    asking = Subscription("1", "https://x.example/", topics=frozenset(TOPICS))
    wanted = WantedTopics(FakeSubscriptions(asking))
    await wanted.refresh()
    async with Sink() as sink, webhook(database, broker, sink.url, TOPICS):
        yield World(database, broker, sink, wanted, near_its_end(PushAuthority(tmp_path / "apns")))


async def enroll(database: Database, now: datetime) -> None:
    certificate = DeviceCertificate("old", "CN=x", "1f", now - YEAR, now + 10 * DAY)
    identity = Identity(certificate, now - YEAR, BoundBy.AUTHENTICATE, True)
    first = Change(
        MAC,
        "gen",
        None,
        Topic.AUTHENTICATE,
        now - 8 * DAY,
        certificate="old",
        makes_record=True,
        identity=identity,
    )
    second = Change(MAC, "tok", "gen", Topic.TOKEN_UPDATE, now - 8 * DAY, expected_change="gen")
    store = MongoEnrollments(database, KEYRING)
    assert [await store.apply([change]) for change in (first, second)] == [[True], [True]]
    entry = QueueEntry(
        "MAC", "MAC", "c", "hash", "ProfileList", "gen", IDS.new(), accepted_at=now - 8 * DAY
    )
    await MongoCommandQueue(database, KEYRING).insert([entry])


def near_its_end(authority: PushAuthority, topic: str = TOPIC) -> PushCertificate:
    now = datetime.now(UTC)
    files = authority.issue(topic, not_before=now - YEAR, not_after=now + 10 * DAY, name="old")
    return read_pair(files.certificate.read_bytes(), files.key.read_bytes())


async def done(look: Callable[[], Awaitable[None]]) -> None:
    """A loop tries again while the broker does not take an event."""
    async with asyncio.timeout(30):
        while True:
            with suppress(BrokerUnavailable):
                return await look()
            await asyncio.sleep(0.5)


async def test_two_replicas_report_each_once(world: World) -> None:
    first, second = world.replica(), world.replica()

    for _ in range(2):
        await asyncio.gather(done(first), done(second))

    found = await world.arrived()
    assert found.keys() == set(TOPICS)
    assert {len({arrival.body for arrival in each}) for each in found.values()} == {1}
    assert found[Topic.DEVICE_SILENT][0].event["device_event"]["waiting_commands"] == 1
    assert found[Topic.IDENTITY_EXPIRING][0].event["device_event"]["days"] == 14
    assert found[Topic.PUSH_CERTIFICATE_EXPIRING][0].event["push_certificate_event"]["days"] == 14


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
async def test_a_kill_between_report_and_publication_is_repaired_with_the_same_events(
    world: World, is_after: bool
) -> None:
    with pytest.raises(Killed):
        await world.replica(Dying(world.broker.publisher, is_after=is_after))()

    for _ in range(2):
        await done(world.replica())

    found = await world.arrived()
    assert {len({arrival.body for arrival in each}) for each in found.values()} == {1}
    assert {len(each) for each in found.values()} <= ({1, 2} if is_after else {1})


async def test_a_whole_server_reports_each_once_over_restarts(tmp_path: Path) -> None:
    settings = {"MDM_WEBHOOK_EXTRA_TOPICS": ",".join(TOPICS)}
    async with whole_server(tmp_path, settings) as whole:
        device = await whole.enrolled()
        await device.queue()
        await install(whole, near_its_end(whole.apns.authority, "com.apple.mgmt.External.old"))
        await grows_old(whole.process, device.id)
        async with asyncio.timeout(60):
            while len(reported(whole)) < len(TOPICS):
                await asyncio.sleep(0.1)

        assert await asyncio.to_thread(whole.process.terminate) == 0
        await asyncio.to_thread(whole.process.start)
        await asyncio.sleep(12)  # every loop has looked once more

        assert sorted(event["topic"] for event in reported(whole)) == sorted(TOPICS)
        of_device = [each["device_event"] for each in reported(whole) if "device_event" in each]
        assert {each["udid"] for each in of_device} == {device.id}


def reported(whole: Whole) -> list[dict[str, Any]]:
    return [arrival.event for arrival in whole.sink.taken if arrival.event["topic"] in TOPICS]


async def install(whole: Whole, pair: PushCertificate) -> None:
    pem = {"cert": pair.certificate_pem, "key": pair.key_pem}
    body = {name: base64.b64encode(each).decode() for name, each in pem.items()}
    answer = await whole.api("PUT", f"/v1/config/certificate?force_topic={pair.topic}", body)
    assert answer.status_code == 200, answer.text


async def grows_old(server: ServiceProcess, device: str) -> None:
    """As if the device had enrolled long ago and been silent since: time itself cannot be set, so its record
    is, between two runs of the server."""
    assert await asyncio.to_thread(server.terminate) == 0
    now = datetime.now(UTC)
    changes = {
        "last_seen": now - 8 * DAY,
        "identity.certificate.not_before": now - YEAR,
        "identity.certificate.not_after": now + 10 * DAY,
    }
    store = open_database(server.folder / "data", SystemClock())
    assert await store.collection("enrollments").update_one({"_id": device}, {"$set": changes}) == 1
    entries = store.collection("queue")
    [entry] = await entries.find({"open_device": {"$in": [device]}})
    old = {"$set": {"accepted_at": now - 8 * DAY}}
    assert await entries.update_one({"_id": entry["_id"]}, old) == 1
    await store.close()
    await asyncio.to_thread(server.start)
