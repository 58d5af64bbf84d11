"""A client that guesses the content of another client's command has ten guesses an hour."""

import asyncio
from datetime import timedelta

import pytest

from services.commands.queue.requeue import MOST
from shared.domain.errors import Conflict, TooManyRequests
from tests.support.commands_world import FIRST_UUID, World

HOUR = timedelta(hours=1)
OTHER_UUID = "0198f1d2-0000-7000-8000-000000000009"


async def guess(world: World, count: int, uuid: str = FIRST_UUID) -> None:
    for number in range(count):
        with pytest.raises(Conflict):
            await world.post(uuid=uuid, text=f"wrong {number}")


async def test_after_ten_mismatches_a_right_guess_is_answered_as_a_wrong_one() -> None:
    world = World()
    await world.post(text="right")
    await guess(world, MOST)

    for text in ("wrong", "right"):
        with pytest.raises(TooManyRequests) as caught:
            await world.post(text=text)
        assert timedelta() < caught.value.retry_after <= HOUR


async def test_fewer_mismatches_leave_repetitions_safe() -> None:
    world = World()
    await world.post(text="right")
    await guess(world, MOST - 1)

    assert await world.post(text="right") is False


async def test_mismatches_count_for_an_hour_and_for_their_command_only() -> None:
    world = World()
    await world.post(text="right")
    await world.post(uuid=OTHER_UUID, text="right")
    await guess(world, MOST)

    assert await world.post(uuid=OTHER_UUID, text="right") is False
    world.clock.advance(HOUR)
    await guess(world, 1)
    assert await world.post(text="right") is False


async def test_one_command_for_two_devices_has_ten_guesses_in_all() -> None:
    world = World()
    await world.post("MAC", text="right")
    await world.post("PAD", text="right")
    await guess(world, MOST)

    with pytest.raises(TooManyRequests):
        await world.post("PAD", text="right")


async def test_of_many_guesses_at_once_ten_are_answered() -> None:
    world = World()
    await world.post(text="right")

    asked = (world.post(text=f"wrong {number}") for number in range(3 * MOST))
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert sum(isinstance(answer, Conflict) for answer in answers) == MOST
    assert sum(isinstance(answer, TooManyRequests) for answer in answers) == 2 * MOST
