"""Rule 11: delivery queues. The interleavings in which its parts were found to be needed, and what follows.

Every test ends with the same three facts: every event arrived, first arrivals came in the order of
the queue, and nothing is owed any more, neither in the queue nor in the store.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.domain.errors import StoreUnavailable
from shared.domain.event import Topic
from shared.domain.subscription import Delivery, DeliveryQueueKey, DeliveryState, Subscription
from shared.ports.deliveries import Backlog
from tests.support.delivery_rig import DEVICE, PARTITION, SUBSCRIPTION, Replica, World
from tests.support.fakes.clock import settle


@pytest.fixture
def world() -> World:
    return World()


def assert_kept(world: World, *event_ids: str) -> None:
    assert world.receiver.firsts == list(event_ids)
    assert world.is_settled
    assert all(len(bodies) == 1 for bodies in world.receiver.bodies.values())


# --- the ordinary course


async def test_an_event_is_delivered_at_once_and_never_stored(world: World) -> None:
    async with Replica(world) as replica:
        world.publish("e1")
        await settle()

    assert_kept(world, "e1")
    assert "store" not in replica.barriers.reached
    assert replica.metric("deliveries_delivered") == 1


async def test_events_for_nobody_are_acked(world: World) -> None:
    async with Replica(world) as replica:
        await replica.subscribe()
        world.publish("e1")
        await settle()

    assert world.is_settled


async def test_events_of_one_device_go_one_after_the_other(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world):
        world.publish("e1", "e2")
        await settle()
        before = list(world.receiver.attempts)
        world.receiver.held["e1"].set()
        await settle()

    assert before == ["e1"]
    assert_kept(world, "e1", "e2")


async def test_another_device_does_not_wait_for_a_queue_that_hangs(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world):
        world.publish("e1")
        world.publish("f1", device="another")
        await settle()

        assert world.receiver.arrivals == ["f1"]


async def test_behind_a_subscriber_that_hangs_events_are_stored_and_leave_the_queue(
    world: World,
) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    slots = SUBSCRIPTION.limits.concurrency
    world.queue.prefetch = slots + 1
    hanging = [f"e{number}" for number in range(slots)]
    world.receiver.held = {event: world.receiver.held["e1"] for event in hanging}
    async with Replica(world, patience=timedelta(milliseconds=10)):
        for event in hanging:
            world.publish(event, device=f"device of {event}")
        world.publish("f1", device="another")
        await world.run(0.1)

        assert [owed.delivery.attempts for owed in world.records.values()] == [0]
        assert [event.event_id for event in world.queue.channels[0].unacked] == hanging
        world.receiver.held["e1"].set()
        await world.run(2)
    assert sorted(world.receiver.arrivals) == sorted([*hanging, "f1"])
    assert world.is_settled


async def test_a_failed_event_is_stored_acked_and_tried_again_by_the_schedule(world: World) -> None:
    world.receiver.script["e1"] = ["fail", "fail"]
    async with Replica(world) as replica:
        world.publish("e1")
        await settle()
        was_acked = world.queue.is_empty
        await world.run(1.2)
        tried_after_first_wait = len(world.receiver.attempts)
        await world.run(4.5)
        tried_before_second_wait = len(world.receiver.attempts)
        await world.run(1)

    assert was_acked
    assert (tried_after_first_wait, tried_before_second_wait) == (2, 2)
    assert replica.metric("deliveries_retried") == 1
    assert_kept(world, "e1")


async def test_events_behind_a_failed_one_are_stored_without_an_attempt(world: World) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world):
        world.publish("e1", "e2", "e3")
        await settle()
        owed = world.store.in_queue(DEVICE)
        attempts = list(world.receiver.attempts)
        was_acked = world.queue.is_empty
        await world.run(2)

    assert owed == ["e1", "e2", "e3"]
    assert attempts == ["e1"]
    assert was_acked
    assert_kept(world, "e1", "e2", "e3")


async def test_a_free_queue_delivers_at_once_again(world: World) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world) as replica:
        world.publish("e1")
        await world.run(2)
        replica.barriers.reached.clear()
        world.publish("e2")
        await settle()

        assert "store" not in replica.barriers.reached
    assert_kept(world, "e1", "e2")


async def test_what_the_schedule_gives_up_on_is_kept_and_the_queue_goes_on(world: World) -> None:
    world.receiver.script["e1"] = ["fail"] * 4
    async with Replica(world) as replica:
        world.publish("e1", "e2")
        await world.run_beside(60)

        dead_lettered = world.store.all_dead_lettered
    assert [(d.event_id, d.state, d.attempts, d.last_error) for d in dead_lettered] == [
        ("e1", DeliveryState.DEAD_LETTERED, 4, "answered 500")
    ]
    assert [name for name in world.receiver.arrivals if name[0] == "e"] == ["e2"]
    assert replica.metric("deliveries_given_up") == 1


async def test_what_was_given_up_on_is_delivered_after_a_retry_by_hand(world: World) -> None:
    world.receiver.script["e1"] = ["fail"] * 4
    async with Replica(world):
        world.publish("e1")
        await world.run_beside(60)
        await world.store.retry(None, world.clock.now())
        await world.run(5)

    assert "e1" in world.receiver.arrivals
    assert world.is_settled


async def test_an_event_that_left_the_journal_is_given_up_on(world: World) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world):
        world.publish("e1", "e2")
        await settle()
        del world.journal.events["e1"]
        await world.run(2)

        assert [d.event_id for d in world.store.all_dead_lettered] == ["e1"]
    assert world.receiver.arrivals == ["e2"]


async def test_each_subscription_has_a_queue_of_its_own(world: World) -> None:
    async with Replica(world) as replica:
        other = Subscription("other", "http://other.invalid/")
        await replica.subscribe(SUBSCRIPTION, other)
        world.receiver.script["e1"] = ["take", "fail"]
        world.publish("e1")
        await settle()

        owed = [owed.delivery.queue for owed in world.records.values()]
    assert owed == [DeliveryQueueKey("other", DEVICE)]
    assert world.queue.is_empty


async def test_a_topic_of_our_own_goes_to_the_subscriptions_that_asked_for_it(world: World) -> None:
    async with Replica(world) as replica:
        topics = frozenset({Topic.COMMAND_EXPIRED.value})
        asked = Subscription("asked", "http://other.invalid/", topics)
        await replica.subscribe(SUBSCRIPTION, asked)
        world.publish("own", topic=Topic.COMMAND_EXPIRED)
        await settle()
        only_own = list(world.receiver.arrivals)
        world.publish("theirs")
        await settle()

    assert only_own == ["own"]
    assert sorted(world.receiver.arrivals) == ["own", "theirs", "theirs"]
    assert world.is_settled


async def test_a_topic_that_nobody_asked_for_is_acked_and_stored_for_nobody(world: World) -> None:
    world.receiver.is_down = True
    async with Replica(world):
        world.publish("own", topic=Topic.COMMAND_EXPIRED)
        await settle()

    assert world.is_settled
    assert world.receiver.attempts == []


def test_a_topic_of_our_own_that_only_a_newer_version_knows_is_wanted_by_nobody() -> None:
    asked = Subscription("a", "http://a.invalid/", frozenset({Topic.COMMAND_EXPIRED.value}))

    assert not asked.wants("macromdm.NotYetKnown")
    assert asked.wants("mdm.NotYetKnown")


async def test_after_an_outage_all_queues_drain_without_waiting_for_their_schedule() -> None:
    world = World(prefetch=1000)
    world.receiver.is_down = True
    async with Replica(world, waits=[timedelta(seconds=1), timedelta(hours=1)]):
        for device in range(200):
            world.publish(f"e{device}", device=f"device {device}")
        await world.run(30)
        world.receiver.is_down = False
        world.publish("new")
        await world.run(3)

    assert len(world.receiver.firsts) == 201
    assert world.is_settled


async def test_an_attempt_ahead_of_the_schedule_costs_none_of_it(world: World) -> None:
    world.receiver.script["e1"] = ["fail"] * 3
    async with Replica(world, waits=[timedelta(seconds=1)] * 2 + [timedelta(hours=1)] * 2):
        world.publish("e1")
        await world.run_beside(5)
        world.receiver.is_down = True
        for number in range(3):
            world.publish(f"f{number}", device=f"other {number}")
        await world.run(20)
        before = world.records["config:e1"].delivery
        attempts = world.receiver.attempts.count("e1")
        world.receiver.is_down = False
        world.receiver.script["e1"] = ["fail"]
        world.publish("g1", device="third")
        await world.run(1)

        assert world.receiver.attempts.count("e1") == attempts + 1
        assert world.records["config:e1"].delivery == before


async def test_while_a_receiver_is_down_retries_trickle() -> None:
    world = World(prefetch=1000)
    world.receiver.is_down = True
    async with Replica(world, waits=[timedelta(seconds=1)] * 50):
        for device in range(200):
            world.publish(f"e{device}", device=f"device {device}")
        await world.run(15)
        before = len(world.receiver.attempts)
        await world.run(1)

        assert len(world.receiver.attempts) - before <= 60


# --- the interleavings


async def test_rule_11_time_key_the_order_in_a_queue_is_a_number_not_a_time(world: World) -> None:
    """Clocks differ: e2 carries the earlier id and the earlier time."""
    world.receiver.script["z-first"] = ["fail"]
    async with Replica(world):
        world.publish("z-first")
        world.publish("a-second")
        await world.run(2)

    assert_kept(world, "z-first", "a-second")


async def test_rule_11_naive_unblock_a_store_under_way_keeps_the_queue_blocked(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world) as replica:
        replica.barriers.hold("store")
        world.publish("e1", "e2")
        await settle()
        replica.partitions.served[0].learn(
            {DeliveryQueueKey("config", DEVICE): Backlog(1, 1, "e1")}
        )
        await world.run(0.5)
        assert "waiting" in replica.barriers.reached  # the empty delivery queue was read
        replica.barriers.let("store")
        await world.run(3)

    assert_kept(world, "e1", "e2")


async def test_rule_11_naive_unblock_a_read_that_began_before_a_store_frees_nothing(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world) as replica:
        world.publish("e1")
        await settle()
        del world.records["config:e1"]  # another replica has delivered it
        world.receiver.arrivals.append("e1")
        replica.answers.hold("waiting")
        await world.run(1.2)
        assert "waiting" in replica.answers.reached  # the empty answer is on its way
        world.publish("e2")
        await settle()
        assert world.store.in_queue(DEVICE) == ["e2"]
        replica.answers.let("waiting")
        await settle()
        world.publish("e3")
        await world.run(10)

    assert world.receiver.firsts == ["e1", "e2", "e3"]
    assert world.is_settled


async def test_rule_11_naive_unblock_an_empty_read_counts_less_than_a_newer_one_that_found_something(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world) as replica:
        world.publish("e1", "e2")
        await settle()
        world.records.clear()  # another replica has delivered both
        replica.answers.hold("waiting")
        await world.run(1.2)
        await world.store.store([Delivery(DeliveryQueueKey("config", DEVICE), "e2", 2)])
        await world.run(4)  # the delivery queues are read again meanwhile
        replica.answers.let("waiting")
        await settle()

        assert replica.partitions.served[0].blocked_count == 1
        await world.run(2)
    assert world.receiver.arrivals == ["e2"]
    assert world.is_settled


async def test_rule_11_no_load_blocked_queues_are_loaded_before_the_first_event(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world):
        world.publish("e1")
        await settle()
    async with Replica(world):
        world.publish("e2")
        await world.run(40)

    assert_kept(world, "e1", "e2")


async def test_rule_11_no_load_a_load_from_before_the_takeover_is_not_enough(world: World) -> None:
    """A passive consumer has read an empty delivery queue; the active one stores there and dies."""
    world.receiver.script["e1"] = ["fail"]
    active, passive = Replica(world), Replica(world)
    async with active, passive:
        await world.run(4)
        passive.barriers.hold("blocked")
        world.publish("e1")
        await settle()
        await active.kill()
        world.publish("e2")
        await settle()
        attempts = list(world.receiver.attempts)
        passive.barriers.let("blocked")
        await world.run(40)

    assert attempts == ["e1"]
    assert_kept(world, "e1", "e2")


async def test_rule_11_no_load_an_empty_read_of_the_time_before_frees_nothing(world: World) -> None:
    """A passive consumer reads the delivery queue empty; then the active one stores; then it takes over."""
    queue = DeliveryQueueKey("config", DEVICE)
    await world.store.store([Delivery(queue, "e0", 1)])
    world.receiver.script["e1"] = ["fail"]
    active, passive = Replica(world), Replica(world)
    async with active:
        active.barriers.hold("delivered")
        world.publish("e0")
        world.queue.ready.clear()
        active.channel.unacked.clear()
        await settle()
        async with passive:
            await world.run(3)  # knows that the delivery queue is blocked, by e0
            passive.answers.hold("waiting")
            active.barriers.let("delivered")
            await world.run(1)
            world.publish("e1")
            await settle()
            await active.kill()
            world.publish("e2")
            await world.run(1)
            passive.answers.let("waiting")
            await world.run(60)

    assert world.receiver.firsts == ["e0", "e1", "e2"]
    assert world.is_settled


async def test_rule_11_cancel_a_partition_is_given_up_by_closing_its_channel(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    one, two = Replica(world), Replica(world)
    async with one, two:
        world.publish("e1", "e2")
        await settle()
        one.share.partitions = frozenset()
        await world.run(3)
        assert world.receiver.attempts == ["e1"]  # the other one does not get e2 meanwhile
        world.receiver.held["e1"].set()
        await world.run(3)

        assert one.channel.is_dead
    assert_kept(world, "e1", "e2")


async def test_rule_11_cancel_what_is_not_acked_goes_to_the_next_consumer(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    one, two = Replica(world), Replica(world)
    async with one, two:
        world.publish("e1", "e2")
        await settle()
        await one.kill()
        world.receiver.held["e1"].set()
        await world.run(3)

    assert_kept(world, "e1", "e2")


async def test_rule_11_no_sweep_what_a_cut_off_replica_stores_late_is_found(world: World) -> None:
    world.receiver.script["e1"] = ["fail", "fail"]
    one, two = Replica(world), Replica(world)
    async with one, two:
        world.publish("e1")
        one.barriers.hold("store")
        await settle()
        world.queue.cut_off(
            one.channel
        )  # e1 goes to the other, which loads an empty delivery queue
        await world.run(1)
        one.barriers.let("store")
        await settle()
        await one.kill()
        await world.run(60)

    assert_kept(world, "e1")


async def test_rule_11_no_sweep_a_store_after_the_new_consumer_has_delivered_is_cleared(
    world: World,
) -> None:
    world.receiver.script["e1"] = ["lose"]
    one, two = Replica(world), Replica(world)
    async with one, two:
        world.publish("e1")
        one.barriers.hold("store")
        await settle()
        world.queue.cut_off(one.channel)
        await world.run(1)
        assert world.queue.is_empty
        one.barriers.let("store")
        await settle()
        await one.kill()
        assert world.store.in_queue(DEVICE) == ["e1"]
        await world.run(60)

    assert_kept(world, "e1")


def publish_at_once(world: World, event_id: str) -> None:
    """Each such event has the same time."""
    world.publish(event_id)
    world.journal.events[event_id] = replace(world.journal.events[event_id], created_at=1)


async def test_rule_11_arrival_the_number_of_an_event_that_is_stored_already_counts(
    world: World,
) -> None:
    """A cut off replica stores the second event under its own, higher number, after the new one has
    loaded an empty delivery queue. Equal numbers would go by id, so the third event's comes first; all
    three have one time."""
    world.receiver.script = {"e1": ["fail"], "z2": ["fail"]}
    one, two = Replica(world), Replica(world)
    async with one, two:
        publish_at_once(world, "e1")
        await settle()
        one.barriers.hold("store")
        publish_at_once(world, "z2")
        await settle()
        world.records.clear()  # e1 was delivered by the retry of the one that is cut off
        world.receiver.arrivals.append("e1")
        two.barriers.hold("store")
        two.barriers.hold("waiting")
        world.queue.cut_off(one.channel)
        await world.run(0.5)
        publish_at_once(world, "a3")
        one.barriers.let("store")
        await settle()
        await one.kill()
        stored_by_one = world.records["config:z2"].delivery.number
        two.barriers.let("store")
        await settle()
        numbers = {o.delivery.event_id: o.delivery.number for o in world.records.values()}
        two.barriers.let("waiting")
        await world.run(60)

    assert stored_by_one == 2
    assert numbers == {"z2": 2, "a3": 3}
    assert_kept(world, "e1", "z2", "a3")


async def test_rule_11_an_older_number_met_while_draining_makes_the_queue_be_read_again(
    world: World,
) -> None:
    """What was read of the delivery queue may lack what lies before it."""
    queue = DeliveryQueueKey("config", DEVICE)
    async with Replica(world) as replica:
        world.publish("e3", "e4")
        await settle()
        world.receiver.arrivals.clear()
        await world.store.store([Delivery(queue, "e3", 7)])
        await world.store.store([Delivery(queue, "e4", 8)])
        world.receiver.held["e3"] = asyncio.Event()
        await world.run(4)
        await world.store.store([Delivery(queue, "e2", 2)])
        world.publish("e2")
        await settle()
        world.receiver.held["e3"].set()
        await world.run(2)

        assert replica.channel.unacked == []
    assert world.receiver.arrivals == ["e3", "e2", "e4"]
    assert world.is_settled


async def test_rule_11_a_lease_of_another_keeps_the_whole_queue_waiting(world: World) -> None:
    queue = DeliveryQueueKey("config", DEVICE)
    world.publish("e1", "e2")
    world.queue.ready.clear()
    await world.store.store([Delivery(queue, "e1", 1)])
    await world.store.store([Delivery(queue, "e2", 2)])
    now = world.clock.now()
    await world.store.lease([Delivery(queue, "e1", 1)], "other", now + timedelta(seconds=35), now)
    async with Replica(world):
        await world.run(34)
        before = list(world.receiver.attempts)
        await world.run(5)

    assert before == []
    assert_kept(world, "e1", "e2")


async def test_rule_11_a_replica_that_wakes_past_its_lease_undoes_nothing(world: World) -> None:
    """Its failed attempt comes back after another one has delivered."""
    world.receiver.script["e1"] = ["fail", "fail"]
    one, two = Replica(world), Replica(world)
    async with one, two:
        world.publish("e1")
        one.barriers.hold("failed")
        await world.run(1.5)
        world.queue.cut_off(one.channel)
        await world.run(60)
        assert world.receiver.arrivals == ["e1"]
        one.barriers.let("failed")
        await world.run(60)

    assert_kept(world, "e1")


# --- losing and moving


async def test_a_lost_channel_is_opened_again_and_nothing_is_lost(world: World) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        world.publish("e1", "e2")
        await settle()
        lost = replica.channel
        world.queue.cut_off(lost)
        lost.outbox_event()
        world.receiver.held.clear()
        await world.run(2)

        assert replica.channel is not lost
    assert_kept(world, "e1", "e2")


async def test_draining_finishes_the_attempt_under_way_and_gives_the_rest_back(
    world: World,
) -> None:
    world.receiver.held["e1"] = asyncio.Event()
    async with Replica(world) as replica:
        world.publish("e1", "e2")
        await settle()
        draining = asyncio.ensure_future(replica.partitions.drain())
        await settle()
        world.receiver.held["e1"].set()
        await draining

        assert world.receiver.arrivals == ["e1"]
        assert [event.event_id for event in world.queue.ready] == ["e2"]
        assert replica.share.partitions == frozenset()


@pytest.mark.parametrize("operation", ["store", "waiting", "lease", "delivered", "failed"])
async def test_rule_11_killed_at_any_store_operation_nothing_is_lost(
    world: World, operation: str
) -> None:
    world.receiver.script["e1"] = ["fail", "fail"] if operation == "failed" else ["fail"]
    async with Replica(world) as replica:
        replica.barriers.hold(operation)
        world.publish("e1", "e2")
        await world.run(3)
        assert operation in replica.barriers.reached
    async with Replica(world):
        world.publish("e3")
        await world.run(80)

    assert_kept(world, "e1", "e2", "e3")


# --- dependencies that are down


async def test_while_the_store_is_away_a_failed_event_stays_in_the_queue(world: World) -> None:
    world.receiver.script["e1"] = ["fail"]
    async with Replica(world) as replica:
        await world.run(1)
        replica.barriers.faults["store"] = StoreUnavailable("away")
        world.publish("e1", "e2")
        await world.run(20)
        is_in_queue = not world.queue.is_empty
        attempts = list(world.receiver.attempts)
        replica.barriers.faults.clear()
        await world.run(20)

    assert is_in_queue
    assert attempts == ["e1"]
    assert_kept(world, "e1", "e2")


async def test_while_the_store_is_away_nothing_is_handled_before_the_load(world: World) -> None:
    async with Replica(world) as replica:
        replica.barriers.faults["blocked"] = StoreUnavailable("away")
        world.publish("e1")
        await world.run(20)
        attempts = list(world.receiver.attempts)
        replica.barriers.faults.clear()
        await world.run(3)

    assert attempts == []
    assert_kept(world, "e1")


@pytest.mark.parametrize("operation", ["waiting", "lease", "delivered", "failed"])
async def test_retries_go_on_after_the_store_was_away(world: World, operation: str) -> None:
    world.receiver.script["e1"] = ["fail", "fail"]
    async with Replica(world) as replica:
        world.publish("e1")
        await settle()
        replica.barriers.faults[operation] = StoreUnavailable("away")
        await world.run(20)
        replica.barriers.faults.clear()
        await world.run(100)

    assert_kept(world, "e1")


async def test_the_partition_of_the_rig_is_the_devices_own() -> None:
    assert Replica(World()).share.partitions == {PARTITION}
