"""Promises of the budget of bodies: what is kept in memory, what is read back, and that all get on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from services.webhook.delivery.bodies import Account, Bodies, Room
from services.webhook.delivery.store import DeliveryStore
from shared.domain.enrollment import partition_of
from shared.domain.errors import CannotDecrypt, OfNewerVersion, StoreUnavailable
from shared.domain.subscription import Delivery, DeliveryQueueKey, EventFilters, Subscription
from shared.telemetry.metrics import Metrics
from tests.support.delivery_rig import DEVICE, PARTITION, SUBSCRIPTION, Replica, World
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
        async with AsyncExitStack() as others:
            for _ in range(2):  # its whole share
                await others.enter_async_context(replica.bodies.in_use(SUBSCRIPTION.id, SIZE))
            await world.run(10)
            before = list(world.receiver.arrivals)
        await world.run(2)

    assert before == []
    assert_kept(world, "e1", "e2")


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_subscription_that_hangs_leaves_the_others_room(is_stored: bool) -> None:
    """By retries of what is stored, and by first attempts of what is read back."""
    world = World(prefetch=64, budget=64 * SIZE)
    slow, quick = (Subscription(name, f"http://{name}.invalid/") for name in ("slow", "quick"))
    devices = [name for name in map(str, range(3000)) if partition_of(name) == PARTITION]
    replica = Replica(world, waits=[timedelta(seconds=1)] * 3)
    replica.subscriptions.subscriptions = [
        replace(each, filters=EventFilters(frozenset(mine)))
        for each, mine in ((slow, devices[:20]), (quick, devices[20:40]))
    ]
    for device in devices[:40]:
        world.publish(device, device=device, has_body=False)
        if is_stored:
            name = "slow" if device in devices[:20] else "quick"
            delivery = Delivery(DeliveryQueueKey(name, device), device, 1, size=SIZE)
            world.records[delivery.id] = Owed(delivery)
    if is_stored:
        world.queue.ready.clear()
    world.receiver.held = {device: asyncio.Event() for device in devices[:20]}
    async with replica:
        await world.run(3)

        assert set(world.receiver.arrivals_of["quick"]) == set(devices[20:40])
        hanging = len([name for name in world.receiver.attempts if name in devices[:20]])
        for each in world.receiver.held.values():
            each.set()
        await world.run(10)

    assert 0 < hanging <= 4
    assert set(world.receiver.arrivals_of["slow"]) == set(devices[:20])


# --- the room for what is read back


class Desk:
    """A room of 100 bytes, and who asks for a part of it, in the order in which they got it."""

    def __init__(self) -> None:
        self.room, self.order = Room(100), list[str]()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, size: int) -> None:
        """The first letter of a name is the subscription."""
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._use(name, size))
        await settle()

    async def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].set()
        await settle()

    async def _use(self, name: str, size: int) -> None:
        async with self.room.of(name[0], size):
            self.order.append(name)
            await self.ends[name].wait()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.end(*desk.ends)
    await asyncio.gather(*desk.tasks.values(), return_exceptions=True)
    assert len(set(desk.order)) == len(desk.order)
    assert desk.room.most("any") == Room(100).most("any")


async def test_a_body_larger_than_the_room_gets_in_and_is_not_overtaken_by_its_subscriptions(
    desk: Desk,
) -> None:
    for name, size in (("a1", 12), ("a2", 500), ("a3", 500), ("a4", 1), ("b1", 1)):
        await desk.ask(name, size)
    before = list(desk.order)
    await desk.end("a1")

    assert before == ["a1", "a2", "b1"]
    assert desk.order == ["a1", "a2", "b1", "a3"]


async def test_whoever_gives_up_waiting_takes_no_room_and_holds_up_nobody(desk: Desk) -> None:
    for name in ("a1", "a2", "a3", "a4"):
        await desk.ask(name, 10)
    desk.tasks["a3"].cancel()
    await settle()
    before = list(desk.order)
    await desk.end("a1")

    assert before == ["a1", "a2"]
    assert desk.order == ["a1", "a2", "a4"]


async def test_who_gives_up_when_its_room_comes_hands_it_on(desk: Desk) -> None:
    for name in ("a1", "a2", "a3", "a4"):
        await desk.ask(name, 10)
    desk.ends["a1"].set()
    while not desk.tasks["a1"].done():
        await asyncio.sleep(0)
    desk.tasks["a3"].cancel()
    await settle()

    assert desk.order == ["a1", "a2", "a4"]


async def test_many_that_hang_leave_room_for_one_more(desk: Desk) -> None:
    for subscription in "abcdefghij":
        for number in range(9):
            await desk.ask(f"{subscription}{number}", 2)
    await desk.ask("z", 1)

    assert desk.order[-1] == "z"


async def test_one_with_a_share_waits_behind_one_that_has_none(desk: Desk) -> None:
    """So that a large body gets in some time, though smaller ones would always fit."""
    for name in ("a1", "a2", "b1", "c1", "d1"):
        await desk.ask(name, 12)
    await desk.ask("e1", 500)
    await desk.ask("b2", 0)
    await desk.ask("f1", 1)
    before = list(desk.order)
    await desk.end("a1", "a2")

    assert before == ["a1", "a2", "b1", "c1", "d1", "f1"]
    assert desk.order == [*before, "e1", "b2"]


async def test_a_request_of_several_is_small_rather_than_late(desk: Desk) -> None:
    at_first = desk.room.most("z")
    for name in ("a1", "a2", "b1", "c1", "d1"):
        await desk.ask(name, 12)
    then = desk.room.most("z")
    await desk.ask("z", then)

    assert (at_first, then) == (12, 10)
    assert desk.order[-1] == "z"
    assert desk.room.most("z") == at_first


async def test_a_partition_with_large_events_leaves_the_others_room() -> None:
    clock = FakeClock()
    store = DeliveryStore(FakeDeliveries(), FakeJournal(), clock, FakeIds())
    bodies = Bodies(100, store, lambda event: event.raw_payload, Metrics())
    large, small = Account(bodies), Account(bodies)
    held = [large.hold(f"e{n}", 25) for n in range(4)]

    async with asyncio.timeout(timedelta(seconds=10).total_seconds()), bodies.in_use("s", 10):
        refused = not small.hold("e9", 10)

    large.close()
    assert held == [True, True, True, False]
    assert refused
    assert small.hold("e9", 10)


async def test_others_that_keep_coming_do_not_hold_up_a_large_body_for_ever() -> None:
    room = Room(1600)
    held = [room.of(f"s{number}", 130) for number in range(8)]
    for share in held:
        await share.__aenter__()
    large = asyncio.ensure_future(room.of("large", 200).__aenter__())
    await settle()
    taken = 0
    while not large.done() and taken < 1000:
        share = room.of(f"t{taken}", 130)
        coming = asyncio.ensure_future(share.__aenter__())
        await settle()
        await held.pop(0).__aexit__()
        held.append(share)
        await settle()
        taken += 1
        if not coming.done():
            await held.pop(0).__aexit__()
            await settle()

    assert large.done()
