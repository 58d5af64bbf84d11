"""Ends and enrollments of a device are told in the order in which they were stored: docs/rules.md, rules 1
and 8."""

import asyncio
from datetime import datetime, timedelta

import pytest

from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import Overtaken
from shared.domain.event import Topic
from shared.domain.outbox import removed_by_client
from shared.ports.clock import Clock
from tests.support.checkin_world import Device, Killed, Replica, Step, World
from tests.unit.checkin.pipeline.test_derived import OURS, asking, published, work

FIFTEEN = timedelta(seconds=15)
TOLD = (Topic.DEVICE_ENROLLED, Topic.DEVICE_REENROLLED, Topic.DEVICE_REMOVED)


class Ahead:
    """Implements `Clock`: another clock, but ahead of it."""

    def __init__(self, right: Clock, by: timedelta) -> None:
        self._right = right
        self._by = by

    def now(self) -> datetime:
        return self._right.now() + self._by

    def time_ns(self) -> int:
        return self._right.time_ns() + int(self._by.total_seconds() * 1e9)

    def monotonic(self) -> float:
        return self._right.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        await self._right.sleep(duration)


async def replica_ahead(world: World, by: timedelta) -> Replica:
    right = world.clock
    world.clock = Ahead(right, by)  # type: ignore[assignment]  # a replica takes any clock
    try:
        return await world.replica()
    finally:
        world.clock = right


async def removed(world: World, *, ahead: timedelta = timedelta(0)) -> None:
    """An API client removes the device."""
    at = world.clock.time_ns() + int(ahead.total_seconds() * 1e9)
    by = world.ids.new()
    await world.enrollments.remove(["MAC"], by, {"MAC": removed_by_client(world.ids.new(), at)})


def told(world: World) -> list[Topic]:
    return [event.topic for event in published(world, *TOLD)]


async def test_rule_08_an_end_is_told_before_the_next_enrollment_though_clocks_differ() -> None:
    world, device = asking(OURS), Device()
    first, second = await replica_ahead(world, FIFTEEN), await world.replica()
    await device.enroll(first)
    first.kill(Step.APPLIED)
    with pytest.raises(Killed):
        await first.serve(device.check_out())
    await work(world, second, seconds=5)

    await device.enroll(second)
    await work(world, second, seconds=80)

    assert told(world)[1:] == [Topic.DEVICE_REMOVED, Topic.DEVICE_REENROLLED]


async def test_rule_08_a_removal_is_told_first_though_its_clock_is_ahead() -> None:
    world, device = asking(OURS), Device()
    replica = await world.replica()
    await device.enroll(replica)
    await removed(world, ahead=FIFTEEN)
    world.clock.advance(timedelta(seconds=1))

    await device.enroll(replica)
    await work(world, replica, seconds=60)

    assert told(world)[1:] == [Topic.DEVICE_REMOVED, Topic.DEVICE_REENROLLED]


@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
async def test_rule_01_a_token_update_beside_a_removal_is_overtaken(step: Step) -> None:
    world, device = asking(OURS), Device()
    replica = await world.replica()
    await replica.share.refresh()
    await replica.serve(device.authenticate())
    held = replica.hold(step)
    serving = asyncio.create_task(replica.serve(device.token_update()))
    await held.reached.wait()
    await removed(world)
    held.released.set()

    [answer] = await serving
    await work(world, replica, seconds=10)
    assert isinstance(answer, Overtaken)
    assert told(world) == [Topic.DEVICE_REMOVED]
    assert world.enrollments.records["MAC"].status is EnrollmentStatus.REMOVED

    await replica.serve(device.token_update())
    await work(world, replica, seconds=60)
    assert told(world) == [Topic.DEVICE_REMOVED, Topic.DEVICE_ENROLLED]
    assert world.enrollments.records["MAC"].status is EnrollmentStatus.ENROLLED


@pytest.mark.parametrize("step", [Step.AUTHORIZED, Step.JOURNALED])
async def test_rule_01_a_check_out_beside_a_removal_makes_no_second_end(step: Step) -> None:
    world, device = asking(OURS), Device()
    replica = await world.replica()
    await replica.share.refresh()
    await device.enroll(replica)
    held = replica.hold(step)
    serving = asyncio.create_task(replica.serve(device.check_out()))
    await held.reached.wait()
    await removed(world)
    held.released.set()

    [answer] = await serving
    await work(world, replica, seconds=60)

    assert not isinstance(answer, Exception)
    assert told(world) == [Topic.DEVICE_ENROLLED, Topic.DEVICE_REMOVED]
