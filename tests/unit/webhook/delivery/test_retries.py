"""Promises of retries: how often, how much memory, how much is read, and what becomes of the rest."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.webhook.delivery.queue_state import DeliveryQueue
from shared.domain.errors import BadRequest, BrokerUnavailable
from shared.domain.subscription import Delivery, DeliveryQueueKey, Subscription
from tests.support.delivery_rig import DEVICE, PARTITION, SUBSCRIPTION, FixedShare, Replica, World
from tests.support.fakes.clock import settle
from tests.support.fakes.deliveries import Owed

QUEUE = DeliveryQueueKey("config", DEVICE)
HOUR = timedelta(hours=1)
SCHEDULE = [timedelta(seconds=seconds) for seconds in (1, 5, 30, 120, 600, 3600)]


@pytest.fixture
def world() -> World:
    return World()


def owe(world: World, count: int, queue: DeliveryQueueKey = QUEUE) -> None:
    """Events that are journalled and stored, as if by an earlier process."""
    names = [f"e{number:04d}" for number in range(1, count + 1)]
    world.publish(*names, device=queue.device)
    world.queue.ready.clear()
    for number, name in enumerate(names, start=1):
        world.records[f"config:{name}"] = Owed(Delivery(queue, name, number))


# --- memory


async def test_each_blocked_queue_is_held_once_however_often_its_subscriber_comes_back() -> None:
    world = World(prefetch=1000)
    async with Replica(world, waits=[HOUR]) as replica:
        world.receiver.is_down = True
        for device in range(300):
            world.publish(f"e{device}", device=f"device {device}")
        await world.run(15)
        for number in range(20):
            world.receiver.script = {f"e{device}": ["fail"] * 99 for device in range(300)}
            world.receiver.is_down = False
            world.publish(f"good{number}", device="good")
            await world.run(2)
            world.receiver.is_down = True
            for n in range(4):
                world.publish(f"bad{number}-{n}", device=f"bad {number} {n}")
            await world.run(12)

        assert replica.retries.held <= 2 * 1000


async def test_a_subscription_that_is_gone_leaves_nothing_behind(world: World) -> None:
    """Nor comes it back, though delivery queues of others wait all the while."""
    gone = Subscription("gone", "http://gone.invalid/")
    world.receiver.is_down = True
    async with Replica(world, waits=[HOUR]) as replica:
        await replica.subscribe(SUBSCRIPTION, gone)
        world.publish("e1")
        await world.run(2)
        await replica.subscribe(SUBSCRIPTION)
        del world.records["gone:e1"]
        await world.run(22)

        assert set(replica.retries._ready) == {SUBSCRIPTION.id}
        assert set(replica.subscribers._endpoints) == {SUBSCRIPTION.id}
        assert replica.retries.held <= 2


async def test_a_queue_that_is_planned_again_and_again_is_due_once(world: World) -> None:
    async with Replica(world) as replica:
        queues, queue = replica.partitions.served[0], DeliveryQueue(QUEUE)
        for _ in range(5000):
            replica.retries.plan(queues, queue, HOUR)

        assert replica.retries.held == 1


async def test_queues_of_a_partition_that_is_gone_are_dropped(world: World) -> None:
    async with Replica(world) as replica:
        gone = replica.partitions.served[0]
        for number in range(900):
            replica.retries.plan(
                gone, DeliveryQueue(DeliveryQueueKey("config", f"old {number}")), HOUR
            )
        world.queue.cut_off(replica.channel)
        replica.channel.outbox_event()
        await world.run(2)
        now = replica.partitions.served[0]
        for number in range(200):
            replica.retries.plan(
                now, DeliveryQueue(DeliveryQueueKey("config", f"new {number}")), HOUR
            )

        assert now is not gone
        assert replica.retries.held <= 200


async def test_a_queue_that_is_free_again_is_forgotten(world: World) -> None:
    world.receiver.script = {f"e{number}": ["fail"] for number in range(10)}
    async with Replica(world) as replica:
        for number in range(10):
            world.publish(f"e{number}", device=f"device {number}")
        await settle()
        during = len(replica.partitions.served[0].queues)
        await world.run(3)

        assert (during, len(replica.partitions.served[0].queues)) == (10, 0)
    assert world.is_settled


# --- how often


async def test_events_that_a_subscriber_cannot_take_keep_to_the_schedule() -> None:
    """Three devices whose events always fail, and a good event every now and then."""
    world = World(prefetch=1000)
    world.receiver.script = {f"bad{number}": ["fail"] * 10_000 for number in range(3)}
    async with Replica(world, waits=SCHEDULE):
        for number in range(3):
            world.publish(f"bad{number}", device=f"poisoned {number}")
        for number in range(30):
            await world.run(20)
            world.publish(f"good{number}", device="good")
        await settle()
        attempts = [a for a in world.receiver.attempts if a.startswith("bad")]

    assert len([a for a in world.receiver.arrivals if a.startswith("good")]) == 30
    # 3 x 5 by the schedule; the others ask whether it is back, since nothing is taken for 20 s.
    assert len(attempts) <= 3 * 16


async def test_a_queue_is_hurried_again_after_the_next_outage(world: World) -> None:
    async with Replica(world, waits=[timedelta(seconds=1)] * 12 + [HOUR]):
        world.receiver.script = {"e1": ["fail"] * 14}  # once too often when it is hurried
        for outage in range(2):
            world.receiver.is_down = True
            world.publish(f"x{outage}", device=f"x {outage}")
            if outage == 0:
                world.publish("e1")
            world.publish(f"y{outage}", device=f"y {outage}")
            await world.run(90)
            world.receiver.is_down = False
            world.receiver.script = {"e1": ["fail"]} if outage == 0 else {}
            world.publish(f"back{outage}", device="good")
            await world.run(2)

    assert "e1" in world.receiver.arrivals


async def test_an_attempt_ahead_of_its_schedule_uses_up_none(world: World) -> None:
    """It is made since its subscriber is back."""
    owe(world, 1)
    due = world.clock.now() + HOUR
    owed = world.records["config:e0001"]
    owed.delivery = replace(owed.delivery, attempts=1, next_attempt_at=due)
    world.receiver.is_down = True
    async with Replica(world, waits=SCHEDULE):
        for number in range(4):
            world.publish(f"x{number}", device=f"x {number}")
        await world.run(15)
        world.receiver.is_down = False
        world.receiver.script = {"e0001": ["500"]}
        world.publish("back", device="good")
        await world.run(2)

    assert world.receiver.script == {"e0001": []}
    assert (owed.delivery.attempts, owed.delivery.next_attempt_at) == (1, due)


# --- how much is read


async def test_a_failing_head_does_not_make_its_whole_queue_be_read(world: World) -> None:
    owe(world, 1000)
    world.receiver.is_down = True
    async with Replica(world, waits=[timedelta(seconds=1)] * 50) as replica:
        await world.run(30)

        assert len(replica.deliveries.read_counts) > 5
        assert max(replica.deliveries.read_counts) <= 101


async def test_a_long_queue_drains_in_order_part_by_part(world: World) -> None:
    owe(world, 350)
    async with Replica(world):
        await world.run(10)

    assert world.receiver.arrivals == [f"e{number:04d}" for number in range(1, 351)]
    assert world.is_settled


async def test_a_gap_in_the_numbers_does_not_free_a_queue(world: World) -> None:
    owe(world, 2)
    world.records["config:e0002"].delivery = Delivery(QUEUE, "e0002", 5000)
    async with Replica(world):
        await world.run(3)

    assert world.receiver.arrivals == ["e0001", "e0002"]
    assert world.is_settled


async def test_queues_of_a_partition_without_new_events_are_retried_after_a_restart(
    world: World,
) -> None:
    owe(world, 3)
    async with Replica(world, share=FixedShare(range(32))):
        await world.run(5)

    assert world.is_settled


async def test_each_partition_that_is_served_is_read_by_itself_and_no_sooner_after_a_fault(
    world: World,
) -> None:
    share = FixedShare([PARTITION, (PARTITION + 1) % 32])
    async with Replica(world, share=share) as replica:
        await world.run(2)
        replica.barriers.reached.clear()
        replica.barriers.faults["blocked"] = BrokerUnavailable("away")
        await world.run(12)

        assert replica.barriers.reached.count("blocked") in range(6, 9)


# --- clocks


async def test_a_time_that_no_right_clock_can_have_set_does_not_make_a_queue_wait(
    world: World,
) -> None:
    owe(world, 1)
    ahead = world.clock.now() + timedelta(days=30)
    world.records["config:e0001"].delivery = Delivery(QUEUE, "e0001", 1, next_attempt_at=ahead)
    async with Replica(world):
        await world.run(3)

    assert world.is_settled


async def test_a_lease_of_a_replica_whose_clock_was_ahead_holds_a_queue_no_longer_than_any(
    world: World,
) -> None:
    owe(world, 1)
    world.records["config:e0001"].lease_by = "dead"
    world.records["config:e0001"].lease_until = world.clock.now() + HOUR
    async with Replica(world):
        await world.run(3)

    assert world.is_settled


# --- what cannot be delivered or stored


async def test_what_is_given_up_on_is_kept_whole_and_delivered_after_its_event_left_the_journal(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["fail"] * 4
    async with Replica(world):
        world.publish("e1")
        await world.run_beside(60)
        assert [d.event_id for d in world.store.all_dead_lettered] == ["e1"]
        world.journal.events.clear()
        await world.store.retry(None, world.clock.now())
        await world.run(5)

    assert "e1" in world.receiver.arrivals
    assert len(world.receiver.bodies["e1"]) == 1
    assert world.is_settled


async def test_a_body_too_large_to_be_kept_is_given_up_on_without_it(world: World) -> None:
    world.receiver.script["e1"] = ["fail"] * 4
    async with Replica(world) as replica:
        replica.deliveries.largest_body = 5
        world.publish("e1")
        await world.run_beside(60)

        assert [d.event_id for d in world.store.all_dead_lettered] == ["e1"]
        assert await world.store.body("config:e1") is None


async def test_an_event_that_can_never_be_stored_is_dead_lettered_and_the_queue_goes_on(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world) as replica:
        await world.run(1)
        replica.barriers.faults["store"] = BadRequest("cannot be held")
        world.publish("e1")
        await settle()
        replica.barriers.faults.clear()
        await world.run(2)
        world.publish("e2")
        await world.run(2)

    assert world.queue.dead_lettered == [("e1", "cannot be held")]
    assert world.receiver.arrivals == ["e2"]
    assert world.is_settled


async def test_what_the_store_refuses_breaks_nothing_for_what_is_stored_with_it(
    world: World,
) -> None:
    world.receiver.is_down = True
    async with Replica(world) as replica:
        replica.deliveries.refused = {"config:f1"}
        replica.barriers.hold("store")
        for name in ("d1", "e1", "f1", "g1"):
            world.publish(name, device=f"device of {name}")
        await settle()
        replica.barriers.let("store")
        await settle()

    assert sorted(world.records) == ["config:d1", "config:e1", "config:g1"]
    assert [name for name, _ in world.queue.dead_lettered] == ["f1"]


async def test_a_dead_lettered_event_is_let_go_once_for_all_its_subscriptions(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        await replica.subscribe(SUBSCRIPTION, Subscription("other", "http://other.invalid/"))
        replica.barriers.faults["store"] = BadRequest("cannot be held")
        world.receiver.script["e1"] = ["fail"]
        world.publish("e1")
        await settle()
        was_dead_lettered = list(world.queue.dead_lettered)
        world.receiver.held["e1"].set()
        await settle()

    assert was_dead_lettered == []
    assert world.queue.dead_lettered == [("e1", "cannot be held")]


async def test_rule_11_a_dead_letter_that_is_retried_comes_before_newer_events(
    world: World,
) -> None:
    """Its delivery queue was empty, and forgotten, since it had its number."""
    async with Replica(world):
        world.receiver.is_down = True
        world.publish("e1", "e2", "e3", "e4")
        await world.run(2)
        assert await world.store.skip("config:e3", b"")
        assert await world.store.skip("config:e4", b"")
        world.receiver.is_down = False
        await world.run(120)
        world.receiver.is_down = True
        world.publish("n1", "n2")
        await world.run(2)
        await world.store.retry(["config:e4"], world.clock.now())
        await world.run(5)
        await world.store.retry(["config:e3"], world.clock.now())
        world.receiver.is_down = False
        await world.run(200)

    assert world.receiver.firsts == ["e1", "e2", "e3", "e4", "n1", "n2"]


async def test_what_is_skipped_and_retried_has_its_place_again(world: World) -> None:
    async with Replica(world):
        world.receiver.is_down = True
        world.publish("e1", "e2", "e3")
        await world.run(2)
        assert await world.store.skip("config:e2", b"")
        await world.store.retry(["config:e2"], world.clock.now())
        world.receiver.is_down = False
        await world.run(120)

    assert world.receiver.firsts == ["e1", "e2", "e3"]


async def test_a_dead_letter_that_is_retried_while_its_queue_drains_comes_next(
    world: World,
) -> None:
    newer = [f"n{number}" for number in range(9)]
    async with Replica(world):
        world.receiver.is_down = True
        world.publish("e1", *newer)
        await world.run(2)
        assert await world.store.skip("config:e1", b"")
        hangs = world.receiver.held["n4"] = asyncio.Event()
        world.receiver.is_down = False
        await world.run(10)
        assert world.receiver.arrivals == newer[:4]
        await world.store.retry(["config:e1"], world.clock.now())
        await world.run(5)
        hangs.set()
        await world.run(20)

    assert world.receiver.arrivals == [*newer[:5], "e1", *newer[5:]]
