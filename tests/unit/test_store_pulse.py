"""A service is ready exactly while its store answers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.store_pulse import SILENCE, StorePulse
from shared.domain.errors import StoreUnavailable
from tests.fakes.clock import FakeClock

AWAY = ["the store does not answer"]


class Store:
    """Answers, refuses, or hangs."""

    is_away = False
    hangs = False

    async def ping(self) -> None:
        if self.is_away and self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise StoreUnavailable("away")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def pulse(store: Store, clock: FakeClock) -> AsyncIterator[StorePulse]:
    pulse = StorePulse(store.ping, clock)
    running = asyncio.create_task(pulse.run())
    yield pulse
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_has_no_reason_while_the_store_answers(
    pulse: StorePulse, clock: FakeClock
) -> None:
    await clock.run(timedelta(minutes=5))

    assert await pulse.reasons() == []


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_a_store_that_is_away_is_a_reason_within_seconds(
    pulse: StorePulse, store: Store, clock: FakeClock, hangs: bool
) -> None:
    await clock.run(timedelta(minutes=5))
    store.is_away, store.hangs = True, hangs

    await clock.run(SILENCE + timedelta(seconds=1))

    assert await pulse.reasons() == AWAY


async def test_one_answer_that_is_late_is_no_reason(
    pulse: StorePulse, store: Store, clock: FakeClock
) -> None:
    store.is_away = True

    await clock.run(SILENCE / 2)

    assert await pulse.reasons() == []


async def test_the_reason_is_gone_when_the_store_is_back(
    pulse: StorePulse, store: Store, clock: FakeClock
) -> None:
    store.is_away = True
    await clock.run(10 * SILENCE)
    store.is_away = False

    await clock.run(timedelta(seconds=2))

    assert await pulse.reasons() == []
