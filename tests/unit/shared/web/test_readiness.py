"""Readiness: no reason left, and the port open."""

import asyncio
from datetime import timedelta

import httpx
from fastapi import APIRouter

from shared.concurrency.periodic import FAILING_AFTER, STALLED_AFTER, Loops, Pace
from shared.telemetry.metrics import Metrics
from shared.web.server.health import OpsApp, Readiness
from shared.web.server.service import Service
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


async def test_a_loop_that_hangs_in_a_step_is_named_until_the_step_ends() -> None:
    clock, over = FakeClock(), asyncio.Event()
    loops = Loops(clock)
    pace = Pace(timedelta(hours=9), timedelta(seconds=1))
    looping = asyncio.create_task(loops.keep_doing("relay", over.wait, pace, waits="waits"))
    await clock.run(STALLED_AFTER - timedelta(seconds=1))
    before = loops.failing()
    await clock.run(timedelta(seconds=1))
    stalled = loops.failing()
    over.set()
    await clock.run(STALLED_AFTER)
    after = loops.failing()
    looping.cancel()

    assert before == []
    assert stalled == ["relay has been in one step for 30 minutes"]
    assert after == []
