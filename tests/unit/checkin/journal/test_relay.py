"""The relay serves every device whose events can be published, however many others there are."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.checkin.journal.relay import (
    BATCH,
    FIRST_PAUSE,
    LARGE_SIDE_BY_SIDE,
    LONGEST_PAUSE,
    READ_TOGETHER,
    SIDE_BY_SIDE,
    Backoff,
)
from shared.concurrency.periodic import FAILING_AFTER, Loops
from shared.domain.enrollment import Waiting, partition_of
from shared.domain.errors import CannotDecrypt, OfNewerVersion, StoreUnavailable
from shared.domain.event import Event
from shared.ports.events import Journaled
from tests.support.checkin_world import Device, Replica, World
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.journal import Confirm

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


async def all_wait(*names: str) -> tuple[World, Replica]:
    """Devices of which each has one event that waits, with a broker that is back."""
    world = World()
    replica = await world.replica()
    devices = [Device(name, f"certificate of {name}") for name in names]
    for device in devices:
        await replica.serve(device.authenticate())
    world.publisher.outcome = lambda _: Confirm.LOST
    for device in devices:
        await replica.serve(device.idle())
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    return world, replica


def waiting(world: World, names: Collection[str]) -> set[str]:
    records = world.enrollments.records
    return {name for name in names if records[name].waiting.since is not None}


@pytest.mark.parametrize("stuck", [4, 40, 120, 400])
async def test_healthy_devices_are_relayed_in_the_first_pass_beside_stuck_ones(stuck: int) -> None:
    healthy = [f"GOOD{number}" for number in range(40)]
    world, replica = await all_wait(*(f"BAD{number}" for number in range(stuck)), *healthy)

    def outcome(event: Event) -> Confirm:
        return Confirm.LOST if event.key.device.startswith("BAD") else Confirm.CONFIRMED

    async def slow(_: str) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    world.publisher.outcome, world.publisher.before = outcome, slow

    await replica.relay_all()

    assert waiting(world, healthy) == set()


async def test_a_device_that_cannot_be_relayed_is_tried_ever_less_often() -> None:
    world, replica = await all_wait("BAD")
    world.publisher.outcome = lambda _: Confirm.LOST
    tries = 0

    async def count(_: str) -> None:
        nonlocal tries
        tries += 1

    world.publisher.before = count
    for _ in range(3600):
        await replica.relay_all()
        world.clock.advance(timedelta(seconds=1))

    assert 15 <= tries <= 20  # after 2, 4, 8 ... 256 s, then every 300 s
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    world.clock.advance(LONGEST_PAUSE)
    await replica.relay_all()
    assert waiting(world, ["BAD"]) == set()


async def test_a_partition_that_is_away_costs_its_devices_no_pause() -> None:
    world, replica = await all_wait("MAC", "B")

    async def find_out(_: str) -> None:
        world.publisher.away = frozenset({partition_of("MAC")})

    undisturbed, world.publisher.before = world.publisher.before, find_out
    for _ in range(20):
        await replica.relay_all()
    still_waiting = waiting(world, ["MAC", "B"])
    world.publisher.before, world.publisher.away = undisturbed, frozenset()

    await replica.relay_all()

    assert still_waiting == {"MAC"}
    assert waiting(world, ["MAC"]) == set()


async def test_a_store_that_is_away_is_not_asked_for_every_device_that_waits() -> None:
    world, replica = await all_wait(*(f"D{number}" for number in range(200)))
    asked = 0

    async def fail(operation: str) -> None:
        nonlocal asked
        if operation == "read_waiting":
            asked += 1
            await asyncio.sleep(0)
            raise StoreUnavailable("cut")

    world.enrollments.before = fail
    await replica.relay_all()

    assert 0 < asked <= SIDE_BY_SIDE


def test_who_waits_longest_and_did_not_fail_comes_first() -> None:
    clock = FakeClock()
    backoff = Backoff(clock)
    marks = {
        name: Waiting(since, since, 1) for name, since in (("A", 3), ("B", 1), ("C", 2), ("D", 4))
    }
    backoff.failed("B")
    clock.advance(timedelta(seconds=1))
    backoff.failed("A")

    at_once = backoff.due(marks)
    clock.advance(FIRST_PAUSE)

    assert at_once == ["C", "D"]
    assert backoff.due(marks) == ["C", "D", "B", "A"]


def test_a_device_that_waits_no_longer_begins_anew() -> None:
    backoff = Backoff(FakeClock())
    backoff.failed("A")
    backoff.due({})

    assert backoff.due({"A": Waiting(1, 1, 1)}) == ["A"]


async def test_the_bodies_that_are_held_together_are_bounded() -> None:
    world, replica = await all_wait(*(f"D{number}" for number in range(40)))
    for event in list(world.journal.events.values()):
        size = READ_TOGETHER // 8 if event.number % 2 else READ_TOGETHER + 1
        for copy in range(20):
            more = replace(
                event, id=f"{event.id}-{copy}", raw_payload=bytes(size), number=1000 * copy
            )
            world.journal.events[more.id] = more
    held, most = 0, 0
    read = world.journal.read

    async def measured(ids: Collection[str]) -> dict[str, Event]:
        nonlocal held, most
        found = await read(ids)
        held += sum(len(event.raw_payload) for event in found.values())
        most = max(most, held)
        assert len(found) == 1 or sum(len(e.raw_payload) for e in found.values()) <= READ_TOGETHER
        return found

    async def published(_: str) -> None:
        await asyncio.sleep(0)

    world.journal.read = measured  # type: ignore[method-assign]  # what is read is what is measured
    world.publisher.before = published
    sizes = {event.id: len(event.raw_payload) for event in world.journal.events.values()}

    def outcome(event: Event) -> Confirm:
        nonlocal held
        held -= sizes[event.id]
        return Confirm.CONFIRMED

    world.publisher.outcome = outcome
    await replica.relay_all()

    assert held == 0
    assert most <= 40 * READ_TOGETHER + LARGE_SIDE_BY_SIDE * (READ_TOGETHER + 1)
    assert waiting(world, [f"D{number}" for number in range(40)]) == set()


async def test_any_number_of_events_of_one_time_is_relayed() -> None:
    world, replica = await all_wait("MAC")
    [*_, last] = world.journal.events.values()
    for number in range(2 * BATCH):
        await world.journal.append([replace(last, id=f"e{number}")])

    await replica.relay_all()

    assert {f"e{number}" for number in range(2 * BATCH)} <= set(world.publisher.firsts("MAC"))


async def test_a_time_that_is_ahead_of_our_clock_shows_as_long_as_it_waits() -> None:
    world, replica = await all_wait("MAC")
    world.publisher.outcome = lambda _: Confirm.LOST
    world.clock.set_back(timedelta(hours=1))
    await replica.relay_all()
    ahead = replica.metrics.event_time_ahead._value.get()
    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    world.clock.advance(LONGEST_PAUSE)
    for _ in range(2):
        await replica.relay_all()

    assert ahead == pytest.approx(3600, abs=1)
    assert replica.metrics.event_time_ahead._value.get() == 0


@pytest.mark.parametrize("error", [OfNewerVersion, CannotDecrypt])
async def test_what_is_before_an_event_that_cannot_be_read_is_published_once(
    error: type[Exception],
) -> None:
    """One of a newer version, say: a replica that can read it takes the rest."""
    world, replica = await all_wait("MAC")
    await behind(world, replica)
    events = sorted(world.journal.events.values(), key=lambda event: event.created_at)[1:]
    read = world.journal.read

    async def older(ids: Collection[str]) -> dict[str, Event]:
        if events[2].id in ids:
            raise error("of one of them")
        return await read(ids)

    world.journal.read = older  # type: ignore[method-assign]
    before = len(world.publisher.published)
    for _ in range(3):
        await replica.relay_all()
        world.clock.advance(LONGEST_PAUSE)
    assert world.publisher.published[before:] == events[:2]
    assert world.enrollments.records["MAC"].waiting.since == events[2].created_at

    world.journal.read = read  # type: ignore[method-assign]
    await replica.relay_all()

    assert world.publisher.published[before:] == events
    assert not waiting(world, ["MAC"])


async def test_behind_an_event_that_the_broker_does_not_take_nothing_is_published_twice() -> None:
    world, replica = await all_wait("MAC")
    await behind(world, replica)
    events = sorted(world.journal.events.values(), key=lambda event: event.created_at)[1:]
    world.publisher.outcome = lambda event: (
        Confirm.LOST if event.id == events[2].id else Confirm.CONFIRMED
    )
    before = len(world.publisher.published)
    for _ in range(3):
        await replica.relay_all()
        world.clock.advance(LONGEST_PAUSE)
    assert world.publisher.published[before:] == events[:2]

    world.publisher.outcome = lambda _: Confirm.CONFIRMED
    await replica.relay_all()

    assert world.publisher.published[before:] == events
    assert not waiting(world, ["MAC"])


async def behind(world: World, replica: Replica) -> None:
    """Three more messages of the device wait behind the first."""
    for _ in range(3):
        await replica.serve(Device("MAC", "certificate of MAC").idle())
    assert waiting(world, ["MAC"])


@pytest.mark.parametrize(
    ("devices", "minutes", "are_large"),
    [(4 * SIDE_BY_SIDE, 2, False), (SIDE_BY_SIDE, 0.25, True)],
    ids=["small", "large"],
)
async def test_devices_behind_others_that_go_on_slowly_are_no_loops_that_hang(
    devices: int, minutes: float, are_large: bool
) -> None:
    names = [f"D{number}" for number in range(devices)]
    world, replica = await all_wait(*names)
    loops, named = Loops(world.clock), set[str]()

    async def slow(_: str) -> None:
        await world.clock.sleep(minutes * MINUTE)

    if are_large:
        of_device = world.journal.of_device

        async def large(*where: Any) -> list[Journaled]:
            return [replace(each, size=READ_TOGETHER + 1) for each in await of_device(*where)]

        world.journal.of_device = large  # type: ignore[method-assign]
    world.publisher.before = slow
    begun = world.clock.now()
    relaying = asyncio.create_task(replica.relay.run(loops))
    while waiting(world, names):
        await world.clock.run(10 * SECOND)
        named.update(loops.failing())
        assert world.clock.now() - begun < 15 * MINUTE
    relaying.cancel()
    await asyncio.wait({relaying})

    assert world.clock.now() - begun > FAILING_AFTER
    assert named == set()


async def test_a_device_that_hangs_is_a_loop_that_hangs() -> None:
    world, replica = await all_wait("MAC")

    async def hang(operation: str) -> None:
        if operation == "read_waiting":
            await asyncio.Event().wait()

    world.enrollments.before = hang
    loops = Loops(world.clock)
    relaying = asyncio.create_task(replica.relay.run(loops))
    await world.clock.run(FAILING_AFTER + MINUTE)
    said = loops.failing()
    relaying.cancel()
    await asyncio.wait({relaying})

    assert said == ["relay_device has hung in a step for 6 minutes"]
