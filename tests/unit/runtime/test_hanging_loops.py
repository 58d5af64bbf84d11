"""Work in the background that hangs is counted, so that an alert can name it."""

import asyncio

from services.runtime.adapters import PartsOfProcess
from shared.concurrency.periodic import FAILING_AFTER, ONCE, Loops
from shared.settings import AllSettings, load
from shared.telemetry.metrics import Metrics
from tests.support.fakes.clock import FakeClock


async def test_a_loop_that_hangs_is_counted_while_it_does() -> None:
    clock, metrics, end = FakeClock(), Metrics(), asyncio.Event()
    parts = PartsOfProcess(load(AllSettings, {}), metrics)
    parts.loops = Loops(clock)
    hanging = asyncio.create_task(parts.loops.until_done("relay", end.wait, ONCE, waits="waits"))

    def counted() -> float | None:
        return metrics.registry.get_sample_value("macromdm_loops_hanging")

    await clock.run(FAILING_AFTER / 2)
    before = counted()
    await clock.run(FAILING_AFTER / 2)
    during = counted()
    end.set()
    await hanging

    assert (before, during, counted()) == (0, 1, 0)
