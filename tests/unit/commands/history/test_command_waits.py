"""GET of one command with `?wait=`."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from shared.concurrency.periodic import Loops
from shared.domain.command import EntryState
from tests.support.commands_world import FIRST_UUID, World
from tests.support.fakes.clock import settle
from tests.support.life_client import LifeClient

PATH = f"/MAC/{FIRST_UUID}"
SECOND = timedelta(seconds=1)


@pytest.fixture
async def client() -> AsyncIterator[LifeClient]:
    made = LifeClient(World())
    looking = asyncio.create_task(made.poll.run(Loops(made.world.clock)))
    yield made
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await made.http.aclose()


async def test_a_call_that_waits_is_answered_once_the_command_is_final(client: LifeClient) -> None:
    await client.world.post()
    entry = await client.world.connect()
    assert entry is not None
    call = asyncio.create_task(client.call(f"{PATH}?wait=30"))
    await settle()
    await client.world.clock.run(5 * SECOND)
    assert not call.done()
    await client.world.answer(entry, EntryState.ERROR)

    await client.world.clock.run(SECOND)
    status, shown = await call

    assert (status, shown["state"]) == (200, "error")


async def test_what_is_final_already_is_answered_at_once(client: LifeClient) -> None:
    await client.world.post()
    await client.world.open_commands.clear("MAC")

    status, shown = await client.call(f"{PATH}?wait=30")

    assert (status, shown["state"]) == (200, "cancelled")
    assert client.world.clock.monotonic() == 0


async def test_at_the_end_of_the_time_the_command_is_shown_as_it_stands(client: LifeClient) -> None:
    await client.world.post()
    call = asyncio.create_task(client.call(f"{PATH}?wait=1.5"))
    await settle()

    await client.world.clock.run(1.5 * SECOND)
    status, shown = await call

    assert (status, shown["state"]) == (200, "queued")


async def test_one_call_too_many_is_refused(client: LifeClient) -> None:
    await client.world.post()
    first = asyncio.create_task(client.call(f"{PATH}?wait=30"))
    await settle()

    status, _ = await client.call(f"{PATH}?wait=30")

    assert status == 429
    client.poll.stop()
    assert (await first)[0] == 200


@pytest.mark.parametrize("path", ["/MAC/unknown?wait=5", "/nobody/c?wait=5"])
async def test_what_is_not_there_is_not_waited_for(client: LifeClient, path: str) -> None:
    assert (await client.call(path))[0] == 404
