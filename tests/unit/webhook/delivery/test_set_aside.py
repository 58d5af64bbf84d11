"""Rule 11: an event that its subscriber cannot take is set aside, and those behind it go on in order."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from shared.domain.errors import StoreUnavailable
from shared.domain.subscription import DeliveryQueueKey, DeliveryState
from tests.support.delivery_rig import DEVICE, Replica, World
from tests.support.fakes.clock import settle

FIVE = [timedelta(seconds=seconds) for seconds in (1, 1, 1, 1, 1)]
SCHEDULE = [*FIVE, timedelta(hours=1), timedelta(hours=3)]
ALWAYS = ["500"] * 99


@pytest.fixture
def world() -> World:
    return World()


def of(world: World) -> list[str]:
    """The events of the device that arrived, in order."""
    return [name for name in world.receiver.firsts if name[0] != "g"]


def queues_in_store(world: World) -> set[DeliveryQueueKey]:
    return {owed.delivery.queue for owed in world.records.values() if owed.is_pending}


async def test_rule_11_what_a_subscriber_cannot_take_leaves_its_queue_after_five_waits(
    world: World,
) -> None:
    world.receiver.script["e1"] = ALWAYS
    async with Replica(world, waits=SCHEDULE) as replica:
        world.publish("e1", "e2", "e3")
        await world.run_beside(4)
        before = of(world)
        await world.run_beside(3)
        after = of(world)
        world.receiver.script.clear()
        await world.jump(3700)

        assert (before, after) == ([], ["e2", "e3"])
        assert replica.metric("deliveries_set_aside") == 1
    assert of(world) == ["e2", "e3", "e1"]
    assert world.is_settled


async def test_rule_11_what_is_aside_keeps_to_the_long_schedule_and_is_kept_after_its_end(
    world: World,
) -> None:
    world.receiver.script["e1"] = ALWAYS
    async with Replica(world, waits=SCHEDULE):
        world.publish("e1")
        await world.run_beside(7)
        at_first = world.receiver.attempts.count("e1")
        await world.jump(3700)
        after_an_hour = world.receiver.attempts.count("e1")
        await world.jump(3.5 * 3600)

    assert (at_first, after_an_hour) == (6, 7)
    assert [each.event_id for each in world.store.all_dead_lettered] == ["e1"]
    assert await world.store.body("config:e1")


async def test_rule_11_while_one_is_aside_the_next_ones_get_one_attempt_each(world: World) -> None:
    world.receiver.script |= {name: list(ALWAYS) for name in ("e1", "e2", "e4")}
    async with Replica(world, waits=[*FIVE, *[timedelta(hours=1)] * 3]):
        world.publish("e1", "e2", "e3")
        await world.run_beside(7)
        world.publish("e4", "e5")
        await world.run(0.5)
        attempts = world.receiver.attempts

        assert attempts[: attempts.index("e3")].count("e2") == 1
        assert attempts[: attempts.index("e5")].count("e4") == 1
        assert of(world) == ["e3", "e5"]
    assert {queue.aside for queue in queues_in_store(world)} == {"e1", "e2", "e4"}


@pytest.mark.parametrize("answer", ["401", "403", "404", "408", "425", "429", "502", "503", "504"])
async def test_rule_11_answers_about_the_receiver_keep_the_order(world: World, answer: str) -> None:
    world.receiver.script["e1"] = [answer] * 99
    async with Replica(world, waits=SCHEDULE):
        world.publish("e1", "e2")
        await world.run_beside(10)

        assert world.store.in_queue(DEVICE) == ["e1", "e2"]
        assert queues_in_store(world) == {DeliveryQueueKey("config", DEVICE)}
        assert of(world) == []


@pytest.mark.parametrize("answer", ["500", "400", "413", "422"])
async def test_rule_11_answers_about_the_event_do_not(world: World, answer: str) -> None:
    world.receiver.script["e1"] = [answer] * 99
    async with Replica(world, waits=SCHEDULE):
        world.publish("e1", "e2")
        await world.run_beside(10)

        assert of(world) == ["e2"]


async def test_rule_11_a_subscriber_that_takes_nobody_elses_events_keeps_the_order(
    world: World,
) -> None:
    async with Replica(world, waits=SCHEDULE) as replica:
        world.publish("g1", device="good")
        await world.run(1)
        world.receiver.answers = "500"
        world.publish("e1", "e2")
        await world.run(10)
        world.receiver.answers = None
        await world.jump(3700)

        assert replica.metric("deliveries_set_aside") == 0
    assert of(world) == ["e1", "e2"]
    assert world.is_settled


async def test_rule_11_its_own_devices_events_do_not_show_that_it_takes_others(
    world: World,
) -> None:
    world.receiver.script["e2"] = ALWAYS
    async with Replica(world, waits=SCHEDULE) as replica:
        world.publish("e1", "e2", "e3")
        await world.run(12)

        assert replica.metric("deliveries_set_aside") == 0
        assert world.store.in_queue(DEVICE) == ["e2", "e3"]


async def test_rule_11_a_new_process_waits_until_it_has_seen_another_devices_event_taken(
    world: World,
) -> None:
    world.receiver.script["e1"] = ALWAYS
    waits = [*FIVE, *[timedelta(seconds=30)] * 9]
    async with Replica(world, waits=waits):
        world.publish("e1", "e2")
        await world.jump(40)
    async with Replica(world, waits=waits):
        await world.jump(40)
        before = of(world)
        await world.run_beside(200)

        assert before == []
        assert of(world) == ["e2"]


@pytest.mark.parametrize("killed_after", range(1, 10))
async def test_rule_11_killed_while_it_sets_aside_nothing_is_lost(
    world: World, killed_after: int
) -> None:
    world.receiver.script["e1"] = ["500"] * 9
    waits = [*FIVE, *[timedelta(seconds=5)] * 20]
    async with Replica(world, waits=waits) as first:
        world.publish("e1", "e2", "e3")
        await world.run_beside(4)
        first.barriers.reached.clear()
        for _ in range(60):
            await world.run(0.05)
            if len(first.barriers.reached) >= killed_after:
                break
        await first.kill()
    async with Replica(world, waits=waits):
        world.publish("e4")
        await world.run_beside(10)
        await world.jump(60)
        await world.jump(60)

    in_order = [name for name in of(world) if name != "e1"]
    assert in_order == ["e2", "e3", "e4"]
    assert "e1" in of(world)
    assert world.is_settled


async def test_rule_11_one_that_wakes_past_its_lease_sets_nothing_aside(world: World) -> None:
    world.receiver.script["e1"] = ["500"] * 6
    async with Replica(world, waits=SCHEDULE) as first:
        world.publish("e1", "e2")
        await world.run_beside(4)
        first.barriers.hold("failed")
        await world.run_beside(2)
        world.queue.cut_off(first.channel)
        async with Replica(world, waits=SCHEDULE) as second:
            second.barriers.hold("delivered")
            await world.jump(40)
            first.barriers.let("failed")
            await world.run(1)
            overtaken = "e2" in world.receiver.arrivals
            second.barriers.let("delivered")
            await world.run(5)

    assert not overtaken
    assert of(world) == ["e1", "e2"]


async def test_rule_11_an_event_that_comes_again_while_it_is_aside_is_not_lost(
    world: World,
) -> None:
    """Its ack was lost with the channel."""
    world.receiver.script["e1"] = ["500"] * 7
    async with Replica(world, waits=SCHEDULE) as replica:
        world.publish("e1")
        await world.run_beside(7)
        world.publish("e1", "e2")
        await settle()
        await world.run_beside(5)
        world.receiver.script.clear()
        await world.jump(3700)

        assert len(replica.partitions.served[0].queues) == 0
    assert sorted(of(world)) == ["e1", "e2"]
    assert world.is_settled


async def test_a_store_that_is_away_while_an_event_is_set_aside_keeps_the_order(
    world: World,
) -> None:
    world.receiver.script["e1"] = ALWAYS
    async with Replica(world, waits=SCHEDULE) as replica:
        world.publish("e1", "e2")
        await world.run_beside(4)
        replica.barriers.faults["failed"] = StoreUnavailable("away")
        await world.run_beside(5)
        during = of(world)
        replica.barriers.faults.clear()
        await world.jump(40)
        await world.run_beside(3)

        assert during == []
        assert of(world) == ["e2"]


# --- what an operator sees and does


async def test_the_first_failure_of_a_queue_is_logged_and_so_is_setting_aside(world: World) -> None:
    world.receiver.script["e1"] = ALWAYS
    with capture_logs() as said:
        async with Replica(world, waits=SCHEDULE):
            world.publish("e1")
            await world.run_beside(7)

    [first] = [line for line in said if line["event"] == "delivery_failed"]
    assert first["device"] == DEVICE
    assert (first["subscription"], first["name"]) == ("config", "MDM_WEBHOOK_URL")
    assert (first["topic"], first["event_id"], first["attempt"]) == ("mdm.Connect", "e1", 1)
    assert (first["answer"], first["next_attempt"][:10]) == ("answered 500", "2026-01-02")
    [aside] = [line for line in said if line["event"] == "delivery_set_aside"]
    assert (aside["event_id"], aside["attempt"]) == ("e1", 6)


async def test_of_a_thousand_queues_that_fail_at_once_a_few_are_logged_and_the_rest_counted() -> (
    None
):
    world = World(prefetch=2000)
    world.receiver.answers = "500"
    with capture_logs() as said:
        async with Replica(world, waits=[timedelta(hours=1)]):
            for number in range(200):
                world.publish(f"e{number}", device=f"device {number}")
            await world.run(30)
            world.receiver.answers = None
            await world.jump(61)
            world.receiver.answers = "500"
            world.publish("one-more", device="another")
            await world.run(1)

    lines = [line for line in said if line["event"] == "delivery_failed"]
    assert len(lines) == 11
    assert lines[-1]["left_out"] == 190


@pytest.mark.parametrize("how", ["skip", "retry"])
async def test_what_an_operator_asks_for_is_done_within_seconds(world: World, how: str) -> None:
    world.receiver.script["e1"] = ["503"]
    async with Replica(world, waits=[timedelta(hours=6)]):
        world.publish("e1", "e2")
        await world.jump(60)
        if how == "skip":
            assert await world.store.skip("config:e1", b"body")
        else:
            await world.store.retry(["config:e1"], world.clock.now())
        await world.run(5)

    assert of(world) == (["e2"] if how == "skip" else ["e1", "e2"])
    kept = [owed.delivery.state for owed in world.records.values()]
    assert kept == [DeliveryState.DEAD_LETTERED] * (how == "skip")
