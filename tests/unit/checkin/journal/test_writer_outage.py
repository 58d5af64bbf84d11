"""An outage of the store, in the log of the writer of check-in."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from services.checkin.journal.writer import Writer
from shared.concurrency.periodic import Loops
from shared.domain.errors import StoreUnavailable
from tests.support.checkin_world import World
from tests.support.fakes.journal import FakeWriters


class Outage:
    """Makes a store fail until it is over."""

    is_on = False

    async def __call__(self, operation: str) -> None:
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
    beating = asyncio.create_task(writer.run(Loops(world.clock)))
    yield writer
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_an_outage_of_the_store_is_two_lines_in_the_log_however_long_it_is(
    world: World, writer: Writer, outage: Outage
) -> None:
    with capture_logs() as logs:
        outage.is_on = True
        await world.clock.run(timedelta(minutes=5))
        outage.is_on = False
        await world.clock.run(timedelta(seconds=1))

    assert [line["event"] for line in logs] == ["writer_cannot_beat", "writer_beats_again"]
