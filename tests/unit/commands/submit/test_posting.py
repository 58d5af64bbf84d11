"""Queueing commands over HTTP: keys against doubles, calls that wait, many devices, limits."""

import asyncio
import json
import plistlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.commands.queue.requeue import QueueRules
from services.commands.submit.service import JOB_PATIENCE
from shared.apple.catalogue.catalogue import CommandCatalogue
from shared.concurrency.periodic import Loops
from shared.domain.command import EntryState
from shared.domain.enrollment import EnrollmentKey
from shared.domain.job import PART_SIZE
from shared.web.api.auth import ApiAuth
from shared.web.server.app import create_app
from tests.support.commands_world import FIRST_UUID, World, enrolled
from tests.support.fakes.clock import settle
from tests.support.posting_world import MEBIBYTE, PostingWorld

CATALOGUE = CommandCatalogue.load()
KEYS = ("secret", "another secret")
USUAL_RULES = QueueRules()
SECOND = timedelta(seconds=1)
PLIST = plistlib.dumps({"CommandUUID": FIRST_UUID, "Command": {"RequestType": "ProfileList"}})


class Client:
    """Clients with two keys, of a process whose background work runs."""

    def __init__(
        self,
        *,
        plist_limit: int = 8 * MEBIBYTE,
        most_waiting: int = 100,
        rules: QueueRules = USUAL_RULES,
    ) -> None:
        self.world = World(rules=rules)
        self.process = PostingWorld(self.world, most_waiting=most_waiting, max_size=plist_limit)
        auth = ApiAuth([SecretStr(key) for key in KEYS])
        app = create_app([self.process.service(auth)], max_body=2**25, metrics=None)
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://server"
        )
        loops = Loops(self.world.clock)
        self._background = [
            asyncio.create_task(self.process.poll.run(loops)),
            asyncio.create_task(self.process.worker.run(loops)),
        ]

    async def close(self) -> None:
        for each in self._background:
            each.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.http.aclose()

    async def call(
        self, method: str, path: str, body: object = None, *, key: str = KEYS[0], **headers: str
    ) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.http.request(
            method, path, content=content, headers=named, auth=("micromdm", key)
        )
        return answer.status_code, answer.json()

    async def post(self, path: str = "/v1/commands", **body: object) -> tuple[int, Any]:
        whom: dict[str, object] = {} if "udids" in body else {"udid": "MAC"}
        return await self.call("POST", path, {**whom, "request_type": "ProfileList", **body})

    async def keyed(self, key: str, *, api_key: str = KEYS[0], **body: object) -> tuple[int, Any]:
        command = {"udid": "MAC", "request_type": "ProfileList", **body}
        return await self.call("POST", "/v1/commands", command, key=api_key, Idempotency_Key=key)

    def enroll(self, count: int) -> list[str]:
        names = [f"D{number:05}" for number in range(count)]
        for name in names:
            self.world.enrollments.add(enrolled(EnrollmentKey(name, name, udid=name)))
        return names


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client()
    yield made
    await made.close()


async def settled() -> None:
    for _ in range(20):
        await settle()


# --- Idempotency-Key


async def test_the_same_key_again_is_the_same_command(client: Client) -> None:
    first = await client.keyed("order 66")
    again = await client.keyed("order 66")

    assert (first[0], again[0]) == (201, 200)
    assert first[1] == again[1]
    assert len(client.world.queue.entries) == 1


async def test_another_command_under_the_same_key_is_a_conflict(client: Client) -> None:
    await client.keyed("order 66")

    status, answer = await client.keyed("order 66", request_type="SecurityInfo")

    said = "Idempotency-Key: was used with another body for this device; use a new key"
    assert (status, answer["error"]) == (409, said)


async def test_another_command_under_a_command_uuid_is_a_conflict_that_names_that(
    client: Client,
) -> None:
    named = {"command_uuid": "mine"}
    await client.keyed("order 66", **named)

    _, answer = await client.keyed("order 66", request_type="SecurityInfo", **named)

    assert answer["error"] == "command_uuid: mine names another command of this device"


async def test_a_job_says_so_of_the_key_too(client: Client) -> None:
    await client.keyed("order 66")

    _, answer = await client.keyed(
        "order 66", request_type="SecurityInfo", udid=None, udids=["MAC"]
    )

    [refused] = answer["job"]["refused"]
    assert refused["error"].startswith("Idempotency-Key: was used with another body")


async def test_the_key_of_another_caller_is_another_key(client: Client) -> None:
    _, mine = await client.keyed("order 66")
    status, others = await client.keyed("order 66", api_key=KEYS[1])

    assert status == 201
    assert mine["payload"]["command_uuid"] != others["payload"]["command_uuid"]


