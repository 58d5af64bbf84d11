"""Operators hear of a store that is away, and that it is back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from services.runtime.store_health import SILENCE, StorePulse
from shared.concurrency.periodic import Loops
from shared.domain.errors import StoreUnavailable
from tests.support.fakes.clock import FakeClock


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
    running = asyncio.create_task(pulse.run(Loops(clock)))
    yield pulse
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_it_is_up_while_it_answers(pulse: StorePulse, clock: FakeClock) -> None:
    await clock.run(timedelta(minutes=5))

    assert pulse.is_up


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_a_store_that_is_away_shows_within_seconds(
    pulse: StorePulse, store: Store, clock: FakeClock, hangs: bool
) -> None:
    await clock.run(timedelta(minutes=5))
    store.is_away, store.hangs = True, hangs

    await clock.run(SILENCE + timedelta(seconds=2))

    assert not pulse.is_up


async def test_one_answer_that_is_late_does_not_matter(
    pulse: StorePulse, store: Store, clock: FakeClock
) -> None:
    store.is_away = True

    await clock.run(SILENCE / 2)

    assert pulse.is_up


async def test_an_outage_is_two_lines_in_the_log_however_long_it_is(
    pulse: StorePulse, store: Store, clock: FakeClock
) -> None:
    with capture_logs() as logs:
        store.is_away = True
        await clock.run(timedelta(minutes=5))
        store.is_away = False
        await clock.run(timedelta(seconds=2))

    assert [line["event"] for line in logs] == ["store_away", "store_back"]
    assert pulse.is_up
