"""The janitor deletes unused commands, and nothing else, while others work beside it.

The interleavings are those in which a janitor that looks first, or does not look again, deletes a
command of an accepted request (docs/rules.md, rule 13).
"""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from services.commands.upkeep.janitor import DAY, HOUR, HOURS, PIECES, Janitor, window
from shared.concurrency.partitions import PartitionShare
from shared.concurrency.periodic import Loops
from shared.domain.command import EntryState
from shared.domain.enrollment import PARTITIONS
from shared.domain.errors import StoreUnavailable
from shared.times import EPOCH
from tests.support.commands_world import (
    ANNA,
    FIRST_UUID,
    MAC,
    PAD,
    Barrier,
    Share,
    World,
    command,
    stopped,
)
from tests.support.fakes.clock import settle
from tests.support.fakes.journal import FakeMembers

HASH = command().command.hash


def janitor(world: World, *partitions: int) -> Janitor:
    share = Share(*partitions)
    return Janitor(world.queue, world.queue, world.reconciler, share, world.clock)


async def forget(world: World, *partitions: int) -> None:
    """One whole pass over the stored commands."""
    async for _ in janitor(world, *partitions).forget_commands():
        pass


async def sweep(world: World) -> None:
    """One whole pass over the open entries."""
    async for _ in janitor(world).end_past_generations():
        pass


async def is_stored(world: World) -> bool:
    return bool(await world.queue.commands({HASH}))


# --- stored commands


async def test_an_old_command_without_an_entry_is_forgotten() -> None:
    world = World()
    await world.queue.store([command().command], world.clock.now())
    world.clock.advance(DAY + timedelta(seconds=1))

    await forget(world)

    assert not await is_stored(world)


async def test_a_command_that_was_touched_within_a_day_stays() -> None:
    world = World()
    await world.queue.store([command().command], world.clock.now())
    world.clock.advance(DAY)

    await forget(world)

    assert await is_stored(world)


async def test_a_command_with_an_open_entry_stays_however_old_it_is() -> None:
    world = World()
    await world.post()
    world.clock.advance(400 * DAY)

    await forget(world)

    assert await is_stored(world)


async def test_a_command_with_a_finished_entry_stays() -> None:
    world = World()
    await world.post()
    await world.open_commands.clear("MAC")
    world.clock.advance(2 * DAY)

    await forget(world)

    assert await is_stored(world)


async def test_a_command_goes_after_its_last_entry() -> None:
    world = World()
    await world.post()
    world.clock.advance(40 * DAY)
    world.queue.entries.clear()

    await forget(world)

    assert not await is_stored(world)


async def test_many_old_commands_are_forgotten_in_one_pass() -> None:
    world = World()
    commands = [command(uuid=f"uuid-{n}").command for n in range(300)]
    await world.queue.store(commands, world.clock.now())
    world.clock.advance(2 * DAY)

    await forget(world)

    assert await world.queue.commands({each.hash for each in commands}) == {}


async def test_replicas_share_the_commands_out_and_leave_none() -> None:
    world = World()
    commands = [command(uuid=f"uuid-{n}").command for n in range(100)]
    await world.queue.store(commands, world.clock.now())
    world.clock.advance(2 * DAY)
    half = PARTITIONS // 2

    await forget(world, *range(half))
    after_one = len(await world.queue.commands({each.hash for each in commands}))
    await forget(world, *range(half, PARTITIONS))

    assert 0 < after_one < 100
    assert await world.queue.commands({each.hash for each in commands}) == {}


async def test_rule_13_a_command_that_is_queued_while_the_janitor_looks_stays() -> None:
    """The janitor has read `touched`; the client's command is touched and gets its entry; then the
    janitor looks for entries."""
    world = World()
    await world.queue.store([command().command], world.clock.now())
    world.clock.advance(2 * DAY)
    gate = world.at_store.stop("in_use")
    forgetting = asyncio.ensure_future(forget(world))
    await world.at_store.reached("in_use")
    await world.post()
    gate.set()
    await forgetting

    assert await is_stored(world)


async def test_rule_13_a_command_that_is_queued_after_the_janitor_looked_stays() -> None:
    """The janitor has found no entry; the client's command is touched and gets its entry; then the
    janitor deletes."""
    world = World()
    await world.queue.store([command().command], world.clock.now())
    world.clock.advance(2 * DAY)
    gate = world.at_store.stop("forget")
    forgetting = asyncio.ensure_future(forget(world))
    await world.at_store.reached("forget")
    await world.post()
    gate.set()
    await forgetting

    assert await is_stored(world)


