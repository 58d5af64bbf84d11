"""Readiness: no reason left, and the port open."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import httpx
import pytest
from fastapi import APIRouter

from shared.concurrency.periodic import FAILING_AFTER, STALLED_AFTER, Loops, Pace
from shared.telemetry.metrics import Metrics
from shared.web.server.health import OpsApp, Readiness
from shared.web.server.service import Feature, Service
from tests.support.fakes.clock import FakeClock


async def _forever() -> None:
    raise NotImplementedError


def service(*reasons: str) -> Service:
    async def ready() -> list[str]:
        return list(reasons)

    return Service("checkin", APIRouter(), _forever, ready)


async def test_a_process_that_starts_is_not_ready_though_its_services_are() -> None:
    readiness = Readiness()
    readiness.services = [service()]

    assert await readiness.reasons() == ["starting"]
    assert await readiness.of_services() == []


async def test_a_process_that_starts_says_what_its_services_wait_for() -> None:
    readiness = Readiness()
    readiness.services = [service("the store is away")]

    assert await readiness.reasons() == ["starting", "checkin: the store is away"]


async def test_a_process_that_runs_is_ready_when_its_services_are() -> None:
    readiness = Readiness()
    readiness.starting = None
    readiness.services = [service(), service()]

    assert await readiness.reasons() == []


async def test_a_process_that_stops_is_not_ready() -> None:
    readiness = Readiness()
    readiness.starting, readiness.stopping = None, True
    readiness.services = [service()]

    assert await readiness.reasons() == ["stopping"]


async def test_a_loop_that_has_failed_for_five_minutes_is_named_and_takes_no_requests_away() -> (
    None
):
    clock, readiness = FakeClock(), Readiness()
    loops = Loops(clock)
    readiness.starting, readiness.services = None, [service()]
    readiness.failing = loops.failing
    operators = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=OpsApp(readiness, Metrics())), base_url="http://ops"
    )

    async def poison() -> None:
        raise KeyError("secret")

    pace = Pace(timedelta(seconds=1), timedelta(seconds=1))
    looping = asyncio.create_task(loops.keep_doing("janitor", poison, pace, waits="waits"))
    await clock.run(FAILING_AFTER - timedelta(seconds=1))
    before = (await operators.get("/readyz")).json()
    await clock.run(timedelta(seconds=1))
    after = await operators.get("/readyz")
    looping.cancel()
    await operators.aclose()

    assert before == {"ready": True, "reasons": [], "failing": []}
    assert (after.status_code, after.json()["ready"]) == (200, True)
    [said] = after.json()["failing"]
    assert said.startswith("janitor has failed for 5 minutes, at last with KeyError: ")
    assert "secret" not in said


PACE = Pace(timedelta(hours=9), timedelta(seconds=1))
SECOND = timedelta(seconds=1)


async def test_a_loop_that_hangs_in_a_step_is_named_until_the_step_ends() -> None:
    clock, over = FakeClock(), asyncio.Event()
    loops = Loops(clock)
    looping = asyncio.create_task(loops.keep_doing("relay", over.wait, PACE, waits="waits"))
    await clock.run(FAILING_AFTER - SECOND)
    before = loops.failing()
    await clock.run(SECOND)
    hanging = loops.failing()
    over.set()
    await clock.run(STALLED_AFTER)
    after = loops.failing(), loops.stalled()
    looping.cancel()

    assert before == []
    assert hanging == ["relay has hung in a step for 5 minutes"]
    assert after == ([], [])


async def test_a_process_whose_loop_hangs_for_half_an_hour_is_not_alive() -> None:
    clock, readiness = FakeClock(), Readiness()
    loops = Loops(clock)
    readiness.starting, readiness.stalled = None, loops.stalled
    operators = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=OpsApp(readiness, Metrics())), base_url="http://ops"
    )
    looping = asyncio.create_task(
        loops.keep_doing("relay", asyncio.Event().wait, PACE, waits="waits")
    )
    await clock.run(STALLED_AFTER - SECOND)
    before = await operators.get("/healthz")
    await clock.run(SECOND)
    after, ready = await operators.get("/healthz"), await operators.get("/readyz")
    looping.cancel()
    await operators.aclose()

    assert (before.status_code, before.json()) == (200, {"status": "alive"})
    said = {"status": "stalled", "stalled": ["relay has hung in a step for 30 minutes"]}
    assert (after.status_code, after.json()) == (503, said)
    # Until it is restarted it serves.
    assert ready.status_code == 200


async def test_a_long_step_that_goes_on_hangs_not_nor_does_one_that_waits_for_messages() -> None:
    clock = FakeClock()
    loops = Loops(clock)

    async def long() -> None:
        while True:
            with suppress(ValueError):
                await failing_now_and_then()

    async def failing_now_and_then() -> None:
        await clock.sleep(FAILING_AFTER - SECOND)
        await asyncio.wait_for(raising(), 1)

    async def raising() -> None:
        raise ValueError

    looping = [
        asyncio.create_task(loops.keep_doing("relay", long, PACE, waits="waits")),
        asyncio.create_task(
            loops.until_done("intake", asyncio.Event().wait, PACE, "waits", may_wait=True)
        ),
    ]
    await clock.run(2 * STALLED_AFTER)
    said = loops.failing(), loops.stalled()
    for each in looping:
        each.cancel()

    assert said == ([], [])


@pytest.mark.parametrize("end", [lambda over: over.set_result(None), asyncio.Future.cancel])
async def test_a_worker_that_ends_by_itself_ends_the_service(
    end: Callable[["asyncio.Future[None]"], None],
) -> None:
    over = asyncio.get_running_loop().create_future()

    async def work(_: Loops) -> None:
        await over

    feature = Feature(workers=(work, lambda _: asyncio.Event().wait()))
    running = asyncio.create_task(Service.of("checkin", [feature], Loops(FakeClock())).run())
    await asyncio.sleep(0)
    end(over)

    [done], _ = await asyncio.wait({running}, timeout=5)

    error = done.exception()
    assert isinstance(error, ExceptionGroup)
    assert str(error.exceptions[0]) == "a worker of checkin ended by itself"


@pytest.mark.parametrize("end", ["release", "drain"])
async def test_a_worker_ends_when_its_service_does(end: str) -> None:
    over = asyncio.Event()
    service = Service.of("checkin", [Feature(workers=(lambda _: over.wait(),))], Loops(FakeClock()))
    running = asyncio.create_task(service.run())
    if end == "release":
        service.release()
    else:
        await service.drain()
    over.set()

    await running
