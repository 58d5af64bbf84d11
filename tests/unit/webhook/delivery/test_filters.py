"""Promises of filters: what passes, what is read for it, and that the rest is acked and holds up nothing."""

import asyncio
from collections.abc import Collection
from dataclasses import replace

import orjson
import pytest

from services.webhook.delivery.filters import Filters
from shared.domain.command import QueueEntry, entry_id
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, Inventory
from shared.domain.errors import CannotDecrypt, OfNewerVersion, StoreUnavailable
from shared.domain.event import Event, Topic
from shared.domain.subscription import BodyForm, EventFilters, Subscription, SubscriptionState
from tests.support.delivery_rig import DEVICE, SUBSCRIPTION, Replica, World
from tests.support.fakes.clock import settle
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.queue import FakeCommandQueue

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
USER = EnrollmentKey("MAC:U", device="MAC", udid="MAC", user="U")
ANSWER = Event("e", Topic.CONNECT, MAC, 1, b"", "w", 1, None, "Acknowledged", "c1")
CHECK_OUT = Event("e", Topic.CHECK_OUT, MAC, 1, b"", "w", 1)


def only(**filters: Collection[str]) -> EventFilters:
    return EventFilters(**{name: frozenset(values) for name, values in filters.items()})


class Desk:
    """Filters over a store that counts reads."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.events: dict[str, Event] = {}
        self.enrollments = FakeEnrollments(self.count)
        self.queue = FakeCommandQueue(self.count)
        self.filters = Filters(self.read, self.enrollments, self.queue)
        inventory = Inventory(serial_number="C02")
        self.enrollments.records["MAC"] = Enrollment(
            MAC, status=EnrollmentStatus.ENROLLED, inventory=inventory
        )
        entry = QueueEntry("MAC", "MAC", "c1", "hash", "DeviceLock", None, "o")
        self.queue.entries[entry_id("MAC", "c1")] = entry

    async def count(self, operation: str) -> None:
        self.reads.append(operation)

    async def read(self, event_id: str) -> Event | None:
        self.reads.append("event")
        return self.events.get(event_id)

    async def passes(self, filters: EventFilters, event: Event | None = ANSWER) -> bool:
        self.events = {} if event is None else {"e": event}
        device = "MAC" if event is None else event.key.device
        by_id = await self.filters.pass_id(filters, "e", device)
        assert event is None or by_id == await self.filters.pass_event(filters, event)
        return by_id


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("filters", "event", "expected"),
    [
        (only(), ANSWER, True),
        (only(enrollments=["MAC"]), ANSWER, True),
        (only(enrollments=["MAC"]), replace(ANSWER, key=USER), True),
        (only(enrollments=["PAD"]), ANSWER, False),
        (only(enrollments=["MAC:U"]), ANSWER, False),
        (only(enrollments=["MAC:U"]), replace(ANSWER, key=USER), True),
        (only(enrollments=["MAC:OTHER", "PAD"]), replace(ANSWER, key=USER), False),
        (only(serial_numbers=["C02"]), ANSWER, True),
        (only(serial_numbers=["C03"]), ANSWER, False),
        (only(statuses=["Acknowledged", "Error"]), ANSWER, True),
        (only(statuses=["Idle"]), ANSWER, False),
        (only(statuses=["Acknowledged"]), CHECK_OUT, False),
        (only(request_types=["DeviceLock"]), ANSWER, True),
        (only(request_types=["EraseDevice"]), ANSWER, False),
        (only(request_types=["DeviceLock"]), CHECK_OUT, False),
        (only(request_types=["DeviceLock"]), replace(ANSWER, command_uuid="unknown"), False),
        (only(enrollments=["MAC"], statuses=["Idle"]), ANSWER, False),
        (only(enrollments=["MAC:U"], serial_numbers=["C03"]), replace(ANSWER, key=USER), False),
        (only(serial_numbers=["C02"], request_types=["DeviceLock"]), ANSWER, True),
    ],
)
async def test_an_event_must_match_each_filter_that_is_not_empty(
    desk: Desk, filters: EventFilters, event: Event, expected: bool
) -> None:
    assert await desk.passes(filters, event) is expected


async def test_facts_of_our_own_events_are_in_their_bodies(desk: Desk) -> None:
    facts = orjson.dumps({"request_type": "Restart", "status": "Error"})
    own = replace(ANSWER, topic=Topic.COMMAND_EXPIRED, raw_payload=facts, status=None)

    assert await desk.passes(only(request_types=["Restart"], statuses=["Error"]), own)
    assert not await desk.passes(only(request_types=["DeviceLock"]), own)


@pytest.mark.parametrize(
    "filters", [only(), only(enrollments=["MAC"]), only(enrollments=["PAD", "PAD:U"])]
)
async def test_no_filter_and_devices_alone_cost_no_read(desk: Desk, filters: EventFilters) -> None:
    await desk.filters.pass_id(filters, "e", "MAC")

    assert desk.reads == []


async def test_what_does_not_change_is_read_once(desk: Desk) -> None:
    filters = only(serial_numbers=["C02"], request_types=["DeviceLock"])
    for _ in range(3):
        await desk.passes(filters)

    assert [read for read in desk.reads if read != "event"].__len__() == 2


async def test_a_serial_number_that_is_not_known_yet_is_read_again(desk: Desk) -> None:
    record = desk.enrollments.records.pop("MAC")
    before = await desk.passes(only(serial_numbers=["C02"]))
    desk.enrollments.records["MAC"] = record

    assert not before
    assert await desk.passes(only(serial_numbers=["C02"]))


async def test_an_event_that_the_journal_does_not_have_passes(desk: Desk) -> None:
    assert await desk.passes(only(statuses=["Idle"]), None)


# --- in delivery queues

FILTERED = Subscription("made", "http://made.invalid/", filters=only(statuses=["Error"]))


def publish(world: World, *names: str) -> None:
    """Events whose names end in their status."""
    for name in names:
        world.publish(name)
        event = world.journal.events[name]
        world.journal.events[name] = replace(event, status=name.partition(" ")[2])


@pytest.mark.parametrize("batch", [1, 3])
async def test_what_no_subscription_takes_is_acked_and_the_rest_goes_in_order(batch: int) -> None:
    world = World()
    async with Replica(world) as replica:
        await replica.subscribe(replace(FILTERED, form=BodyForm(batch=batch)))
        publish(world, "1 Idle", "2 Error", "3 Idle", "4 Idle", "5 Error", "6 Error", "7 Idle")
        await settle()

        assert len(replica.partitions.served[0].queues) == 0
    assert world.receiver.arrivals == ["2 Error", "5 Error", "6 Error"]
    assert world.is_settled


async def test_what_is_filtered_for_one_goes_to_the_other() -> None:
    world = World()
    async with Replica(world) as replica:
        await replica.subscribe(FILTERED, SUBSCRIPTION)
        publish(world, "1 Idle", "2 Error")
        await settle()

    assert world.receiver.arrivals_of == {"made": ["2 Error"], "config": ["1 Idle", "2 Error"]}
    assert world.is_settled


async def test_of_a_paused_one_only_what_passes_is_stored() -> None:
    world = World()
    async with Replica(world) as replica:
        await replica.subscribe(replace(FILTERED, state=SubscriptionState.PAUSED))
        publish(world, "1 Idle", "2 Error", "3 Idle")
        await settle()

    assert world.store.in_queue(DEVICE) == ["2 Error"]
    assert world.queue.is_empty


async def test_while_the_store_is_away_an_event_waits_for_its_filter() -> None:
    world = World()

    async def away(operation: str) -> None:
        raise StoreUnavailable("away")

    async with Replica(world) as replica:
        await replica.subscribe(FILTERED)
        reads, world.journal.before = world.journal.before, away
        publish(world, "1 Error", "2 Error")
        await world.run(3)
        before = list(world.receiver.attempts)
        world.journal.before = reads
        await world.run(3)

    assert before == []
    assert world.receiver.arrivals == ["1 Error", "2 Error"]
    assert world.is_settled


@pytest.mark.parametrize("error", [CannotDecrypt, OfNewerVersion])
async def test_an_event_that_cannot_be_read_passes(error: type[Exception]) -> None:
    async def fails(event_id: str) -> Event | None:
        raise error("cannot be read")

    filters = Filters(fails, FakeEnrollments(), FakeCommandQueue())

    assert await filters.pass_id(only(statuses=["Idle"]), "e", "MAC")
    assert not await filters.pass_id(only(enrollments=["PAD"]), "e", "MAC")


async def test_of_a_smaller_batch_no_more_events_share_a_request() -> None:
    world = World()
    sub = replace(FILTERED, form=BodyForm(batch=3), filters=only(enrollments=[DEVICE]))
    world.receiver.held["big"] = asyncio.Event()
    async with Replica(world) as replica:
        await replica.subscribe(sub)
        world.publish("big", has_body=False)
        world.publish("e3", "e4", "e5", "e6", "e7")
        await settle()
        await replica.subscribe(replace(sub, form=BodyForm()))
        world.receiver.held["big"].set()
        await world.run(5)

    assert world.receiver.arrivals == ["big", "e3", "e4", "e5", "e6", "e7"]
    assert {len(names) for _, names in world.receiver.requests} == {1}


async def test_a_subscription_for_a_serial_number_hears_that_its_device_is_removed() -> None:
    world = World()
    world.enrollments.records["MAC"] = Enrollment(
        MAC, status=EnrollmentStatus.ENROLLED, inventory=Inventory(serial_number="C02")
    )
    topics = frozenset({"mdm.*", "macromdm.*"})
    sub = Subscription(
        "s", "http://s.invalid/", topics=topics, filters=only(serial_numbers=["C02"])
    )
    other = Subscription(
        "o", "http://o.invalid/", topics=topics, filters=only(serial_numbers=["C03"])
    )
    world.publish("answer")
    await world.enrollments.remove({"MAC"}, "removal")
    world.publish("removed", topic=Topic.DEVICE_REMOVED)
    replica = Replica(world)
    replica.subscriptions.subscriptions = [sub, other]
    async with replica:
        await world.run(3)
        await world.enrollments.revive({"MAC"})
        world.publish("speaks again")
        await world.run(3)

    assert world.receiver.arrivals_of == {"s": ["answer", "removed", "speaks again"]}
    assert world.is_settled
