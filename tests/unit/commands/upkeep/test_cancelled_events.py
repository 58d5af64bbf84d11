"""Subscribers that ask get one event of each cancelled command, and of each device that a client removed."""

import json
from collections.abc import AsyncIterator

import pytest

from services.commands.upkeep.expiry import PACE
from shared.domain.command import EntryState, Terms
from shared.domain.event import Topic
from shared.domain.subscription import Subscription
from shared.messaging.envelope import event_json
from tests.support.commands_world import FIRST_UUID, MAC
from tests.unit.commands.queue.test_queueing_terms import SECOND_UUID, prepared
from tests.unit.commands.upkeep.test_expiry import Replicas
from tests.unit.commands.upkeep.test_superseded_events import STEPS


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    replicas = Replicas()
    asking = Subscription("1", "https://x.example/", topics=frozenset({"macromdm.*"}))
    replicas.world.subscriptions.stored["1"] = asking
    await replicas.world.wanted.refresh()
    yield replicas


async def cancelled(replicas: Replicas) -> None:
    await replicas.world.queue_service.enqueue(prepared(Terms()))
    await replicas.world.open_commands.cancel(replicas.world.entry())
    assert replicas.world.entry().state is EntryState.CANCELLED
    replicas.world.clock.advance(PACE.every)


async def test_a_cancelled_command_is_told_once(replicas: Replicas) -> None:
    await cancelled(replicas)

    await replicas.one().look()
    await replicas.one().look()

    [event] = replicas.published
    shown = json.loads(event_json(event))
    assert shown["topic"] == "macromdm.CommandCancelled"
    assert shown["command_event"] == {
        "udid": "MAC",
        "command_uuid": FIRST_UUID,
        "request_type": "ProfileList",
        "state": "cancelled",
        "version": 1,
        "handed_out": False,
    }
    assert replicas.world.queue.unsafe == set()


async def test_a_cleared_queue_and_a_removed_device_are_told(replicas: Replicas) -> None:
    await replicas.world.queue_service.enqueue(prepared(Terms()))
    await replicas.world.open_commands.clear("MAC")
    replicas.world.clock.advance(PACE.every)
    await replicas.one().look()
    await replicas.world.queue_service.enqueue(prepared(Terms(), SECOND_UUID))
    await replicas.world.inventory.remove(["MAC"], [])
    replicas.world.clock.advance(PACE.every)
    await replicas.one().look()

    assert [event.topic for event in replicas.published] == [Topic.COMMAND_CANCELLED] * 2


async def test_where_nobody_asks_nothing_is_told(replicas: Replicas) -> None:
    replicas.world.subscriptions.stored.clear()
    await replicas.world.wanted.refresh()
    await cancelled(replicas)
    await replicas.world.inventory.remove(["MAC"], [])

    await replicas.one().look()

    assert replicas.published == []
    assert not replicas.world.enrollments.kept_outbox


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_rule_05_a_kill_at_any_step_leaves_one_event_of_a_cancelled_command(
    replicas: Replicas, step: str, is_done: bool
) -> None:
    await cancelled(replicas)
    await replicas.look_over_a_kill(step, is_done)

    assert len({event_json(event) for event in replicas.published}) == 1
    assert replicas.world.queue.unsafe == set()


async def test_it_is_told_though_its_command_is_queued_again(replicas: Replicas) -> None:
    await cancelled(replicas)

    await replicas.world.queue_service.enqueue(prepared(Terms()))

    [event] = replicas.journal.events.values()
    assert event.topic is Topic.COMMAND_CANCELLED
    assert replicas.world.enrollments.records[MAC.id].waiting.since == event.created_at


async def test_a_removed_device_is_told_by_the_write_that_removes_it(replicas: Replicas) -> None:
    for _ in range(2):  # the second finds it removed
        await replicas.world.inventory.remove(["MAC"], [])

    [event] = replicas.world.enrollments.kept_outbox["MAC"]
    assert (event.topic, event.facts) == (Topic.DEVICE_REMOVED, {"version": 1, "reason": "deleted"})