async def test_rule_13_a_command_that_is_touched_and_has_no_entry_yet_stays() -> None:
    world = World()
    await world.queue.store([command().command], world.clock.now())
    world.clock.advance(2 * DAY)
    posting, gate = await stopped(world, "insert", lambda: asyncio.ensure_future(world.post()))
    await forget(world)
    gate.set()

    assert await posting is True
    assert await is_stored(world)


# --- entries of past generations


async def test_rule_04_what_a_killed_authenticate_left_open_is_ended() -> None:
    world = World()
    await world.post("MAC")
    await world.post("anna")
    await world.post("PAD")
    await world.apply_authenticate("MAC")

    await sweep(world)

    assert world.entry(MAC).state is EntryState.DROPPED_REENROLLED
    assert world.entry(ANNA).state is EntryState.DROPPED_REENROLLED
    assert world.entry(PAD).state is EntryState.QUEUED


async def test_rule_04_a_command_that_is_queued_while_the_janitor_sweeps_stays() -> None:
    """The janitor has read the entries; the device enrolls again and gets a command; then the
    janitor reads the generation."""
    world = World()
    await world.post()
    gate = world.at_store.stop("load")
    sweeping = asyncio.ensure_future(sweep(world))
    await world.at_store.reached("load")
    await world.authenticate()
    await world.post()
    gate.set()
    await sweeping

    assert await world.shown() == [FIRST_UUID]


async def test_commands_of_the_present_generation_stay() -> None:
    world = World()
    await world.post()
    await world.connect()

    await sweep(world)

    assert world.entry().state is EntryState.SENT


@pytest.mark.parametrize(
    "age", [timedelta(), HOUR, HOURS * HOUR, HOURS * HOUR + DAY, 3 * 365 * DAY, 30 * 365 * DAY]
)
async def test_what_is_left_open_is_ended_however_long_ago_it_was_accepted(age: timedelta) -> None:
    world = World()
    await world.post()
    await world.apply_authenticate()
    world.clock.advance(age)

    await sweep(world)

    assert world.entry().state is EntryState.DROPPED_REENROLLED


async def test_a_pass_is_windows_of_acceptance_that_leave_no_gap() -> None:
    now = World().clock.now()

    windows = [window(piece, now) for piece in range(PIECES)]

    assert windows[0][1] == now
    assert windows[-1][0] == EPOCH
    assert all(later[0] == earlier[1] for later, earlier in pairwise(windows))


async def test_entries_of_a_large_fleet_are_found_without_paging_through_its_devices() -> None:
    class Outgoing(Barrier):
        def __init__(self) -> None:
            super().__init__()
            self.operations: set[str] = set()

        async def __call__(self, operation: str) -> None:
            self.operations.add(operation)
            await super().__call__(operation)

    noted = Outgoing()
    world = World(at_store=noted)
    await world.post()
    noted.operations.clear()

    await sweep(world)

    assert noted.operations == {"accepted_between", "load"}


# --- running


async def test_a_janitor_that_is_stopped_in_its_work_is_a_member_no_more() -> None:
    world = World()
    members = FakeMembers()
    share = PartitionShare(members, world.clock, "janitor", "me")
    running = asyncio.ensure_future(
        Janitor(world.queue, world.queue, world.reconciler, share, world.clock).run(
            Loops(world.clock)
        )
    )
    await world.clock.run(timedelta(minutes=1))
    assert set(await members.heartbeats("janitor")) == {"me"}

    running.cancel()
    await settle()

    assert running.cancelled()
    assert await members.heartbeats("janitor") == {}


async def test_it_goes_on_after_a_store_that_was_away() -> None:
    class AwayForAWhile(Barrier):
        is_away = True

        async def __call__(self, operation: str) -> None:
            await super().__call__(operation)
            if self.is_away:
                raise StoreUnavailable("away")

    away = AwayForAWhile()
    away.is_away = False
    world = World(at_store=away)
    await world.queue.store([command().command], world.clock.now())
    world.clock.advance(2 * DAY)
    away.is_away = True
    running = asyncio.ensure_future(janitor(world).run(Loops(world.clock)))
    await world.clock.run(timedelta(minutes=1))

    away.is_away = False
    await world.clock.run(timedelta(hours=6))
    running.cancel()
    await settle()

    assert running.cancelled()
    assert not await is_stored(world)