async def test_a_command_uuid_goes_before_the_key(client: Client) -> None:
    _, answer = await client.keyed("order 66", command_uuid="mine")

    assert answer["payload"]["command_uuid"] == "mine"


async def test_a_key_that_is_none_is_refused(client: Client) -> None:
    status, answer = await client.keyed("a" * 256)

    assert status == 400
    assert answer["faults"][0]["path"] == "Idempotency-Key"
    assert client.world.queue.entries == {}


# --- waiting


@pytest.mark.parametrize("path", ["/v1/commands", "/v1/commands/MAC"])
async def test_a_call_that_waits_gets_the_devices_answer(client: Client, path: str) -> None:
    body = PLIST if path.endswith("MAC") else {"udid": "MAC", "request_type": "ProfileList"}
    call = asyncio.create_task(client.call("POST", f"{path}?wait=30", body))
    await settled()
    entry = await client.world.connect()
    assert entry is not None and not call.done()
    await client.world.answer(entry)

    await client.world.clock.run(SECOND)
    status, answer = await call

    assert status == 201
    assert answer["payload"]["command_uuid"] == entry.command_uuid
    assert answer["command"]["state"] == "acknowledged"
    assert answer["command"]["udid"] == "MAC"


async def test_without_an_answer_in_time_the_plain_answer_comes(client: Client) -> None:
    call = asyncio.create_task(client.post("/v1/commands?wait=2.5"))
    await settled()
    assert not call.done()

    await client.world.clock.run(2.5 * SECOND)
    status, answer = await call

    assert status == 201
    assert set(answer) == {"payload", "timed_out"}


async def test_a_retry_of_what_was_answered_meanwhile_hears_of_it(client: Client) -> None:
    await client.post(command_uuid="c-1")
    entry = await client.world.connect()
    assert entry is not None
    await client.world.answer(entry, EntryState.ERROR)
    call = asyncio.create_task(client.post("/v1/commands?wait=30", command_uuid="c-1"))
    await settled()

    await client.world.clock.run(SECOND)
    status, answer = await call

    assert (status, answer["command"]["state"]) == (200, "error")


@pytest.mark.parametrize("query", ["ttl=1&priority=3", "TTL=1", "wait=2&ttl=1", "foo=1", "waits=1"])
async def test_a_term_in_the_query_queues_nothing_and_is_said_to_go_into_the_body(
    client: Client, query: str
) -> None:
    status, answer = await client.post(f"/v1/commands?{query}")

    names = [each.partition("=")[0] for each in query.split("&")]
    assert status == 400
    assert [each["path"] for each in answer["faults"]] == [n for n in names if n != "wait"]
    assert answer["faults"][0]["expected"].startswith("a known query parameter")
    assert answer["faults"][0]["expected"].endswith("; all else goes into the body")
    assert client.world.queue.entries == {}


@pytest.mark.parametrize("wait", ["0", "121", "soon"])
async def test_a_wait_that_is_none_queues_nothing(client: Client, wait: str) -> None:
    status, answer = await client.post(f"/v1/commands?wait={wait}")

    assert status == 400
    assert answer["faults"] == [
        {"path": "wait", "expected": "seconds: a number above 0, and at most 120"}
    ]
    assert client.world.queue.entries == {}


async def test_too_many_waiting_calls_of_one_key_queue_nothing() -> None:
    client = Client(most_waiting=1)
    waiting = asyncio.create_task(client.post("/v1/commands?wait=30", command_uuid="c-1"))
    await settled()

    answer = await client.http.post(
        "/v1/commands?wait=30",
        json={"udid": "MAC", "request_type": "ProfileList"},
        auth=("micromdm", KEYS[0]),
    )

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert len(client.world.queue.entries) == 1
    client.process.poll.stop()
    assert (await waiting)[0] == 201
    await client.close()


async def test_a_refused_command_does_not_wait(client: Client) -> None:
    status, _ = await client.post("/v1/commands?wait=30", udid="nobody")

    assert status == 404


# --- many devices


async def test_a_job_is_answered_once_it_is_finished(client: Client) -> None:
    names = client.enroll(70)

    status, answer = await client.post(udids=[*names, "nobody"], command_uuid="c-1")

    job = answer["job"]
    assert status == 201
    assert answer["payload"]["command_uuid"] == job["command_uuid"] == "c-1"
    assert (job["state"], job["total"], job["queued"]) == ("finished", 71, 70)
    assert job["refused_total"] == 1
    assert job["refused"] == [
        {"udid": "nobody", "error": "udid: no device or user nobody is enrolled"}
    ]
    assert len(client.world.queue.entries) == 70


