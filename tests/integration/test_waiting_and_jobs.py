"""Calls that wait and commands for many devices, on real processes and a real store."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.apple.request.plist import encode_command
from shared.concurrency.clock import SystemClock
from shared.domain.command import Command, EntryState, QueueEntry, Terms, entry_id
from shared.domain.enrollment import EnrollmentKey
from shared.domain.job import Job, JobPart
from shared.ports.queue import Report, SendClaim
from shared.storage.mongo import Mongo
from shared.storage.queue.jobs import MongoJobs
from shared.storage.queue.store import MongoCommandQueue
from tests.contract.stores import KEYRING
from tests.support.harness.device import ApiClient
from tests.support.harness.http1 import Connection
from tests.support.harness.system import API_KEY, ServiceProcess

SOON = 5.0
"""Seconds within which something must have happened that happens at once."""

JOB_SIZE = 2000


@pytest.fixture
def replicas(tmp_path: Path, mongodb_url: str, amqp_url: str) -> Iterator[list[ServiceProcess]]:
    """Two processes of the commands service."""
    settings = {
        "MDM_MONGODB_URL": mongodb_url,
        "MDM_AMQP_URL": amqp_url,
        "MDM_ACCEPT_UNKNOWN_DEVICES": "true",
        "MDM_MAX_WAITING": "2",
    }
    started = [ServiceProcess("commands", tmp_path / name, settings) for name in ("a", "b")]
    try:
        for process in started:
            process.launch()
        for process in started:
            process.wait_until_serving()
        yield started
    finally:
        for process in started:
            process.close()


@pytest.fixture
async def queue(mongodb_url: str) -> AsyncIterator[MongoCommandQueue]:
    """What check-in would write to."""
    mongo = Mongo(mongodb_url)
    yield MongoCommandQueue(mongo, KEYRING)
    await mongo.close()


async def post(process: ServiceProcess, path: str = "", **command: object) -> httpx.Response:
    whom: dict[str, object] = {} if "udids" in command else {"udid": "MAC"}
    body = {**whom, "request_type": "ProfileList", **command}
    async with httpx.AsyncClient(timeout=60) as http:
        return await http.post(
            f"{process.url}/v1/commands{path}", json=body, auth=("micromdm", API_KEY)
        )


async def get(process: ServiceProcess, path: str) -> Any:
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.get(process.url + path, auth=("micromdm", API_KEY))
        assert answer.status_code == 200, answer.text
        return answer.json()


async def queued_entry(queue: MongoCommandQueue, uuid: str) -> QueueEntry:
    """The entry of a command of MAC, once it is there."""
    name = entry_id("MAC", uuid)
    async with asyncio.timeout(SOON):
        while not (found := await queue.entries_of([name])):
            await asyncio.sleep(0.05)
    return found[name]


async def answer(queue: MongoCommandQueue, entry: QueueEntry) -> None:
    """As check-in does when the device has asked and answered."""
    now = SystemClock().now()
    await queue.mark_sent([SendClaim(entry, None)], "connect", now)
    report = Report(entry.enrollment, entry.command_uuid, None, EntryState.ACKNOWLEDGED, "event")
    assert await queue.report([report], now) == 1


async def test_every_replica_hears_of_an_answer_wherever_it_came(
    replicas: list[ServiceProcess], queue: MongoCommandQueue
) -> None:
    posting = asyncio.create_task(post(replicas[0], "?wait=30", command_uuid="c-1"))
    entry = await queued_entry(queue, "c-1")
    reading = asyncio.create_task(get(replicas[1], "/v1/commands/MAC/c-1?wait=30"))
    await asyncio.sleep(0.5)
    assert not posting.done() and not reading.done()

    await answer(queue, entry)

    async with asyncio.timeout(SOON):
        posted, read = await posting, await reading
    assert posted.status_code == 201
    assert posted.json()["command"]["state"] == read["state"] == "acknowledged"


async def test_a_process_that_ends_answers_those_that_wait_and_exits_with_0(
    replicas: list[ServiceProcess], queue: MongoCommandQueue
) -> None:
    waiting = asyncio.create_task(post(replicas[0], "?wait=60", command_uuid="c-1"))
    await queued_entry(queue, "c-1")
    start = time.monotonic()

    exit_code = await asyncio.to_thread(replicas[0].terminate)

    answered = await waiting
    assert (answered.status_code, exit_code) == (201, 0)
    assert set(answered.json()) == {"payload", "timed_out"}
    assert time.monotonic() - start < SOON


async def test_a_client_that_goes_away_frees_its_slot(
    replicas: list[ServiceProcess], queue: MongoCommandQueue
) -> None:
    api = ApiClient(API_KEY)
    body = b'{"udid": "MAC", "request_type": "ProfileList", "command_uuid": "c-1"}'
    request = api.request("POST", "/v1/commands?wait=60", body)
    connections = [Connection("127.0.0.1", replicas[0].port) for _ in range(2)]
    calls = [asyncio.create_task(each.send(request)) for each in connections]
    await queued_entry(queue, "c-1")
    async with asyncio.timeout(SOON):
        while (refused := await post(replicas[0], "?wait=0.01")).status_code != 429:
            await asyncio.sleep(0.05)

    for connection in connections:
        connection.close()

    await asyncio.gather(*calls, return_exceptions=True)
    assert int(refused.headers["retry-after"]) > 0
    async with asyncio.timeout(SOON):
        while (await post(replicas[0], "?wait=0.01")).status_code == 429:
            await asyncio.sleep(0.05)


async def test_a_job_goes_on_at_another_process_when_its_own_ends(
    replicas: list[ServiceProcess], queue: MongoCommandQueue
) -> None:
    names = [f"D{number:05}" for number in range(JOB_SIZE)]
    started = await post(replicas[0], "?wait=0.05", udids=names, command_uuid="c-1", priority=2)
    assert started.status_code == 202
    job = started.json()["job"]["id"]

    assert await asyncio.to_thread(replicas[0].terminate) == 0

    async with asyncio.timeout(60):
        while (found := await get(replicas[1], f"/v1/jobs/{job}"))["state"] != "finished":
            await asyncio.sleep(0.2)
    assert (found["queued"], found["already_queued"], found["refused"]) == (JOB_SIZE, 0, [])
    some = EnrollmentKey(names[-1], device=names[-1])
    [entry] = await queue.open_entries(some)
    assert (entry.command_uuid, entry.priority) == ("c-1", 2)
    assert [each["id"] for each in (await get(replicas[1], "/v1/jobs"))["jobs"]] == [job]


async def test_one_request_for_many_devices_is_answered_with_what_was_refused(
    replicas: list[ServiceProcess], queue: MongoCommandQueue
) -> None:
    await post(replicas[0], udid="D1", request_type="SecurityInfo", command_uuid="c-1")

    answered = await post(replicas[1], udids=["D0", "D1", "D2"], command_uuid="c-1")

    job = answered.json()["job"]
    assert answered.status_code == 201
    assert (job["state"], job["queued"]) == ("finished", 2)
    assert [each["udid"] for each in job["refused"]] == ["D1"]
    assert "names another command" in job["refused"][0]["error"]


async def test_jobs_that_nobody_can_carry_on_fail_alone_and_end_no_process(
    replicas: list[ServiceProcess], queue: MongoCommandQueue, mongodb_url: str
) -> None:
    mongo = Mongo(mongodb_url)
    jobs, now = MongoJobs(mongo), SystemClock().now()
    unreadable = Command("0" * 64, "c-0", "ProfileList", b"no property list")
    readable = encode_command("c-1", "ProfileList", {})
    gone = Command("1" * 64, "c-2", "ProfileList", b"")
    await queue.store([unreadable, readable], now)
    for name, command, owner in (
        ("unreadable", unreadable, None),
        ("without command", gone, None),
        ("without targets", readable, None),
        ("of tomorrow", readable, "a replica of tomorrow"),
    ):
        if name != "without targets":
            await jobs.add_parts([JobPart(name, 0, ("D1", "D2"))], now)
        terms, caller = Terms(), "ci"
        job = Job(name, command.uuid, command.hash, "ProfileList", terms, True, caller, 2, now)
        await jobs.add(replace(job, owner=owner))
    newer = {"$set": {"state": "paused"}}
    await mongo.collection("jobs").update_one({"_id": "of tomorrow"}, newer)
    await mongo.close()

    async with asyncio.timeout(30):
        while any(job["state"] == "running" for job in await listed(replicas[0])):
            await asyncio.sleep(0.2)

    after = await post(replicas[0], udids=["D1", "D2"], command_uuid="c-3")
    assert (after.status_code, after.json()["job"]["state"]) == (201, "finished")
    [_, *found] = sorted(
        await listed(replicas[1]), key=lambda job: str(job["created_at"]), reverse=True
    )
    assert {job["id"]: (job["state"], job["refused_total"], job["error"]) for job in found} == {
        "unreadable": ("failed", 2, "plist: is no property list"),
        "without command": ("failed", 2, "its command is not stored any more"),
        "without targets": (
            "failed",
            2,
            "1 of the 1 parts of its targets are not stored any more",
        ),
        "of tomorrow": ("paused", 0, None),
    }
    assert [process.exit_code for process in replicas] == [None, None]


async def listed(process: ServiceProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await get(process, "/v1/jobs"))["jobs"]
    return found
