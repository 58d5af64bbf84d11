"""Subscribers that say when to come again (`Retry-After`), or that they are gone (410)."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from shared.domain.enrollment import partition_of
from tests.support.delivery_rig import DEVICE, PARTITION, FixedShare, Replica, World
from tests.support.fakes.clock import settle

SHORT = [timedelta(seconds=1)] * 20
HOUR = 3600


@pytest.fixture
def world() -> World:
    return World()


# --- Retry-After


async def test_the_next_attempt_comes_at_the_later_of_schedule_and_retry_after(
    world: World,
) -> None:
    world.receiver.script = {"e1": ["429 Retry-After 6"] * 2, "f1": ["503 Retry-After 1"]}
    async with Replica(world, waits=[timedelta(seconds=3)] * 9):
        world.publish("e1", "e2")
        world.publish("f1", device="another")
        await world.run(5.5)
        before = list(world.receiver.attempts)
        await world.run(1)
        after = list(world.receiver.attempts)
        await world.run(6)

    assert before == ["e1", "f1", "f1"]
    assert after == [*before, "e1"]
    assert world.receiver.firsts == ["f1", "e1", "e2"]
    assert world.is_settled


async def test_a_retry_after_longer_than_the_whole_schedule_counts(world: World) -> None:
    world.receiver.script["e1"] = ["503 Retry-After 3600"]
    async with Replica(world, waits=SHORT):
        world.publish("e1")
        await world.jump(HOUR - 10)
        attempts = len(world.receiver.attempts)
        await world.jump(60)

    assert attempts == 1
    assert world.is_settled


async def test_a_retry_after_outlives_the_process(world: World) -> None:
    world.receiver.script["e1"] = ["429 Retry-After 600"]
    async with Replica(world, waits=SHORT):
        world.publish("e1")
        await world.run(1)
    async with Replica(world, waits=SHORT):
        await world.jump(590)
        attempts = len(world.receiver.attempts)
        await world.jump(60)

    assert attempts == 1
    assert world.is_settled


async def test_a_recovery_hurries_no_queue_that_is_to_wait(world: World) -> None:
    world.receiver.script["e1"] = ["429 Retry-After 600"]
    async with Replica(world, waits=SHORT):
        world.publish("e1")
        await settle()
        world.receiver.is_down = True
        for number in range(3):
            world.publish(f"f{number}", device=f"other {number}")
        await world.run(15)
        world.receiver.is_down = False
        await world.run(5)

        assert world.receiver.attempts.count("e1") == 1


# --- 410


async def test_a_subscriber_that_is_gone_is_asked_once_an_hour_and_order_and_attempts_stay(
    world: World,
) -> None:
    async with Replica(world, waits=SHORT) as replica:
        world.receiver.answers = "410"
        world.publish("e1", "e2")
        await settle()
        for number in range(30):
            world.publish(f"f{number}", device=f"other {number}")
            await world.run(0.2)
        during_the_first_hour = len(world.receiver.attempts)
        await world.jump(HOUR + 10)
        await world.jump(HOUR + 10)

        assert during_the_first_hour == 1
        assert len(world.receiver.attempts) == 3
        assert replica.subscribers.paused_count == 1
        assert {owed.delivery.attempts for owed in world.records.values()} == {0}
        assert world.store.in_queue(DEVICE) == ["e1", "e2"]
        assert replica.metric("deliveries_given_up") == 0
        world.receiver.answers = None
        await world.jump(HOUR + 10)

        assert replica.subscribers.paused_count == 0
    assert [name for name in world.receiver.firsts if name[0] == "e"] == ["e1", "e2"]
    assert len(world.receiver.firsts) == 32
    assert world.is_settled


async def test_the_first_2xx_ends_the_pause_for_all_queues_at_once(world: World) -> None:
    async with Replica(world, waits=SHORT):
        world.receiver.answers = "410"
        for number in range(20):
            world.publish(f"e{number}", device=f"device {number}")
        await world.jump(HOUR - 30)
        world.receiver.answers = None
        await world.jump(60)

    assert len(world.receiver.firsts) == 20
    assert world.is_settled


async def test_other_failures_do_not_end_a_pause_and_cost_no_attempt(world: World) -> None:
    async with Replica(world, waits=SHORT) as replica:
        world.receiver.script["e1"] = ["410", "500", "503", "410", "500"]
        world.publish("e1")
        for _ in range(4):
            await world.jump(HOUR + 10)

        assert len(world.receiver.attempts) == 5
        assert replica.subscribers.paused_count == 1
        assert [owed.delivery.attempts for owed in world.records.values()] == [0]


async def test_a_new_process_asks_once_at_its_start_and_then_once_an_hour(world: World) -> None:
    world.receiver.answers = "410"
    async with Replica(world, waits=SHORT):
        for number in range(20):
            world.publish(f"e{number}", device=f"device {number}")
            await settle()
        await world.run(4)
    before = len(world.receiver.attempts)
    async with Replica(world, waits=SHORT, share=FixedShare(range(32))) as second:
        await world.run(6)
        at_start = len(world.receiver.attempts) - before
        await world.jump(HOUR + 10)

        assert (before, at_start) == (1, 1)
        assert len(world.receiver.attempts) - before == 2
        assert second.subscribers.paused_count == 1


async def test_a_process_that_finds_it_back_after_a_410_goes_on_at_once(world: World) -> None:
    world.receiver.answers = "410"
    async with Replica(world, waits=SHORT):
        world.publish("e1", "e2")
        await world.run(4)
    world.receiver.answers = None
    async with Replica(world, waits=SHORT):
        await world.run(5)

    assert world.receiver.firsts == ["e1", "e2"]
    assert world.is_settled


async def test_a_process_that_finds_another_failure_after_a_410_keeps_to_the_schedule(
    world: World,
) -> None:
    world.receiver.answers = "410"
    async with Replica(world, waits=SHORT):
        world.publish("e1")
        await world.run(4)
    world.receiver.answers = None
    world.receiver.script["e1"] = ["fail", "fail"]
    async with Replica(world, waits=SHORT) as second:
        await world.run(4)

        assert second.subscribers.paused_count == 0
    assert world.is_settled


async def test_a_pause_is_logged_at_its_beginning_and_its_end(world: World) -> None:
    with capture_logs() as said:
        async with Replica(world, waits=SHORT):
            world.receiver.script["e1"] = ["410"] * 3
            world.publish("e1")
            for _ in range(4):
                await world.jump(HOUR + 10)

    events = [line["event"] for line in said if line["event"].startswith("subscri")]
    assert events == ["subscription_paused", "subscriber_failing", "subscriber_recovered"]


# --- an operator's retry


async def attempts_in_an_outage(answers: str | None, *retried: str) -> int:
    """How many attempts ten minutes of an outage see, in which an operator retries these."""
    world = World()
    async with Replica(world):
        world.receiver.answers, world.receiver.is_down = answers, answers is None
        world.publish("e1", "e2", "e3")
        await world.run(300)
        before = len(world.receiver.attempts)
        for event in retried:
            await world.store.retry([f"config:{event}"], world.clock.now())
            await world.run(10)
        await world.run(600)
    return len(world.receiver.attempts) - before


@pytest.mark.parametrize("answers", [None, "410"])
async def test_rule_11_an_operators_retry_of_what_is_not_the_head_ends_a_pause_once(
    answers: str | None,
) -> None:
    undisturbed = await attempts_in_an_outage(answers)

    once = await attempts_in_an_outage(answers, "e2")
    twice = await attempts_in_an_outage(answers, "e2", "e2")

    assert undisturbed < once <= undisturbed + 2
    assert once < twice <= undisturbed + 3


async def test_what_an_operator_retries_is_the_first_to_ask_in_an_outage(world: World) -> None:
    async with Replica(world, waits=SHORT):
        world.receiver.is_down = True
        names = (f"device {number}" for number in range(1000))
        beside = [name for name in names if partition_of(name) == PARTITION]
        for number, device in enumerate(beside[:20]):
            world.publish(f"e{number}", device=device)
        await world.run(300)
        before = len(world.receiver.attempts)
        await world.store.retry(["config:e13", "config:e7"], world.clock.now())
        await world.run(8)

    assert sorted(world.receiver.attempts[before:]) == ["e13", "e7"]


async def test_a_retry_during_a_probe_is_heeded_when_that_has_failed(world: World) -> None:
    async with Replica(world, waits=SHORT):
        world.receiver.answers = "410"
        world.publish("e1", "e2")
        world.publish("f1", device="PAD")
        await world.run(30)
        hangs = world.receiver.held["f1"] = world.receiver.held["e1"] = asyncio.Event()
        before = len(world.receiver.attempts)
        await world.jump(HOUR + 10)
        [under_way] = world.receiver.attempts[before:]
        asked = "f1" if under_way == "e1" else "e1"
        await world.store.retry([f"config:{asked}"], world.clock.now())
        await world.run(10)
        assert world.receiver.attempts[before:] == [under_way]
        hangs.set()
        await world.run(5)

    assert world.receiver.attempts[before:] == [under_way, asked]
