"""Rule 11: subscriptions that send nothing for now, and receivers that fail as a whole."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.webhook.delivery.filters import Filters
from services.webhook.history.worker import ReplayWorker
from shared.domain.event import Event
from shared.domain.subscription import (
    Delivery,
    DeliveryLimits,
    DeliveryQueueKey,
    DeliveryState,
    Subscription,
    SubscriptionState,
)
from tests.support.delivery_rig import DEVICE, SUBSCRIPTION, FixedShare, Replica, World
from tests.support.fakes.clock import settle
from tests.support.fakes.deliveries import Owed
from tests.support.fakes.event_queue import QueuedEvent
from tests.support.fakes.subscriptions import FakeSubscriptions
from tests.support.fakes.webhook_history import FakeDeliveryRecords, FakeReplays

MADE = Subscription("made", "http://made.invalid/", revision="r0")
SHORT = [timedelta(seconds=1)] * 3
HELD = [SubscriptionState.PAUSED, SubscriptionState.DISABLED, SubscriptionState.PREPARING]
DAY = 86_400


@pytest.fixture
def world() -> World:
    return World()


def made(state: SubscriptionState) -> Subscription:
    return replace(MADE, state=state)


def store_history(world: World, *names: str, device: str = DEVICE) -> None:
    """What the worker that prepares a subscription stores of the journal."""
    world.publish(*names, device=device)
    world.queue.ready.clear()
    queue = DeliveryQueueKey("made", device)
    an_hour_ago = world.clock.time_ns() - 3600 * 10**9
    for number, name in enumerate(names, start=an_hour_ago):
        world.records[f"made:{name}"] = Owed(Delivery(queue, name, number))


# --- held, and active again


@pytest.mark.parametrize("state", HELD)
async def test_rule_11_while_it_is_held_events_are_stored_and_follow_in_order(
    world: World, state: SubscriptionState
) -> None:
    async with Replica(world, waits=SHORT) as replica:
        await replica.subscribe(made(state))
        world.publish("e1", "e2")
        world.publish("f1", device="another")
        await world.run(30)
        attempts = list(world.receiver.attempts)
        stored = {owed.delivery.attempts for owed in world.records.values()}
        was_acked = world.queue.is_empty
        await replica.subscribe(MADE)
        world.publish("e3")
        await world.run(6)

    assert attempts == []
    assert was_acked
    assert stored == {0}
    assert [name for name in world.receiver.firsts if name[0] == "e"] == ["e1", "e2", "e3"]
    assert world.is_settled


async def test_rule_11_what_waited_before_a_pause_waits_on_at_no_events_cost(world: World) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world, waits=[timedelta(seconds=5)] * 3) as replica:
        await replica.subscribe(MADE)
        world.publish("e1", "e2")
        await world.run(1)
        await replica.subscribe(made(SubscriptionState.PAUSED))
        await world.jump(2 * DAY)
        during = list(world.receiver.attempts)
        attempts = world.records["made:e1"].delivery.attempts
        await replica.subscribe(MADE)
        await world.run(1)

    assert during == ["e1"]
    assert attempts == 1
    assert world.receiver.firsts == ["e1", "e2"]
    assert world.is_settled


async def test_rule_11_a_pause_outlives_the_process(world: World) -> None:
    async with Replica(world) as first:
        await first.subscribe(made(SubscriptionState.PAUSED))
        world.publish("e1")
        await settle()
    second = Replica(world)
    second.subscriptions.subscriptions = [made(SubscriptionState.PAUSED)]
    async with second:
        world.publish("e2")
        await world.run(10)
        during = list(world.receiver.attempts)
        await second.subscribe(MADE)
        await world.run(5)

    assert during == []
    assert world.receiver.firsts == ["e1", "e2"]


async def test_a_paused_one_holds_up_no_other(world: World) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(made(SubscriptionState.PAUSED), SUBSCRIPTION)
        world.publish("e1")
        await settle()

    assert world.receiver.arrivals_of == {"config": ["e1"]}


async def test_a_change_is_followed_within_two_seconds(world: World) -> None:
    async with Replica(world) as replica:
        replica.subscriptions.subscriptions = [made(SubscriptionState.PAUSED)]
        await world.run(1.1)
        world.publish("e1")
        await settle()

    assert list(world.records) == ["made:e1"]


# --- deleted


async def test_one_that_is_deleted_gets_nothing_and_leaves_nothing(world: World) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(made(SubscriptionState.PAUSED))
        world.publish("e1")
        await settle()
        await replica.subscribe(made(SubscriptionState.DELETED))
        world.publish("e2")
        await world.run(5)
        world.records.clear()  # its deliveries are removed, then it
        await replica.subscribe()
        await world.run(130)

        assert world.receiver.attempts == []
        assert world.is_settled
        assert replica.partitions.served[0].queues == {}
        assert replica.retries.held == 0


async def test_an_event_that_waits_for_a_subscription_that_is_deleted_meanwhile_is_acked(
    world: World,
) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(MADE)
        replica.barriers.hold("blocked")
        world.publish("e1")
        await settle()
        replica.subscribers._known.clear()
        await replica.subscribe()
        replica.barriers.let("blocked")
        await world.run(2)

    assert world.is_settled
    assert world.receiver.attempts == []


# --- history


async def test_rule_11_live_events_stay_behind_the_history_that_is_stored_meanwhile(
    world: World,
) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(made(SubscriptionState.PREPARING))
        world.publish("live1")
        await settle()
        store_history(world, "past1", "past2")
        world.publish("live2")
        await settle()
        numbers = [owed.delivery.number for owed in world.records.values()]
        await replica.subscribe(MADE)
        world.publish("live3")
        await world.run(10)

    assert numbers[0] == world.journal.events["live1"].created_at
    assert world.receiver.firsts == ["past1", "past2", "live1", "live2", "live3"]
    assert world.is_settled


async def test_rule_11_what_was_not_read_since_it_was_prepared_is_read_before_a_live_event_goes(
    world: World,
) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(made(SubscriptionState.PREPARING))
        await world.run(4)
        replica.barriers.hold("blocked")
        store_history(world, "past1", "past2")
        await replica.subscribe(MADE)
        world.publish("live1", "live2")
        await world.run(2)
        before = list(world.receiver.attempts)
        replica.barriers.let("blocked")
        await world.run(3)

    assert before == []
    assert world.receiver.firsts == ["past1", "past2", "live1", "live2"]
    assert world.is_settled


async def test_rule_11_one_that_was_prepared_before_it_was_first_seen_is_read_first_too(
    world: World,
) -> None:
    async with Replica(world) as replica:
        await world.run(4)
        store_history(world, "past1")
        await replica.subscribe(SUBSCRIPTION, replace(MADE, starts_at=1))
        world.publish("live1")
        await world.run(3)

    assert world.receiver.arrivals_of["made"] == ["past1", "live1"]


async def test_rule_11_a_read_that_began_before_it_was_prepared_is_not_enough(world: World) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(made(SubscriptionState.PREPARING))
        await world.run(0.5)
        replica.barriers.reached.clear()
        replica.barriers.hold("blocked")
        while "blocked" not in replica.barriers.reached:
            await world.run(0.5)
        await replica.subscribe(made(SubscriptionState.PREPARING))
        await world.run(0.1)
        replica.barriers.let("blocked")
        await settle()
        store_history(world, "past1")
        await replica.subscribe(MADE)
        world.publish("live1")
        await settle()
        at_once = list(world.receiver.attempts)
        await world.run(5)

    assert at_once == []
    assert world.receiver.firsts == ["past1", "live1"]


# --- failing as a whole


async def test_rule_11_while_it_fails_as_a_whole_no_event_uses_up_its_schedule(
    world: World,
) -> None:
    async with Replica(world, waits=SHORT) as replica:
        world.receiver.is_down = True
        for number in range(5):
            world.publish(f"e{number}", device=f"device {number}")
        for _ in range(20):
            await world.jump(DAY / 2)
        assert world.store.all_dead_lettered == []
        assert max(owed.delivery.attempts for owed in world.records.values()) <= 2
        world.receiver.is_down = False
        await world.jump(62)

        assert replica.metric("deliveries_given_up") == 0
    assert len(world.receiver.firsts) == 5
    assert world.is_settled


async def test_rule_11_processes_that_start_again_and_again_use_up_no_schedule(
    world: World,
) -> None:
    world.receiver.is_down = True
    for number in range(8):
        async with Replica(world, waits=SHORT, share=FixedShare(range(32))):
            world.publish(f"e{number}", device=f"device {number}")
            await world.run(8)

    assert world.store.all_dead_lettered == []
    assert max(owed.delivery.attempts for owed in world.records.values()) <= 2


async def test_rule_11_one_attempt_at_a_time_asks_and_pauses_grow(world: World) -> None:
    async with Replica(world, waits=SHORT):
        world.receiver.is_down = True
        for number in range(50):
            world.publish(f"e{number}", device=f"device {number}")
        await world.run(12)
        attempts = []
        for _ in range(4):
            before = len(world.receiver.attempts)
            await world.run(60)
            attempts.append(len(world.receiver.attempts) - before)

    assert attempts[0] <= 6
    assert attempts[1:] == [1, 1, 1]


async def test_rule_11_each_waiting_queue_asks_in_turn_though_nothing_is_due(world: World) -> None:
    async with Replica(world, waits=[timedelta(hours=6)]):
        world.receiver.is_down = True
        for number in range(4):
            world.publish(f"e{number}", device=f"device {number}")
        await world.run(1)
        before = len(world.receiver.attempts)
        for _ in range(4):
            await world.jump(120)

    assert sorted(world.receiver.attempts[before:][:4]) == ["e0", "e1", "e2", "e3"]


async def test_what_an_operator_asks_for_is_tried_at_once_in_an_outage_too(world: World) -> None:
    async with Replica(world, waits=SHORT):
        world.receiver.is_down = True
        world.publish("e1")
        await world.run(300)
        before = len(world.receiver.attempts)
        await world.store.retry(["config:e1"], world.clock.now())
        await world.run(5)

    assert len(world.receiver.attempts) == before + 1


async def test_rule_11_only_what_it_cannot_take_is_dead_lettered(world: World) -> None:
    world.receiver.script["e1"] = ["fail"] * 500
    async with Replica(world, waits=SHORT):
        world.publish("e1", "e2")
        await world.run(100)
        while_it_takes_nothing = list(world.store.all_dead_lettered)
        await world.run_beside(30)

    assert while_it_takes_nothing == []
    assert [each.event_id for each in world.store.all_dead_lettered] == ["e1"]
    assert "e2" in world.receiver.arrivals


async def test_rule_11_what_the_journal_forgot_meanwhile_is_dead_lettered_without_its_body(
    world: World,
) -> None:
    async with Replica(world, waits=SHORT):
        world.receiver.is_down = True
        world.publish("e1", "e2")
        await world.run(30)
        world.journal.events.pop("e1")
        world.receiver.is_down = False
        await world.run(70)

    assert [each.event_id for each in world.store.all_dead_lettered] == ["e1"]
    assert world.receiver.arrivals == ["e2"]


async def test_a_subscription_keeps_to_its_own_schedule(world: World) -> None:
    own = replace(MADE, limits=DeliveryLimits(retry_schedule=(timedelta(seconds=20),) * 2))
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world, waits=SHORT) as replica:
        await replica.subscribe(own)
        world.publish("e1")
        await world.run(19)
        before = len(world.receiver.attempts)
        await world.run(2)

    assert before == 1
    assert world.receiver.arrivals == ["e1"]


async def test_of_a_schedule_of_one_wait_nothing_is_dead_lettered_in_an_outage(
    world: World,
) -> None:
    async with Replica(world, waits=[timedelta(seconds=1)]):
        world.receiver.is_down = True
        world.publish("e1")
        await world.run(30)

        assert world.records["config:e1"].delivery.state is DeliveryState.PENDING


@pytest.mark.parametrize("state", [SubscriptionState.PAUSED, SubscriptionState.DELETED])
async def test_a_change_is_followed_in_the_middle_of_a_backlog(
    world: World, state: SubscriptionState
) -> None:
    store_history(world, "e1", "e2", "e3")
    world.receiver.held["e1"] = asyncio.Event()
    replica = Replica(world)
    replica.subscriptions.subscriptions = [MADE]
    async with replica:
        await world.run(4)
        await replica.subscribe(made(state))
        world.receiver.held["e1"].set()
        await world.run(10)

    assert world.receiver.attempts == ["e1"]


async def test_rule_11_live_events_are_stored_behind_the_history_after_a_read_too(
    world: World,
) -> None:
    async with Replica(world) as replica:
        await replica.subscribe(SUBSCRIPTION)
        world.publish("other", device="other")
        await settle()
        await replica.subscribe(made(SubscriptionState.PREPARING))
        await world.run(8)
        world.publish("live1")
        await settle()

        number = world.records["made:live1"].delivery.number
        assert number == world.journal.events["live1"].created_at


# --- history of what is stored live too


class Preparing:
    """A subscription that begins with history, and the worker that stores it beside a replica."""

    def __init__(self, world: World, configured: Subscription | None = None) -> None:
        self.world = world
        self.subscriptions = FakeSubscriptions(configured=configured)
        self.worker = ReplayWorker(
            FakeReplays(),
            self.subscriptions,
            world.store,
            FakeDeliveryRecords(world.records),
            world.journal,
            Filters(self._read, world.enrollments, world.commands),
            world.clock,
            world.ids,
            "w",
        )

    def replica(self) -> Replica:
        replica = Replica(self.world)
        replica.subscribers._subscriptions = self.subscriptions
        return replica

    async def add(self, starts_at: int) -> None:
        made = self.world.clock.now()
        preparing = replace(MADE, state=SubscriptionState.PREPARING, starts_at=starts_at)
        await self.subscriptions.add(replace(preparing, created_at=made, changed_at=made))

    async def work(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.worker.look()
            await self.world.run(1)

    async def _read(self, event_id: str) -> Event | None:
        return self.world.journal.events.get(event_id)


async def test_rule_11_history_does_not_overtake_what_was_stored_live(world: World) -> None:
    """The relay publishes an event late: the worker has it before."""
    preparing = Preparing(world)
    async with preparing.replica():
        await preparing.add(world.clock.time_ns())
        await world.run(5)
        world.publish("first")
        await world.run(3)
        world.write("second")
        await preparing.work(22)
        world.queue.publish(QueuedEvent("second", DEVICE))
        await preparing.work(15)
        await world.run(60)

    assert world.receiver.arrivals_of["made"] == ["first", "second"]


async def test_rule_11_a_backlog_in_the_broker_keeps_its_order_beside_the_history() -> None:
    """Another receiver is slow: so long, no more than the prefetch is stored live."""
    world = World(prefetch=4)
    preparing = Preparing(world, configured=SUBSCRIPTION)
    names = [f"e{number}" for number in range(8)]
    start = world.clock.time_ns()
    world.write(*names)
    await world.run(5)
    hangs = world.receiver.held["e0"] = asyncio.Event()
    async with preparing.replica():
        await preparing.add(start)
        await world.run(2)
        world.queue.publish(*(QueuedEvent(name, DEVICE) for name in names))
        await world.run(1)
        await preparing.work(20)
        world.receiver.held.pop("e0")
        hangs.set()
        await preparing.work(20)
        await world.run(60)

    assert world.receiver.arrivals_of["made"] == names


async def test_rule_11_what_a_replica_took_before_it_knew_the_subscription_keeps_its_place(
    world: World,
) -> None:
    preparing = Preparing(world)
    async with preparing.replica():
        start = world.clock.time_ns()
        world.publish("unknown")
        await preparing.add(start)
        await world.run(3)
        world.publish("live")
        await preparing.work(40)
        await world.run(60)

    assert world.receiver.arrivals_of["made"] == ["unknown", "live"]
