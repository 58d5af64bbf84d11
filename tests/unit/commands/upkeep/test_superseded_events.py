"""Subscribers get one event of each superseded command, although processes die in between."""

import json
from collections.abc import AsyncIterator

import pytest

from services.commands.upkeep.expiry import FORGOTTEN_AFTER, PACE, ended_event
from shared.domain.command import EntryState, Terms
from shared.domain.enrollment import PARTITIONS, partition_of
from shared.messaging.envelope import event_json
from tests.support.commands_world import FIRST_UUID, MAC
from tests.support.fakes.journal import Confirm
from tests.unit.commands.queue.test_queueing_terms import SECOND_UUID, prepared
from tests.unit.commands.upkeep.test_expiry import Replicas, backlog

STEPS = ("unpublished", "load", "append", "read", "publish", "published")
"""What a pass asks of store and broker for one superseded entry, in this order."""


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    yield Replicas()


async def superseded(replicas: Replicas) -> None:
    for uuid in (FIRST_UUID, SECOND_UUID):
        await replicas.world.queue_service.enqueue(prepared(Terms(collapse_key="k"), uuid))
    assert replicas.world.entry().state is EntryState.SUPERSEDED
    replicas.world.clock.advance(PACE.every)
    replicas.at.steps.clear()


async def test_the_next_pass_tells_of_a_superseded_command_and_by_which_it_was(
    replicas: Replicas,
) -> None:
    await superseded(replicas)

    await replicas.one().look()

    [event] = replicas.published
    assert replicas.journal.events == {event.id: event}
    shown = json.loads(event_json(event))
    assert (shown["topic"], shown["event_id"]) == ("macromdm.CommandSuperseded", event.id)
    assert shown["command_event"] == {
        "udid": "MAC",
        "command_uuid": FIRST_UUID,
        "request_type": "ProfileList",
        "state": "superseded",
        "superseded_by": SECOND_UUID,
    }
    assert replicas.world.queue.unsafe == set()
    assert tuple(step for step in replicas.at.steps if step in STEPS) == STEPS


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_rule_05_a_kill_at_any_step_leaves_one_event_of_a_superseded_command(
    replicas: Replicas, step: str, is_done: bool
) -> None:
    await superseded(replicas)
    entry = replicas.world.entry()
    await replicas.look_over_a_kill(step, is_done)

    assert {event_json(event) for event in replicas.published} == {
        event_json(ended_event(entry, MAC))
    }
    assert replicas.world.queue.unsafe == set()
    published = len(replicas.published)
    replicas.world.clock.advance(10 * FORGOTTEN_AFTER)
    await replicas.one().look()
    assert len(replicas.published) == published


async def test_each_replica_tells_of_its_own_partitions(replicas: Replicas) -> None:
    await superseded(replicas)
    mine = partition_of("MAC")

    await replicas.one(*set(range(PARTITIONS)) - {mine}).look()
    before = list(replicas.published)
    await replicas.one(mine).look()

    assert (before, len(replicas.published)) == ([], 1)


async def test_without_a_broker_it_is_left_to_the_relay(replicas: Replicas) -> None:
    await superseded(replicas)
    replicas.publisher.outcome = lambda _: Confirm.LOST

    await replicas.one().look()

    assert replicas.world.queue.unsafe == set()
    assert await backlog(replicas.world) == [ended_event(replicas.world.entry(), MAC)]


async def test_it_is_told_though_its_command_is_queued_anew(replicas: Replicas) -> None:
    """A client that reads of the end repeats the command before any pass."""
    await superseded(replicas)
    ended = replicas.world.entry()

    again = await replicas.world.queue_service.enqueue(prepared(Terms(collapse_key="k")))
    relayed = await backlog(replicas.world)
    replicas.world.clock.advance(PACE.every)
    await replicas.one().look()

    assert again.is_new
    assert relayed == [ended_event(ended, MAC)]
    by_uuid = [event.command_uuid for event in await backlog(replicas.world)]
    assert by_uuid == [FIRST_UUID, SECOND_UUID], "which the repetition superseded in its turn"
    assert replicas.published == [], "behind the first one"
