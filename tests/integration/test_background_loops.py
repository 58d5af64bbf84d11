"""Whatever a loop in the background meets, its process goes on, and so do the other loops.

The loops are found by running the services, so that a new one is held to it without a list.
"""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from services.runtime.adapters import PartsOfProcess
from services.runtime.program import ALL_SERVICES
from shared.concurrency.clock import SystemClock
from shared.concurrency.periodic import Loops, Step
from shared.domain.errors import Misconfigured
from shared.settings import AllSettings, load
from shared.storage.database import OPERATION_TIMEOUT
from shared.telemetry.metrics import Metrics
from tests.support.harness.processes import Server
from tests.support.harness.push_certificates import TOPIC, PushAuthority

PATIENCE = 60.0
PARTS = "parts"
NAMES = (*ALL_SERVICES, PARTS)


class QuickClock(SystemClock):
    """Real, and nobody sleeps long."""

    async def sleep(self, duration: timedelta) -> None:
        await super().sleep(min(duration, timedelta(milliseconds=5)))


class Sabotage(Loops):
    """Lets the steps of loops fail as a test says, and counts the others."""

    def __init__(self) -> None:
        super().__init__(QuickClock())
        self.begun: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.repeated: set[str] = set()
        self.faults: Callable[[str], Exception | None] = lambda name: None
        self.hanging = ""

    async def keep_doing(self, name: str, step: Step, *args: Any, **kwargs: Any) -> None:
        self.repeated.add(name)
        await super().keep_doing(name, self._sabotaged(name, step), *args, **kwargs)

    async def until_done(self, name: str, step: Step, *args: Any, **kwargs: Any) -> None:
        await super().until_done(name, self._sabotaged(name, step), *args, **kwargs)

    def _sabotaged(self, name: str, step: Step) -> Step:
        async def sabotaged() -> None:
            self.begun[name] += 1
            if fault := self.faults(name):
                raise fault
            if name == self.hanging:
                await asyncio.Event().wait()
            await step()
            self.done[name] += 1

        return sabotaged

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)

    async def go_on(self, *, besides: str = "") -> None:
        """Until every loop but one has done some steps more."""
        self.done.clear()
        await self.until(
            lambda: (
                bool(self.repeated)
                and all(self.done[each] >= 5 for each in self.repeated - {besides})
            )
        )

    def fail(self, broken: str) -> None:
        self.faults = lambda name: ValueError() if name == broken else None


@asynccontextmanager
async def background(
    name: str, folder: Path, loops: Sabotage, **environment: str
) -> AsyncIterator["asyncio.Task[None]"]:
    """The background work of a service, or of the parts that all services stand on."""
    pair = PushAuthority(folder / "apns").issue(TOPIC)
    environ = {
        "MDM_DATA_DIR": str(folder / "data"),
        "MDM_API_KEY": "k" * 32,
        "MDM_PUSH_CERT": str(pair.certificate),
        "MDM_PUSH_KEY": str(pair.key),
        **environment,
    }
    settings = load(AllSettings, environ)
    parts = PartsOfProcess(settings, Metrics())
    parts.loops = loops
    adapters = replace(await parts.open(), clock=QuickClock())
    running: Coroutine[Any, Any, None] = parts.watch()
    if name != PARTS:
        running.close()
        service = await import_module(f"services.{name}.app").build(settings, adapters)
        running = service.run()
    work = asyncio.create_task(running)
    try:
        yield work
    finally:
        work.cancel()
        await asyncio.wait({work})
        await parts.close()


async def test_the_store_is_asked_before_the_services_are_built(tmp_path: Path) -> None:
    settings = load(AllSettings, {"MDM_DATA_DIR": str(tmp_path), "MDM_API_KEY": "k" * 32})
    parts = PartsOfProcess(settings, Metrics())
    parts.loops = loops = Sabotage()
    await parts.open()
    try:
        await loops.until(lambda: loops.done["store_pulse"] > 1)
    finally:
        await parts.close()


@pytest.mark.parametrize("name", NAMES)
async def test_an_exception_that_nobody_foresaw_ends_no_loop_and_no_process(
    name: str, tmp_path: Path
) -> None:
    loops = Sabotage()
    loops.faults = lambda name: ValueError() if loops.begun[name] == 1 else None
    async with background(name, tmp_path, loops) as work:
        await loops.go_on()
        await loops.until(lambda: min(loops.begun.values()) > 1)

        assert not work.done()


@pytest.mark.parametrize("name", NAMES)
async def test_a_loop_that_fails_stops_no_other(name: str, tmp_path: Path) -> None:
    loops = Sabotage()
    async with background(name, tmp_path, loops) as work:
        await loops.go_on()
        for broken in loops.repeated:
            loops.fail(broken)
            loops.begun.clear()

            await loops.go_on(besides=broken)
            await loops.until(lambda broken=broken: loops.begun[broken] > 1)  # type: ignore[misc]

            assert not work.done()
        loops.fail("none of them")
        await loops.go_on()


@pytest.mark.parametrize("name", NAMES)
async def test_a_setting_that_cannot_be_used_ends_the_process(name: str, tmp_path: Path) -> None:
    loops = Sabotage()
    async with background(name, tmp_path, loops) as work:
        await loops.go_on()
        loops.faults = lambda name: Misconfigured("MDM_X: cannot be used")

        await asyncio.wait({work}, timeout=PATIENCE)

        assert work.done()
        error = work.exception()
        assert isinstance(error, ExceptionGroup)
        assert error.subgroup(Misconfigured)


# --- a loop that hangs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_the_one_loop_that_hangs_is_found_and_no_other(name: str, tmp_path: Path) -> None:
    loops = Sabotage()
    loops.stalled_after = timedelta(seconds=1)
    async with background(name, tmp_path, loops) as work:
        await loops.go_on()
        watched = sorted(loops.repeated)
        loops.hanging = watched[len(watched) // 2]

        await loops.until(lambda: [s.split()[0] for s in loops.stalled()] == [loops.hanging])

        await loops.go_on(besides=loops.hanging)
        assert not work.done()


async def test_store_and_broker_that_answer_nothing_let_no_loop_hang(
    tmp_path: Path, fault_store: Server, fault_rabbit: Server
) -> None:
    """So no outage makes Kubernetes restart anything."""
    settings = {
        "MDM_MONGODB_URL": f"{fault_store.url}/hang",
        "MDM_AMQP_URL": fault_rabbit.url,
        "MDM_SECRET_KEY": base64.b64encode(bytes(32)).decode(),
    }
    all_loops = {name: Sabotage() for name in NAMES}
    async with AsyncExitStack() as stack:
        for name, loops in all_loops.items():
            # A deadline, and as long again for a thread of the driver.
            loops.stalled_after = 3 * OPERATION_TIMEOUT
            await stack.enter_async_context(background(name, tmp_path / name, loops, **settings))
            await loops.go_on()
        fault_store.pause()
        fault_rabbit.pause()
        try:
            stalled: set[str] = set()
            for _ in range(34):
                await asyncio.sleep(1)
                stalled.update(*(loops.stalled() for loops in all_loops.values()))
        finally:
            fault_store.resume()
            fault_rabbit.resume()
        for loops in all_loops.values():
            await loops.go_on()

    assert stalled == set()
