"""Readiness: no reason left, and the port open."""

from fastapi import APIRouter

from shared.web.health import Readiness
from shared.web.service import Service


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