async def test_a_job_that_takes_long_is_answered_with_202_and_can_be_followed(
    client: Client,
) -> None:
    names = client.enroll(3)
    gate = client.world.at_store.stop("insert")
    call = asyncio.create_task(client.post(udids=names))
    await settled()

    await client.world.clock.run(JOB_PATIENCE)
    status, answer = await call
    job = answer["job"]
    gate.set()
    await settled()
    later_status, later = await client.call("GET", f"/v1/jobs/{job['id']}")

    assert (status, job["state"], job["queued"]) == (202, "running", 0)
    assert (later_status, later["state"], later["queued"]) == (200, "finished", 3)


async def test_a_client_says_how_long_it_waits_for_a_job(client: Client) -> None:
    client.world.at_store.stop("insert")
    call = asyncio.create_task(client.post("/v1/commands?wait=30", udids=client.enroll(3)))
    await settled()
    await client.world.clock.run(29 * SECOND)
    assert not call.done()

    await client.world.clock.run(SECOND)

    assert (await call)[0] == 202


async def test_the_same_job_again_queues_nothing_twice(client: Client) -> None:
    names = client.enroll(5)
    body = {"udids": names, "request_type": "ProfileList"}
    _, first = await client.call("POST", "/v1/commands", body, Idempotency_Key="order 66")
    client.world.clock.advance(SECOND)

    _, again = await client.call("POST", "/v1/commands", body, Idempotency_Key="order 66")

    assert first["job"]["queued"] == 5
    assert (again["job"]["queued"], again["job"]["already_queued"]) == (0, 5)
    assert len(client.world.queue.entries) == 5


async def test_refusals_are_read_in_pages(client: Client) -> None:
    unknown = [f"nobody-{number}" for number in range(PART_SIZE + 5)]
    _, answer = await client.post(udids=[*unknown, "MAC"])
    path = f"/v1/jobs/{answer['job']['id']}"

    found, cursor = [], ""
    while cursor is not None:
        status, page = await client.call("GET", f"{path}?limit=400&cursor={cursor}")
        assert status == 200 and len(page["refused"]) <= 400
        found += [each["udid"] for each in page["refused"]]
        cursor = page["next_cursor"]

    assert found == unknown
    assert len(answer["job"]["refused"]) == 1000
    assert answer["job"]["refused_total"] == len(unknown)


async def test_jobs_are_listed_newest_first_in_pages(client: Client) -> None:
    ids = [
        (await client.post(udids=["MAC"], command_uuid=f"c-{number}"))[1]["job"]["id"]
        for number in range(3)
    ]

    _, first = await client.call("GET", "/v1/jobs?limit=2")
    _, rest = await client.call("GET", f"/v1/jobs?limit=2&cursor={first['next_cursor']}")

    assert [each["id"] for each in first["jobs"]] == ids[:0:-1]
    assert [each["id"] for each in rest["jobs"]] == ids[:1]
    assert rest["next_cursor"] is None
    assert "refused" not in first["jobs"][0]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=%00", "cursor=x"])
async def test_a_page_that_is_none_is_refused_by_its_name(client: Client, query: str) -> None:
    _, answer = await client.post(udids=["MAC"])

    status, refused = await client.call("GET", f"/v1/jobs/{answer['job']['id']}?{query}")

    assert status == 400
    assert refused["faults"][0]["path"] == query.partition("=")[0]


async def test_a_job_that_nobody_made_is_404(client: Client) -> None:
    assert (await client.call("GET", "/v1/jobs/nothing"))[0] == 404


async def test_warnings_of_a_job_are_counted(client: Client) -> None:
    names = client.enroll(8)

    _, answer = await client.post(udids=names, request_type="DeviceLock")

    for warning in answer["job"]["warnings"]:
        assert warning["count"] == 8
        assert len(warning["udids"]) == 5


async def test_a_stopping_process_answers_jobs_at_once(client: Client) -> None:
    client.world.at_store.stop("insert")
    call = asyncio.create_task(client.post(udids=["MAC"]))
    await settled()

    client.process.worker.stop()
    await settled()

    assert (await call)[0] == 202


# --- size


async def test_a_command_over_the_limit_is_413_and_names_it() -> None:
    client = Client(plist_limit=1000)
    answers = [
        await client.call("POST", "/v1/commands/MAC", PLIST + b" " * 1000),
        await client.post(request_type="InstallApplication", manifest_url="x" * 2000),
        await client.post(request_type="InstallApplication", manifest_url="x" * 900),
    ]

    assert [status for status, _ in answers] == [413, 413, 413]
    assert all("MDM_MAX_COMMAND_SIZE" in answer["error"] for _, answer in answers)
    assert client.world.queue.entries == {}
    await client.close()


async def test_a_full_queue_is_429_with_the_way_out() -> None:
    client = Client(rules=QueueRules(max_open=1))
    await client.post(command_uuid="c-1")

    status, answer = await client.post(command_uuid="c-2")

    assert status == 429
    assert "DELETE /v1/commands/{udid}" in answer["error"]
    await client.close()
