"""Work that is done again and again."""

import asyncio
from datetime import timedelta

import structlog

from shared.domain.errors import StoreUnavailable
from shared.pacing import Pace, keep_doing
from tests.fakes.clock import FakeClock

SECOND = timedelta(seconds=1)
PACE = Pace(every=SECOND, after_failure=5 * SECOND)


class Work:
    """Fails as long as it is told to."""

    def __init__(self) -> None:
        self.is_away = False
        self.steps = 0

    async def step(self) -> None:
        self.steps += 1
        if self.is_away:
            raise StoreUnavailable("away")


async def run(work: Work, clock: FakeClock, seconds: int) -> None:
    running = asyncio.create_task(keep_doing(work.step, clock, PACE, waits="it_waits"))
    await clock.run(seconds * SECOND)
    running.cancel()
    await asyncio.wait({running})


async def test_it_begins_at_once_and_goes_on_at_its_pace() -> None:
    work = Work()

    await run(work, FakeClock(), 10)

    assert work.steps == 11


async def test_an_outage_is_waited_for_and_logged_once() -> None:
    work, clock = Work(), FakeClock()
    work.is_away = True

    with structlog.testing.capture_logs() as logs:
        await run(work, clock, 20)

    assert work.steps == 5
    assert [entry["event"] for entry in logs] == ["it_waits"]
