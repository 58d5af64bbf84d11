"""The contract of `Jobs`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.command import Terms
from shared.domain.job import Job, JobPart, JobState, Progress, RefusedTarget, WarningCount
from shared.ports.queue import Jobs
from tests.contract.stores import STORES, open_store
from tests.support.fakes.jobs import FakeJobs

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
HOUR = timedelta(hours=1)
SOME = Progress(3, 2, 1, {"a text. with $ and dots": WarningCount(2, ("A", "B"))})


@pytest.fixture(params=STORES)
async def jobs(request: pytest.FixtureRequest) -> AsyncIterator[Jobs]:
    if request.param == "fake":
        yield FakeJobs()
        return
    from shared.storage.queue import jobs as storage

    async with open_store(request) as mongo:
        await mongo.ensure(storage.indexes(timedelta(days=30)))
        yield storage.MongoJobs(mongo)


def job(id: str = "1", owner: str | None = "me", total: int = 2) -> Job:
    return Job(
        id=id,
        command_uuid="uuid",
        command_hash="hash",
        request_type="ProfileList",
        terms=Terms(priority=3, expires_at=NOW + HOUR, collapse_key="client:x"),
        says_apple=True,
        caller="ci",
        total=total,
        created_at=NOW,
        owner=owner,
    )


def part(number: int = 0, job: str = "1") -> JobPart:
    return JobPart(job, number, (f"A{number}", f"B{number}"))


def done(given: JobPart, progress: Progress = SOME) -> JobPart:
    return replace(
        given, is_done=True, progress=progress, refusals=(RefusedTarget("A0", "unknown"),)
    )


async def test_what_was_added_is_there_unchanged(jobs: Jobs) -> None:
    bare = replace(job("2"), terms=Terms(), owner=None)

    await jobs.add(job())
    await jobs.add(bare)

    assert [await jobs.get("1"), await jobs.get("2"), await jobs.get("3")] == [job(), bare, None]


async def test_parts_are_read_whole_and_without_what_is_large(jobs: Jobs) -> None:
    finished = done(part(1))
    await jobs.add_parts([part(0), part(1), part(2), part(0, job="10")], NOW)
    await jobs.finish_part(finished)

    whole = [await jobs.part("1", number) for number in (0, 1, 3)]
    results = await jobs.results("1", [1, 0, 7])
    progress = await jobs.results("1", [0, 1], refusals=False)

    assert whole == [part(0), finished, None]
    assert results == [replace(part(0), targets=()), replace(finished, targets=())]
    assert progress == [replace(each, refusals=()) for each in results]


async def test_many_parts_are_stored_at_once(jobs: Jobs) -> None:
    await jobs.add_parts([part(number) for number in range(25)], NOW)

    progress = await jobs.results("1", range(30), refusals=False)
    assert [each.number for each in progress] == list(range(25))


async def test_adding_again_changes_nothing(jobs: Jobs) -> None:
    await jobs.add_parts([part()], NOW)
    await jobs.add(job())
    await jobs.finish_part(done(part()))
    await jobs.raise_heartbeat("1", "me", SOME)

    await jobs.add_parts([part()], NOW)
    await jobs.add(job())

    assert await jobs.part("1", 0) == done(part())
    found = await jobs.get("1")
    assert found is not None and found.heartbeats == 1


async def test_the_first_result_of_a_part_stays(jobs: Jobs) -> None:
    await jobs.add_parts([part()], NOW)

    await jobs.finish_part(done(part()))
    await jobs.finish_part(done(part(), Progress(queued=9)))

    assert await jobs.part("1", 0) == done(part())


async def test_the_newest_come_first_and_page(jobs: Jobs) -> None:
    for id in ("1", "3", "2", "4"):
        await jobs.add(job(id))

    first = await jobs.newest(None, 2)
    rest = await jobs.newest("3", 5)

    assert [each.id for each in first] == ["4", "3"]
    assert [each.id for each in rest] == ["2", "1"]


async def test_running_jobs_are_those_that_are_not_finished(jobs: Jobs) -> None:
    for id in ("3", "1", "2"):
        await jobs.add(job(id))
    await jobs.finish("2", SOME, NOW + HOUR)

    assert [each.id for each in await jobs.running()] == ["1", "3"]


async def test_a_job_is_finished_once(jobs: Jobs) -> None:
    await jobs.add(job())

    await jobs.finish("1", SOME, NOW + HOUR)
    await jobs.finish("1", Progress(), NOW)

    expected = replace(job(), state=JobState.FINISHED, progress=SOME, finished_at=NOW + HOUR)
    assert await jobs.get("1") == expected
    assert await jobs.raise_heartbeat("1", "me", SOME) is False
    assert await jobs.take(expected, "other") is False


async def test_a_job_that_failed_says_why_and_runs_no_more(jobs: Jobs) -> None:
    await jobs.add(job())

    await jobs.finish("1", SOME, NOW + HOUR, "its command is not stored any more")
    await jobs.finish("1", Progress(), NOW)

    failed = replace(job(), state=JobState.FAILED, progress=SOME, finished_at=NOW + HOUR)
    failed = replace(failed, error="its command is not stored any more")
    assert await jobs.get("1") == failed
    assert await jobs.running() == []
    assert await jobs.newest(None, 9) == [failed]


async def test_a_heartbeat_is_the_owners_and_shows_how_far_it_is(jobs: Jobs) -> None:
    await jobs.add(job())

    assert await jobs.raise_heartbeat("1", "me", SOME) is True
    assert await jobs.raise_heartbeat("1", "other", Progress()) is False

    assert await jobs.get("1") == replace(job(), heartbeats=1, progress=SOME)


async def test_a_job_that_moves_is_not_taken(jobs: Jobs) -> None:
    await jobs.add(job())
    await jobs.raise_heartbeat("1", "me", SOME)

    assert await jobs.take(job(), "other") is False
    assert await jobs.take(replace(job(), heartbeats=1), "other") is True

    assert await jobs.raise_heartbeat("1", "me", SOME) is False
    assert await jobs.raise_heartbeat("1", "other", SOME) is True


async def test_of_many_that_take_a_job_one_has_it(jobs: Jobs) -> None:
    await jobs.add(job(owner=None))

    taken = await asyncio.gather(*(jobs.take(job(owner=None), str(n)) for n in range(8)))

    assert sorted(taken) == [False] * 7 + [True]


async def test_what_an_owner_gives_up_is_nobodys(jobs: Jobs) -> None:
    await jobs.add(job("1"))
    await jobs.add(job("2", owner="other"))
    await jobs.add(job("3"))
    await jobs.finish("3", Progress(), NOW)

    await jobs.give_up("me")

    owners = {each.id: each.owner for each in await jobs.newest(None, 9)}
    assert owners == {"1": None, "2": "other", "3": "me"}
