"""The whole system, two replicas of each service, while its parts are killed, frozen and cut.

Matrix rows F1 to F3, F5, F7 and F12's outage (docs/testing.md): nothing acknowledged is lost, doubles
carry the same event_id and the same bytes, order per device holds.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from tests.faults.ledger import Ledger
from tests.faults.stage import Stage
from tests.support.harness.sink import Sink
from tests.support.harness.system import ServiceProcess

pytestmark = pytest.mark.real

KILLS = 20


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("system"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def sink(stage: Stage) -> AsyncIterator[Sink]:
    sink = await Sink().start(stage.sink_port)
    try:
        yield sink
    finally:
        await sink.stop()


async def under_load(
    stage: Stage, sink: Sink, disturb: Callable[[], Awaitable[None]], seed: int = 1
) -> Ledger:
    """A fleet enrolls, then everybody is busy while `disturb` does its worst; then the account."""
    ledger = stage.ledger(sink, seed)
    await ledger.enroll()
    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.run())
        await asyncio.sleep(1)
        await disturb()
        await asyncio.sleep(1)
        ledger.stop()
    await ledger.settle()
    ledger.close()
    ledger.check()
    print(ledger.figures)
    return ledger


async def kill_and_start(process: ServiceProcess) -> None:
    """kill -9, and start again once the others noticed."""
    await asyncio.to_thread(process.kill)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(process.start)


async def test_nothing_acknowledged_is_lost_when_services_are_killed(
    stage: Stage, sink: Sink
) -> None:
    chance = random.Random(20)

    async def disturb() -> None:
        for _ in range(KILLS):
            await kill_and_start(chance.choice(stage.system.all()))

    ledger = await under_load(stage, sink, disturb)

    assert sum(len(device.answered) for device in ledger.devices) > 200


async def test_a_rolling_restart_ends_every_process_with_zero(stage: Stage, sink: Sink) -> None:
    codes: dict[str, int] = {}

    async def disturb() -> None:
        for process in stage.system.all():
            name = f"{process.name}:{process.port}"
            codes[name] = await asyncio.to_thread(process.terminate)
            await asyncio.to_thread(process.start)

    await under_load(stage, sink, disturb, seed=2)

    assert set(codes.values()) == {0}, codes


async def test_a_process_stopped_past_its_lease_loses_nothing_when_it_wakes(
    stage: Stage, sink: Sink
) -> None:
    async def disturb() -> None:
        for name in ("checkin", "webhook"):
            process = stage.system.services[name][0]
            process.pause()
            await asyncio.sleep(14)
            process.resume()

    await under_load(stage, sink, disturb, seed=3)


async def test_devices_are_served_while_the_broker_restarts(stage: Stage, sink: Sink) -> None:
    async def disturb() -> None:
        await asyncio.to_thread(stage.rabbit.restart)
        await asyncio.to_thread(stage.rabbit.kill)
        await asyncio.to_thread(stage.rabbit.start)

    ledger = await under_load(stage, sink, disturb, seed=4)

    assert all(device.link.unavailable == 0 for device in ledger.devices)


async def test_devices_are_served_while_the_broker_is_frozen(stage: Stage, sink: Sink) -> None:
    async def disturb() -> None:
        stage.rabbit.pause()
        await asyncio.sleep(9)
        stage.rabbit.resume()

    ledger = await under_load(stage, sink, disturb, seed=5)

    assert all(device.link.unavailable == 0 for device in ledger.devices)


async def test_devices_are_served_while_half_of_the_queues_do_not_answer(
    stage: Stage, sink: Sink
) -> None:
    queue = r'whereis(list_to_atom(lists:flatten(io_lib:format("%2F_webhook.~2..0B", [N]))))'

    async def every_other(function: str) -> None:
        each = f"[sys:{function}({queue}) || N <- lists:seq(0, 30, 2)]."
        await asyncio.to_thread(stage.rabbit.ctl, "eval", each)

    async def disturb() -> None:
        await every_other("suspend")
        try:
            await asyncio.sleep(14)
        finally:
            await every_other("resume")

    ledger = await under_load(stage, sink, disturb, seed=12)

    assert all(device.link.unavailable == 0 for device in ledger.devices)


async def test_one_replica_reconnects_to_the_broker_before_the_other(
    stage: Stage, sink: Sink
) -> None:
    first = stage.system.services["checkin"][0]

    async def disturb() -> None:
        first.pause()
        await asyncio.to_thread(stage.rabbit.restart)
        await asyncio.sleep(2)
        first.resume()

    await under_load(stage, sink, disturb, seed=6)


async def test_a_store_restart_means_503_and_nothing_lost(stage: Stage, sink: Sink) -> None:
    async def disturb() -> None:
        await asyncio.to_thread(stage.store.restart)
        await asyncio.sleep(1)
        stage.store.pause()
        await asyncio.sleep(3)
        stage.store.resume()
        await asyncio.to_thread(stage.store.kill)
        await asyncio.to_thread(stage.store.start)

    await under_load(stage, sink, disturb, seed=7)


async def test_a_subscriber_that_is_away_for_seconds_misses_nothing(
    stage: Stage, sink: Sink
) -> None:
    async def disturb() -> None:
        await sink.stop()
        await asyncio.sleep(3)
        await sink.start(stage.sink_port)

    await under_load(stage, sink, disturb, seed=8)
