"""Promises of the budget of bodies: what is kept in memory, what is read back, and that all get on."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from services.webhook.delivery.bodies import Account, Bodies, Room
from services.webhook.delivery.store import DeliveryStore
from shared.domain.errors import CannotDecrypt, OfNewerVersion, StoreUnavailable
from shared.domain.subscription import Delivery, DeliveryQueueKey
from shared.telemetry.metrics import Metrics
from tests.support.delivery_rig import DEVICE, SUBSCRIPTION, Replica, World
from tests.support.fakes.clock import FakeClock, FakeIds, settle
from tests.support.fakes.deliveries import FakeDeliveries, Owed
from tests.support.fakes.event_queue import body_of
from tests.support.fakes.journal import FakeJournal

SIZE = len(body_of("e1"))
TWO = 2 * SIZE * 4 // 3 + 2
"""A budget for two bodies that wait, and less than one that is read back."""
QUEUE = DeliveryQueueKey(SUBSCRIPTION.id, DEVICE)


@pytest.fixture
def world() -> World:
    return World(budget=TWO)


def assert_kept(world: World, *event_ids: str) -> None:
    assert world.receiver.firsts == list(event_ids)
    assert world.receiver.bodies == {event_id: {body_of(event_id)} for event_id in event_ids}
    assert world.is_settled


class JournalAway:
    """A hook of the journal: it raises until `is_away` is False."""

    def __init__(self, fault: Exception) -> None:
        self.is_away = True
        self.reads = 0
        self._fault = fault

    async def __call__(self, operation: str) -> None:
        self.reads += 1
        if self.is_away:
            raise self._fault


async def test_bodies_beyond_the_budget_are_read_back_and_are_the_same_bytes(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        world.publish("e1", "e2", "e3", "e4", "e5")
        await settle()
        held = replica.bodies.held
        world.receiver.held["e1"].set()
        await settle()

        assert held == 2 * SIZE
        assert replica.metric("bodies_read_back") == 3
        assert replica.bodies.held == 0
    assert_kept(world, "e1", "e2", "e3", "e4", "e5")


async def test_what_is_held_before_the_queues_are_loaded_counts_too(world: World) -> None:
    async with Replica(world) as replica:
        replica.barriers.hold("blocked")
        world.publish("e1", "e2", "e3", "e4", "e5")
        await settle()
        held = replica.bodies.held
        replica.barriers.let("blocked")
        await settle()

        assert held == 2 * SIZE
    assert_kept(world, "e1", "e2", "e3", "e4", "e5")


async def test_what_a_lost_partition_held_is_free(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        world.publish("e1", "e2", "e3")
        await settle()
        world.queue.cut_off(replica.channel)
        replica.channel.outbox_event()

        assert replica.bodies.held == 0


async def test_while_the_store_is_away_the_order_is_kept_and_no_attempt_is_used_up(
    world: World,
) -> None:
    world.journal.before = away = JournalAway(StoreUnavailable("away"))
    async with Replica(world) as replica:
        world.publish("e1", "e2", "e3", "e4")
        await world.run(10)
        before = list(world.receiver.arrivals)
        away.is_away = False
        await world.run(3)

        assert before == ["e1", "e2"]
        assert "store" not in replica.barriers.reached
    assert_kept(world, "e1", "e2", "e3", "e4")


@pytest.mark.parametrize("fault", [CannotDecrypt("no key"), OfNewerVersion("topic")], ids=repr)
async def test_what_the_journal_cannot_show_us_comes_again_from_the_broker(
    world: World, fault: Exception
) -> None:
    world.journal.before = JournalAway(fault)
    async with Replica(world):
        world.publish("e1", "e2", "e3", "e4")
        await world.run(10)

    assert_kept(world, "e1", "e2", "e3", "e4")


async def test_an_event_that_the_journal_no_longer_holds_comes_again_from_the_broker(
    world: World,
) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        world.publish("e1", "e2", "e3", "e4")
        await settle()
        world.journal.events.clear()
        world.receiver.held["e1"].set()
        await world.run(10)

        assert replica.bodies.wanted == set()
        assert replica.bodies.held == 0
    assert_kept(world, "e1", "e2", "e3", "e4")


async def test_a_message_without_a_body_is_read_from_the_journal(world: World) -> None:
    async with Replica(world) as replica:
        world.publish("e1", has_body=False)
        await settle()

        assert replica.metric("bodies_read_back") == 1
    assert_kept(world, "e1")


async def test_a_message_without_a_body_whose_event_is_gone_is_given_up_on_and_the_queue_goes_on(
    world: World,
) -> None:
    async with Replica(world):
        world.journal.before = away = JournalAway(StoreUnavailable("away"))
        world.publish("e1", has_body=False)
        world.publish("e2")
        await settle()
        del world.journal.events["e1"]
        away.is_away = False
        await world.run(5)

        assert [each.event_id for each in world.store.all_dead_lettered] == ["e1"]
    assert world.receiver.firsts == ["e2"]


async def test_a_queue_that_is_blocked_while_a_body_is_read_back_is_not_overtaken(
    world: World,
) -> None:
    reading = asyncio.Event()

    async def slow(_operation: str) -> None:
        await reading.wait()

    async with Replica(world):
        world.journal.before = slow
        world.publish("e2", has_body=False)
        await settle()
        world.publish("e1")
        world.queue.ready.clear()
        world.records["e1"] = Owed(Delivery(QUEUE, "e1", 1))
        await world.run(4)
        world.receiver.held["e1"] = asyncio.Event()
        reading.set()
        await settle()
        before = list(world.receiver.attempts)
        world.receiver.held["e1"].set()
        await world.run(5)

    assert "e2" not in before
    assert world.receiver.firsts[0] == "e1"


async def test_a_retry_waits_for_room_like_a_first_attempt(world: World) -> None:
    world.receiver.script = {"e1": ["fail"]}
    async with Replica(world) as replica:
        world.publish("e1", "e2")
        await settle()
        async with replica.bodies.in_use(SIZE):
            await world.run(10)
            before = list(world.receiver.arrivals)
        await world.run(2)

    assert before == []
    assert_kept(world, "e1", "e2")


# --- the room for what is read back


async def enter(room: Room, size: int, stack: AsyncExitStack, name: str, order: list[str]) -> None:
    await stack.enter_async_context(room.of(size))
    order.append(name)


async def test_a_body_larger_than_the_room_gets_it_alone_and_is_not_overtaken() -> None:
    room, order = Room(100), list[str]()
    first, large, small = AsyncExitStack(), AsyncExitStack(), AsyncExitStack()
    await enter(room, 60, first, "first", order)
    waiting = [
        asyncio.create_task(enter(room, 500, large, "large", order)),
        asyncio.create_task(enter(room, 10, small, "small", order)),
    ]
    await settle()
    before = list(order)

    await first.aclose()
    await settle()
    alone = list(order)
    await large.aclose()
    await asyncio.gather(*waiting)
    await small.aclose()

    assert before == ["first"]
    assert alone == ["first", "large"]
    assert order == ["first", "large", "small"]


async def test_whoever_gives_up_waiting_takes_no_room_and_holds_up_nobody() -> None:
    room, order = Room(100), list[str]()
    first, gone, second, whole = (AsyncExitStack() for _ in range(4))
    await enter(room, 60, first, "first", order)
    giving_up = asyncio.create_task(enter(room, 90, gone, "gone", order))
    waiting = asyncio.create_task(enter(room, 40, second, "second", order))
    await settle()

    giving_up.cancel()
    await settle()
    await waiting
    await first.aclose()
    await second.aclose()
    await enter(room, 100, whole, "whole", order)

    assert order == ["first", "second", "whole"]


async def test_a_partition_with_large_events_leaves_the_others_room() -> None:
    clock = FakeClock()
    store = DeliveryStore(FakeDeliveries(), FakeJournal(), clock, FakeIds())
    bodies = Bodies(100, store, lambda event: event.raw_payload, Metrics())
    large, small = Account(bodies), Account(bodies)
    held = [large.hold(f"e{n}", 25) for n in range(4)]

    async with asyncio.timeout(timedelta(seconds=10).total_seconds()), bodies.in_use(10):
        refused = not small.hold("e9", 10)

    large.close()
    assert held == [True, True, True, False]
    assert refused
    assert small.hold("e9", 10)
