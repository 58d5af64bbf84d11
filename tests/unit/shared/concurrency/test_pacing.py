"""The one loop of all work in the background."""

import asyncio
from datetime import timedelta

import pytest
import structlog

from shared.concurrency.periodic import FAILING_AFTER, LONGEST_PAUSE, Loops, Pace
from shared.domain.errors import CannotDecrypt, Misconfigured, StoreUnavailable
from tests.support.fakes.clock import FakeClock

SECOND = timedelta(seconds=1)
PACE = Pace(every=SECOND, after_failure=5 * SECOND)
SECRET = "hunter2"


class Work:
    """Fails as long as it is told to."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.failed: list[str] = []
        self.loops = Loops(self.clock, self.failed.append)
        self.error: BaseException | None = None
        self.times: list[float] = []

    async def step(self) -> None:
        self.times.append(self.clock.monotonic())
        if self.error is not None:
            raise self.error

    async def run(self, seconds: int) -> "asyncio.Task[None]":
        """The loop, which a test ends, after so long."""
        running = asyncio.create_task(
            self.loops.keep_doing("it", self.step, PACE, waits="it_waits")
        )
        await self.clock.run(seconds * SECOND)
        return running


@pytest.fixture
def work() -> Work:
    return Work()


async def ended(running: "asyncio.Task[None]") -> None:
    running.cancel()
    await asyncio.wait({running})


def pauses(work: Work) -> list[float]:
    return [after - before for before, after in zip(work.times, work.times[1:], strict=False)]


async def test_it_begins_at_once_and_goes_on_at_its_pace(work: Work) -> None:
    await ended(await work.run(10))

    assert len(work.times) == 11


async def test_an_outage_is_waited_for_and_logged_once(work: Work) -> None:
    work.error = StoreUnavailable("away")

    with structlog.testing.capture_logs() as logs:
        await ended(await work.run(20))

    assert pauses(work) == [5, 5, 5, 5]
    assert [entry["event"] for entry in logs] == ["it_waits"]
    assert not work.failed


async def test_an_outage_that_is_a_time_out_says_so(work: Work) -> None:
    work.error = TimeoutError()

    with structlog.testing.capture_logs() as logs:
        await ended(await work.run(1))

    assert [entry["error"] for entry in logs] == ["no answer in time"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        CannotDecrypt("commands: no key has the id k1"),
        ExceptionGroup("two", [StoreUnavailable("away"), KeyError(SECRET)]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_exception_ends_it_and_it_tries_again_ever_less_often(
    work: Work, error: Exception
) -> None:
    work.error = error

    running = await work.run(300)

    assert not running.done()
    assert pauses(work)[:4] == [5, 10, 20, 40]
    assert set(pauses(work)[4:]) == {LONGEST_PAUSE.total_seconds()}
    assert work.failed == ["it"] * len(work.times)
    work.error = None
    await work.clock.run(LONGEST_PAUSE + 2 * SECOND)
    assert pauses(work)[-1] == 1
    await ended(running)


async def test_a_cancellation_that_is_not_its_own_does_not_end_it(work: Work) -> None:
    work.error = asyncio.CancelledError()

    running = await work.run(300)

    assert not running.done()
    assert work.failed == ["it"] * len(work.times)
    [said] = work.loops.failing()
    assert "CancelledError" in said
    await ended(running)
    assert running.cancelled()


async def test_an_exception_is_logged_once_with_its_stack_and_without_its_text(work: Work) -> None:
    work.error = ValueError(SECRET)

    with structlog.testing.capture_logs() as logs:
        running = await work.run(120)
        work.error = KeyError(SECRET)
        await work.clock.run(2 * LONGEST_PAUSE)
        await ended(running)

    assert [(e["event"], e["loop"], e["error"]) for e in logs] == [
        ("loop_failed", "it", "ValueError"),
        ("loop_failed", "it", "KeyError"),
    ]
    assert all("test_pacing.py" in entry["stack"] for entry in logs)
    assert SECRET not in str(logs)


async def test_after_a_success_the_same_exception_is_news(work: Work) -> None:
    with structlog.testing.capture_logs() as logs:
        work.error = ValueError()
        running = await work.run(1)
        work.error = None
        await work.clock.run(5 * SECOND)
        work.error = ValueError()
        await work.clock.run(5 * SECOND)
        await ended(running)

    assert [entry["event"] for entry in logs] == ["loop_failed", "loop_failed"]


@pytest.mark.parametrize(
    "error",
    [Misconfigured("MDM_X: no"), ExceptionGroup("", [ValueError(), Misconfigured("MDM_X: no")])],
    ids=["alone", "in a group"],
)
async def test_a_setting_that_cannot_be_used_ends_it(work: Work, error: Exception) -> None:
    work.error = error

    running = await work.run(1)

    assert running.done()
    assert running.exception() is error


async def test_a_loop_is_named_after_five_minutes_without_a_success(work: Work) -> None:
    work.error = ValueError()
    running = await work.run(0)
    await work.clock.run(FAILING_AFTER - SECOND)
    assert work.loops.failing() == []

    await work.clock.run(SECOND)

    [said] = work.loops.failing()
    assert said.startswith("it has failed for 5 minutes, at last with ValueError: ")
    work.error = None
    await work.clock.run(LONGEST_PAUSE)
    assert work.loops.failing() == []
    await ended(running)


async def test_an_outage_is_no_failure_of_the_loop_that_meets_it(work: Work) -> None:
    work.error = StoreUnavailable("away")

    running = await work.run(3600)

    assert work.loops.failing() == []
    await ended(running)


async def test_what_is_to_be_done_once_is_tried_until_it_is_done(work: Work) -> None:
    work.error = ValueError()
    doing = asyncio.create_task(work.loops.until_done("it", work.step, PACE, waits="it_waits"))
    await work.clock.run(12 * SECOND)
    assert not doing.done()
    work.error = None

    await work.clock.run(10 * SECOND)

    assert doing.done()
    assert pauses(work) == [5, 10]


async def test_a_loop_that_is_stopped_begins_no_further_step(work: Work) -> None:
    await work.loops.keep_doing("it", work.step, PACE, "it_waits", stopped=lambda: True)

    assert not work.times
