"""Check-in says that it is ready exactly while its store takes what it writes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from services.checkin.writer import SILENCE, Writer
from shared.domain.errors import StoreUnavailable
from tests.fakes.journal import FakeWriters
from tests.unit.checkin_world import World


class Outage:
    """Makes a store fail, or hang, until it is over."""

    def __init__(self) -> None:
        self.is_on = False
        self.hangs = False

    async def __call__(self, operation: str) -> None:
        if self.is_on and self.hangs:
            await asyncio.Event().wait()
        if self.is_on:
            raise StoreUnavailable("cut")


@pytest.fixture
def outage() -> Outage:
    return Outage()


@pytest.fixture
def world(outage: Outage) -> World:
    world = World()
    world.writers = FakeWriters(outage)
    return world


@pytest.fixture
async def writer(world: World) -> AsyncIterator[Writer]:
    """Registered, and beating."""
    writer = (await world.replica()).writer
    beating = asyncio.create_task(writer.run())
    yield writer
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_it_is_ready_once_its_writer_is_registered(world: World) -> None:
    replica = await world.replica()

    assert await replica.writer.reasons() == []


async def test_it_stays_ready_while_the_store_takes_its_beats(world: World, writer: Writer) -> None:
    await world.clock.run(timedelta(minutes=5))

    assert await writer.reasons() == []


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_it_is_not_ready_while_the_store_is_away(
    world: World, writer: Writer, outage: Outage, hangs: bool
) -> None:
    outage.is_on, outage.hangs = True, hangs

    await world.clock.run(SILENCE + timedelta(seconds=1))

    assert await writer.reasons() == ["the store does not answer"]


async def test_one_beat_that_failed_does_not_matter(
    world: World, writer: Writer, outage: Outage
) -> None:
    outage.is_on = True

    await world.clock.run(SILENCE / 2)

    assert await writer.reasons() == []


async def test_it_is_ready_again_when_the_store_is_back(
    world: World, writer: Writer, outage: Outage
) -> None:
    outage.is_on = True
    await world.clock.run(SILENCE * 2)
    outage.is_on = False

    await world.clock.run(timedelta(seconds=1))

    assert await writer.reasons() == []


async def test_an_outage_of_the_store_is_two_lines_in_the_log_however_long_it_is(
    world: World, writer: Writer, outage: Outage
) -> None:
    with capture_logs() as logs:
        outage.is_on = True
        await world.clock.run(timedelta(minutes=5))
        outage.is_on = False
        await world.clock.run(timedelta(seconds=1))

    assert [line["event"] for line in logs] == ["writer_cannot_beat", "writer_beats_again"]
