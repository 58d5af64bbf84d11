"""From a command that expired, or was superseded, to the webhook that asked for it, on a real store and both
brokers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from services.commands.upkeep.expiry import FORGOTTEN_AFTER, Expiry
from services.runtime.adapters import Adapters
from services.runtime.stores import Stores
from services.runtime.wanted_topics import WantedTopics
from services.webhook.app import build
from shared.concurrency.clock import SystemClock, SystemIds
from shared.concurrency.periodic import Loops
from shared.domain.command import EntryState, QueueEntry
from shared.domain.enrollment import PARTITIONS, EnrollmentKey
from shared.domain.event import Event, Topic
from shared.domain.subscription import Subscription
from shared.messaging.envelope import event_json
from shared.messaging.memory.broker import LocalBroker
from shared.messaging.rabbit.broker import RabbitBroker
from shared.ports.events import EventPublisher
from shared.settings import AllSettings
from shared.storage.database import Database
from shared.storage.enrollments import store as enrollments
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events import journal
from shared.storage.events.journal import MongoJournal
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.queue import documents as entry_documents
from shared.storage.queue.expiries import MongoExpiries
from shared.storage.queue.store import MongoCommandQueue
from shared.telemetry.metrics import Metrics
from tests.contract.stores import KEYRING
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.harness.sink import Sink

TOPIC = Topic.COMMAND_EXPIRED.value
SUPERSEDED = Topic.COMMAND_SUPERSEDED.value
MONTH = timedelta(days=30)
CLOCK, IDS = SystemClock(), SystemIds()
Broker = LocalBroker | RabbitBroker


class Killed(BaseException):
    """The process of the expiry dies here."""


class Dying:
    """A publisher whose process dies before, or after, the broker has the events."""

    def __init__(self, publisher: EventPublisher, *, is_after: bool) -> None:
        self._publisher = publisher
        self._is_after = is_after

    @property
    def is_live(self) -> bool:
        return self._publisher.is_live

    @property
    def away(self) -> frozenset[int]:
        return self._publisher.away

    async def publish(
        self, events: Sequence[Event], *, settled: Callable[[Event], None] | None = None
    ) -> list[bool]:
        if self._is_after:
            assert all(await self._publisher.publish(events))
        raise Killed


class Share:
    partitions = frozenset(range(PARTITIONS))

    async def refresh(self) -> frozenset[int]:
        return self.partitions

    async def leave(self) -> None:
        return None


@dataclass
class World:
    """`asked` is the webhook of the settings, `plain` one that asked for nothing."""

    database: Database
    broker: Broker
    asked: Sink
    plain: Sink
    clock: FakeClock

    async def overdue(self, *names: str) -> list[QueueEntry]:
        """Commands whose time is over."""
        made = self.made(*names)
        await MongoCommandQueue(self.database, KEYRING).insert(made)
        return made

    def made(self, *names: str) -> list[QueueEntry]:
        now = self.clock.now()
        return [
            QueueEntry(
                enrollment=name,
                device=name,
                command_uuid=f"of {name}",
                command_hash="hash",
                request_type="ProfileList",
                generation=None,
                order=IDS.new(),
                accepted_at=now,
                expires_at=now,
            )
            for name in names
        ]

    def expiry(self, publisher: EventPublisher | None = None) -> Expiry:
        return Expiry(
            MongoExpiries(self.database),
            MongoEnrollments(self.database, KEYRING),
            MongoJournal(self.database, KEYRING),
            publisher or self.broker.publisher,
            Share(),
            self.clock,
        )

    async def states(self, entries: Sequence[QueueEntry]) -> set[EntryState]:
        found = await MongoCommandQueue(self.database, KEYRING).entries_of(
            [entry.id for entry in entries]
        )
        return {entry.state for entry in found.values()}


@pytest.fixture
async def world(database: Database, broker: Broker) -> AsyncIterator[World]:
    indexes = (*entry_documents.indexes(MONTH), *journal.indexes(MONTH), *enrollments.INDEXES)
    await database.ensure(indexes)
    async with Sink() as asked, Sink() as plain:
        await MongoSubscriptions(database, KEYRING).add(Subscription("plain", plain.url))
        async with webhook(database, broker, asked.url):
            yield World(database, broker, asked, plain, FakeClock(CLOCK.now()))


@asynccontextmanager
async def webhook(
    database: Database, broker: Broker, url: str, topics: Sequence[str] = (TOPIC, SUPERSEDED)
) -> AsyncIterator[None]:
    given = {"webhook_url": url, "webhook_extra_topics": ",".join(topics)}
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
        metrics=Metrics(),
    )
    service = await build(AllSettings.model_validate(given), adapters)
    task = asyncio.ensure_future(service.run())
    try:
        await until(lambda: is_ready(service.ready))
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def is_ready(reasons: Callable[[], Awaitable[list[str]]]) -> bool:
    return not await reasons()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.02)


async def told(world: World) -> list[str]:
    """Whom the subscriber that asked has heard of, once it has heard of what was published last; the
    other one heard of that alone."""
    key = EnrollmentKey("LAST", device="LAST", udid="LAST")
    last = Event(IDS.new(), Topic.CHECK_OUT, key, CLOCK.time_ns(), b"", "w", 1)
    assert all(await MongoJournal(world.database, KEYRING).append([last]))
    assert all(await world.broker.publisher.publish([last]))
    for sink in (world.asked, world.plain):
        async with asyncio.timeout(20):
            while not sink.count_of(last.id):
                await asyncio.sleep(0.02)
    assert [arrival.event["topic"] for arrival in world.plain.taken] == ["mdm.CheckOut"]
    return [a.device for a in world.asked.taken if a.event["topic"] in (TOPIC, SUPERSEDED)]


async def test_the_event_of_an_expired_command_reaches_who_asked_and_nobody_else(
    world: World,
) -> None:
    entries = await world.overdue("MAC", "PAD")

    await world.expiry().look()
    await world.asked.wait_for(2)

    assert sorted(await told(world)) == ["MAC", "PAD"]
    assert await world.states(entries) == {EntryState.EXPIRED}
    for arrival in world.asked.taken:
        if arrival.event["topic"] == TOPIC:
            [event] = (
                await MongoJournal(world.database, KEYRING).read([arrival.event_id])
            ).values()
            assert arrival.body == event_json(event)
    world.clock.advance(2 * FORGOTTEN_AFTER)
    unpublished = MongoExpiries(world.database).unpublished(world.clock.now())
    assert [entry async for page in unpublished for entry in page] == []


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
async def test_a_kill_around_the_publishing_is_repaired_with_the_same_event(
    world: World, is_after: bool
) -> None:
    entries = await world.overdue("MAC")
    with pytest.raises(Killed):
        await world.expiry(Dying(world.broker.publisher, is_after=is_after)).look()
    assert await world.states(entries) == {EntryState.EXPIRED}

    world.clock.advance(2 * FORGOTTEN_AFTER)
    await world.expiry().look()
    await world.asked.wait_for(1)

    assert set(await told(world)) == {"MAC"}
    expired = [a for a in world.asked.taken if a.event["topic"] == TOPIC]
    assert len({arrival.body for arrival in expired}) == 1
    assert len({arrival.event_id for arrival in expired}) == 1


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
async def test_rule_05_a_kill_around_the_publishing_loses_no_event_of_a_superseded_command(
    world: World, is_after: bool
) -> None:
    queue = MongoCommandQueue(world.database, KEYRING)
    older, newer = [
        replace(each, expires_at=None, collapse_key="k", command_uuid=uuid)
        for uuid, each in zip("ab", world.made("MAC", "MAC"), strict=True)
    ]
    await queue.insert([older, newer])
    assert await queue.supersede([newer]) == 1
    world.clock.advance(timedelta(seconds=1))  # the end is by the clock of the store
    with pytest.raises(Killed):
        await world.expiry(Dying(world.broker.publisher, is_after=is_after)).look()

    await world.expiry().look()
    await world.asked.wait_for(1)

    assert set(await told(world)) == {"MAC"}
    found = [a for a in world.asked.taken if a.event["topic"] == SUPERSEDED]
    assert len({arrival.body for arrival in found}) == 1
    assert found[0].event["command_event"]["superseded_by"] == newer.command_uuid
    assert (await queue.entries_of([newer.id]))[newer.id].state is EntryState.QUEUED


async def test_what_was_queued_anew_and_expires_again_is_told_again(world: World) -> None:
    [entry] = await world.overdue("MAC")
    await world.expiry().look()
    queue = MongoCommandQueue(world.database, KEYRING)
    seen = (await queue.entries_of([entry.id]))[entry.id]
    assert await queue.requeue(replace(entry, order=IDS.new()), seen)

    await world.expiry().look()
    await world.asked.wait_for(2)

    assert await told(world) == ["MAC", "MAC"]
    assert len({arrival.event_id for arrival in world.asked.taken}) == 3
