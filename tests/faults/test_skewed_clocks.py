"""The whole system, two replicas of each service whose clocks are minutes apart and jump (row F14).

Needs Debian's libfaketime; .ci/run installs it.
"""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, Link
from tests.faults.stage import Stage
from tests.support.harness.clocks import LIBRARIES, FalseClock
from tests.support.harness.device import ApiClient
from tests.support.harness.sink import Sink
from tests.support.harness.system import API_KEY

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed"),
]

SERVICES = ("webhook", "push", "commands", "checkin")
AHEAD = (timedelta(minutes=4), timedelta(minutes=-3))
"""Of the two replicas of each service, at the start of each test."""


class SkewedSystem:
    """Servers with the true time, and services without it."""

    def __init__(self, folder: Path) -> None:
        self.clocks = {
            (name, number): FalseClock(folder / f"clock-{name}-{number}", ahead)
            for name in SERVICES
            for number, ahead in enumerate(AHEAD)
        }
        own = {which: clock.environment for which, clock in self.clocks.items()}
        self.stage = Stage(folder, own)

    async def set_clocks(self, *names: str, ahead: tuple[timedelta, timedelta] = AHEAD) -> None:
        for name in names:
            for number, each in enumerate(ahead):
                self.clocks[name, number].move(each)
        await asyncio.sleep(1.5)  # every process has read it


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkewedSystem]:
    made = SkewedSystem(tmp_path_factory.mktemp("skewed"))
    try:
        yield made
    finally:
        made.stage.close()


@pytest.fixture
async def sink(skewed: SkewedSystem) -> AsyncIterator[Sink]:
    sink = await Sink().start(skewed.stage.sink_port)
    try:
        yield sink
    finally:
        await sink.stop()


def times_told(sink: Sink) -> list[timedelta]:
    """By how much the time that each event says of itself is ahead of now."""
    now = datetime.now(UTC)
    return [datetime.fromisoformat(each.event["created_at"]) - now for each in sink.taken]


def check_nothing_came_twice(ledger: Ledger) -> None:
    """Where no answer was lost, no command is given again."""
    for device in ledger.devices:
        assert (device.link.lost, device.link.unavailable) == (0, 0)
        assert len(device.given) == len(set(device.given)), device.device.udid


async def test_clocks_that_are_apart_and_jump_lose_double_and_reorder_nothing(
    skewed: SkewedSystem, sink: Sink
) -> None:
    ledger = skewed.stage.ledger(sink, seed=14)
    await ledger.enroll()

    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.run())
        # Events wait for the relay, under marks that both replicas set.
        await asyncio.to_thread(skewed.stage.rabbit.restart)
        await skewed.set_clocks("checkin", "commands", "push", ahead=(AHEAD[1], AHEAD[0]))
        await asyncio.to_thread(skewed.stage.rabbit.restart)
        await skewed.set_clocks("checkin", "commands", "push")
        ledger.stop()
    await ledger.settle()

    ledger.close()
    ledger.check()
    check_nothing_came_twice(ledger)
    told = times_told(sink)
    assert max(told) > timedelta(minutes=2), "no clock was ahead"
    assert min(told) < timedelta(minutes=-2), "no clock was behind"
    assert sum(len(device.answered) for device in ledger.devices) > 100
    print(ledger.figures)


async def test_kills_and_an_outage_of_the_subscriber_under_clocks_apart_lose_nothing(
    skewed: SkewedSystem, sink: Sink
) -> None:
    ledger = skewed.stage.ledger(sink, seed=15)
    await ledger.enroll()

    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.run())
        for name in ("checkin", "commands", "push"):
            for process in skewed.stage.system.services[name]:
                await asyncio.to_thread(process.kill)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(process.start)
        await sink.stop()
        await asyncio.sleep(2)
        await sink.start(skewed.stage.sink_port)
        ledger.stop()
    await ledger.settle()

    ledger.close()
    ledger.check()
    print(ledger.figures)


async def test_the_newest_of_a_collapse_key_wins_though_its_replica_is_behind(
    skewed: SkewedSystem, sink: Sink
) -> None:
    ledger = skewed.stage.ledger(sink, seed=16, devices=1)
    await ledger.enroll()
    (device,) = ledger.devices
    older, newer = str(uuid.uuid4()), str(uuid.uuid4())

    for command, port in zip((older, newer), skewed.stage.system.ports("commands"), strict=True):
        link = Link([port], random.Random(16))
        body = {
            "udid": device.device.udid,
            "request_type": "DeviceInformation",
            "command_uuid": command,
            "collapse_key": "settings",
            "queries": ["OSVersion"],
        }
        request = ApiClient(API_KEY).request("POST", "/v1/commands", json.dumps(body).encode())
        assert (await link.until_answered(request)).status == 201
        link.close()
    await ledger.settle()

    assert device.given == [newer]
    ledger.close()


async def test_a_clock_that_is_ahead_moves_the_event_times_of_nobody_else(
    skewed: SkewedSystem, sink: Sink
) -> None:
    ledger = skewed.stage.ledger(sink, seed=17, devices=4)
    for process in skewed.stage.system.services["checkin"]:
        await asyncio.to_thread(process.restart)
    await ledger.enroll()
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.run())
        await asyncio.to_thread(skewed.stage.rabbit.restart)
        ledger.stop()
    await ledger.settle()
    # Marks were set by the replica that is ahead, and raised by the one that is behind.
    for device in ledger.devices:
        device.link.close()
        device.link = Link(skewed.stage.system.ports("checkin")[1:], random.Random(17))

    # Once the relay has cleared a device's mark, its events have the time of their own replica.
    async with asyncio.timeout(150):
        told = [timedelta(0)]
        while max(told) > timedelta(minutes=-2):
            await asyncio.sleep(2)
            before = len(sink.taken)
            for device in ledger.devices:
                await device.work()
            await ledger.settle()
            told = times_told(sink)[before:]

    ledger.close()
    ledger.check()
