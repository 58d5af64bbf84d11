"""Two replicas of commands whose clocks differ, and one client, who sends a command after the answer to
another: of one collapse key the one that was sent last stays."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.commands.queue.service import QueueService
from shared.apple.request.plist import PreparedCommand, encode_command
from shared.concurrency.clock import SystemIds
from shared.domain.command import EntryState, Terms, order_behind
from shared.ports.queue import SendClaim
from tests.support.commands_world import World
from tests.support.fakes.clock import FakeClock

MILLISECOND = timedelta(milliseconds=1)


class SkewedIds:
    """UUIDv7 of a machine whose clock is ahead, or behind where that is negative."""

    def __init__(self, clock: FakeClock, ahead: timedelta) -> None:
        self._clock = clock
        self._ahead = ahead
        self._count = 0

    def new(self) -> str:
        self._count += 1
        time = f"{int((self._clock.now() + self._ahead).timestamp() * 1000):012x}"
        return f"{time[:8]}-{time[8:]}-7000-8000-{self._count:012d}"


def command(uuid: str, priority: int | None = None) -> PreparedCommand:
    terms = Terms(collapse_key="wifi", priority=priority)
    return PreparedCommand(("MAC",), encode_command(uuid, "ProfileList", {}), {}, terms=terms)


class Fleet:
    """Replicas whose clocks are ahead by so much."""

    def __init__(self, *ahead: timedelta) -> None:
        world = World()
        self.queue, self.clock = world.queue, world.clock
        self.replicas: list[QueueService] = []
        for each in ahead:
            world.ids = SkewedIds(self.clock, each)  # type: ignore[assignment]  # the same port
            self.replicas.append(world.replica())

    async def post(self, replica: int, uuid: str, priority: int | None = None) -> None:
        await self.replicas[replica].enqueue(command(uuid, priority))
        await self.clock.run(MILLISECOND)

    def states(self) -> dict[str, EntryState]:
        return {entry.command_uuid: entry.state for entry in self.queue.entries.values()}


@pytest.mark.parametrize("skew", [20, -20, 3_600_000, -3_600_000])
async def test_a_newer_command_is_not_superseded_by_an_older_one_of_another_clock(
    skew: int,
) -> None:
    fleet = Fleet(skew * MILLISECOND, timedelta())
    await fleet.post(0, "old")
    await fleet.post(1, "new")

    assert fleet.states() == {"old": EntryState.SUPERSEDED, "new": EntryState.QUEUED}


async def test_a_newer_command_stands_behind_an_older_one_that_its_device_has_had() -> None:
    fleet = Fleet(20 * MILLISECOND, timedelta())
    await fleet.post(0, "old")
    [old] = fleet.queue.entries.values()
    await fleet.queue.mark_sent([SendClaim(old, old.generation)], "by", fleet.clock.now())
    await fleet.post(1, "new")

    open_entries = (await fleet.queue.open_of_devices({"MAC"}))["MAC"]

    assert open_entries is not None
    assert [entry.command_uuid for entry in open_entries] == ["old", "new"]


async def test_the_priority_of_the_newer_one_is_its_own() -> None:
    fleet = Fleet(20 * MILLISECOND, timedelta())
    await fleet.post(0, "old", priority=1)
    await fleet.post(1, "new", priority=9)

    assert fleet.states() == {"old": EntryState.SUPERSEDED, "new": EntryState.QUEUED}


async def test_of_two_that_come_together_the_last_one_stays() -> None:
    fleet = Fleet(20 * MILLISECOND, timedelta())
    await fleet.post(0, "old")
    second = fleet.replicas[1]

    await asyncio.gather(second.enqueue(command("new")), second.enqueue(command("newest")))

    assert fleet.states() == {
        "old": EntryState.SUPERSEDED,
        "new": EntryState.SUPERSEDED,
        "newest": EntryState.QUEUED,
    }


@given(
    skews=st.lists(st.integers(-50, 50), min_size=2, max_size=4),
    sent=st.lists(st.integers(0, 3), min_size=1, max_size=8),
)
async def test_whichever_replicas_take_them_only_the_last_one_stays(
    skews: list[int], sent: list[int]
) -> None:
    fleet = Fleet(*(skew * MILLISECOND for skew in skews))
    for number, replica in enumerate(sent):
        await fleet.post(replica % len(skews), f"c{number}")

    waiting = [uuid for uuid, state in fleet.states().items() if state is EntryState.QUEUED]
    assert waiting == [f"c{len(sent) - 1}"]


def test_an_order_behind_another_is_above_it_and_an_id_of_its_own() -> None:
    ids = SystemIds()
    first, second, third = (ids.new() for _ in range(3))

    assert order_behind(second, first) == second
    assert order_behind(second, "") == second
    behind = order_behind(first, second)
    assert behind > second
    assert behind != order_behind(third, "f" * 8 + third[8:])
    assert len(behind) == len(first)
