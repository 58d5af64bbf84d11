"""Promises of the bounds on attempts against one subscriber."""

import asyncio
from datetime import timedelta

from services.webhook.pace import MOST_RETRIES, Gate, Pace
from tests.fakes.clock import FakeClock, settle

SHORT = timedelta(milliseconds=20)


async def test_places_are_given_up_to_the_bound_and_again_when_somebody_leaves() -> None:
    gate = Gate(slots=2)
    assert [await gate.enter(), await gate.enter()] == [True, True]
    third = asyncio.ensure_future(gate.enter())
    await settle()
    was_waiting = not third.done()

    gate.leave()

    assert was_waiting
    assert await third


async def test_who_waits_behind_a_subscriber_that_hangs_is_turned_away() -> None:
    gate = Gate(slots=1, patience=SHORT)
    await gate.enter()

    assert not await gate.enter()


async def test_once_it_hangs_nobody_waits_any_more() -> None:
    gate = Gate(slots=1, patience=SHORT)
    await gate.enter()
    await gate.enter()
    next_one = asyncio.ensure_future(gate.enter())

    await settle()

    assert next_one.done()
    assert not next_one.result()


async def test_when_somebody_leaves_others_may_wait_again() -> None:
    gate = Gate(slots=1, patience=SHORT)
    await gate.enter()
    await gate.enter()

    gate.leave()

    assert await gate.enter()


async def test_one_who_stops_waiting_leaves_the_place_to_others() -> None:
    gate = Gate(slots=1)
    await gate.enter()
    waiting = asyncio.ensure_future(gate.enter())
    await settle()

    waiting.cancel()
    await asyncio.wait([waiting])
    gate.leave()

    assert await gate.enter()


def room(pace: Pace) -> int:
    """How many retries may run at once."""
    pace.active = 0
    while pace.has_room:
        pace.active += 1
    return pace.active


def test_retries_shrink_to_a_trickle_while_nothing_succeeds() -> None:
    pace = Pace(FakeClock())

    for _ in range(10):
        pace.failed()

    assert room(pace) == 2
    assert pace.is_down


def test_retries_are_at_full_speed_after_a_few_successes() -> None:
    pace = Pace(FakeClock())
    for _ in range(10):
        pace.failed()

    for _ in range(4):
        pace.succeeded()

    assert room(pace) == MOST_RETRIES


def test_the_first_success_after_an_outage_is_a_recovery_and_the_next_is_not() -> None:
    pace = Pace(FakeClock())
    for _ in range(3):
        pace.failed()

    assert [pace.succeeded(), pace.succeeded()] == [True, False]


def test_a_subscriber_that_flaps_recovers_only_now_and_then() -> None:
    clock, recoveries = FakeClock(), 0
    pace = Pace(clock)

    for _ in range(40):
        for _ in range(3):
            pace.failed()
        recoveries += pace.succeeded()
        clock.advance(timedelta(seconds=0.5))

    assert recoveries <= 5
