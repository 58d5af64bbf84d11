"""The commands service on the real store: from the request of an API client to what is stored."""

import asyncio
import base64
import plistlib
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

from services.commands.app import build
from services.runtime.adapters import Adapters
from services.runtime.stores import Stores
from services.runtime.wanted_topics import WantedTopics
from shared.concurrency.clock import SystemClock, SystemIds
from shared.concurrency.periodic import Loops
from shared.domain.binding import Binding
from shared.domain.command import EntryState
from shared.domain.enrollment import EnrollmentKey
from shared.domain.event import Topic
from shared.ports.enrollments import Change
from shared.ports.queue import Report, SendClaim
from shared.settings import AllSettings
from shared.storage.database import Database
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.queue.commands import MongoStoredCommands
from shared.storage.queue.store import MongoCommandQueue
from shared.telemetry.metrics import Metrics
from shared.web.server.app import create_app
from shared.web.server.service import Service
from tests.contract.stores import KEYRING
from tests.support.fakes.subscriptions import FakeSubscriptions

KEY = "a-key-of-a-test"
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
UUID = "0198f1d2-0000-7000-8000-000000000001"


@dataclass
class PushRequests:
    """`PushRequests`, noted."""

    requested: set[str] = field(default_factory=set)

    def add(self, enrollments: Collection[str]) -> None:
        self.requested |= set(enrollments)


@dataclass
class System:
    """One commands service, and the store behind it."""

    service: Service
    http: httpx.AsyncClient
    enrollments: MongoEnrollments
    queue: MongoCommandQueue
    commands: MongoStoredCommands
    clock: SystemClock
    ids: SystemIds
    push_requests: PushRequests

    async def post(self, **command: object) -> httpx.Response:
        return await self.http.post("/v1/commands", json={"udid": "MAC", **command})

    async def authenticate(self, expected: str | None = None) -> str:
        """Enroll the device; a new generation ends what the one before it left open."""
        by = self.ids.new()
        now = self.clock.now()
        change = Change(
            MAC,
            by,
            expected,
            Topic.AUTHENTICATE,
            now,
            expected_change=expected,
            certificate="certificate",
            makes_record=expected is None,
        )
        assert await self.enrollments.apply([change]) == [True]
        if expected is not None:
            await self.queue.end_generation(MAC.device, expected)
        return by

    async def shown(self) -> list[str]:
        answer = (await self.http.get("/v1/commands/MAC")).json()
        return [command["uuid"] for command in answer.get("commands", [])]


@pytest.fixture
async def system(database: Database) -> AsyncIterator[System]:
    clock, ids, push_requests = SystemClock(), SystemIds(), PushRequests()
    nobody = cast(
        Any, None
    )  # the commands service uses no more of the broker than its push requests
    adapters = Adapters(
        stores=Stores(database, KEYRING),
        broker=nobody,
        publisher=nobody,
        partitions=nobody,
        push_requests=push_requests,
        push_request_consumer=nobody,
        clock=clock,
        loops=Loops(clock),
        wanted=WantedTopics(FakeSubscriptions()),
        ids=ids,
        metrics=Metrics(),
    )
    service = await build(AllSettings.model_validate({"api_key": SecretStr(KEY)}), adapters)
    app = create_app([service], max_body=2**20, metrics=adapters.metrics)
    http = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://server", auth=("micromdm", KEY)
    )
    records = MongoEnrollments(database, KEYRING)
    try:
        queue, commands = MongoCommandQueue(database, KEYRING), MongoStoredCommands(database)
        yield System(service, http, records, queue, commands, clock, ids, push_requests)
    finally:
        await service.drain()
        await http.aclose()


@pytest.fixture
async def generation(system: System) -> str:
    """The generation of a device that has enrolled."""
    assert await system.enrollments.bind([Binding(MAC, None, "certificate", is_new=True)])
    return await system.authenticate()


async def test_a_command_is_there_for_its_device_when_it_is_answered(
    system: System, generation: str
) -> None:
    answer = await system.post(request_type="DeviceInformation", queries=["OSVersion"])

    assert answer.status_code == 201
    [entry] = await system.queue.open_entries(MAC)
    assert entry.generation == generation
    stored = (await system.queue.commands([entry.command_hash]))[entry.command_hash]
    assert plistlib.loads(stored.plist)["Command"]["Queries"] == ["OSVersion"]
    assert system.push_requests.requested == {"MAC"}


async def test_many_clients_at_once_keep_every_command(system: System, generation: str) -> None:
    answers = await asyncio.gather(*(system.post(request_type="RestartDevice") for _ in range(200)))

    uuids = [answer.json()["payload"]["command_uuid"] for answer in answers]
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(await system.shown()) == sorted(uuids)


async def test_one_uuid_sent_many_times_at_once_is_queued_once(
    system: System, generation: str
) -> None:
    answers = await asyncio.gather(
        *(system.post(request_type="ProfileList", command_uuid=UUID) for _ in range(30))
    )

    assert sorted(answer.status_code for answer in answers) == [200] * 29 + [201]
    assert await system.shown() == [UUID]


async def test_a_command_lives_from_post_to_its_answer_and_is_then_a_retry(
    system: System, generation: str
) -> None:
    await system.post(request_type="ProfileList", command_uuid=UUID)
    [entry] = await system.queue.open_entries(MAC)
    now = system.clock.now()
    assert await system.queue.mark_sent([SendClaim(entry, generation)], "connect-1", now)
    report = Report("MAC", UUID, generation, EntryState.ACKNOWLEDGED, "event-1")
    await system.queue.report([report], now)

    again = await system.post(request_type="ProfileList", command_uuid=UUID)

    assert again.status_code == 200
    assert await system.shown() == []


async def test_a_device_that_enrolls_anew_gets_the_command_when_it_is_sent_again(
    system: System, generation: str
) -> None:
    await system.post(request_type="ProfileList", command_uuid=UUID)
    later = await system.authenticate(generation)
    dropped = await system.shown()

    again = await system.post(request_type="ProfileList", command_uuid=UUID)

    assert dropped == []
    assert again.status_code == 201
    [entry] = await system.queue.open_entries(MAC)
    assert entry.generation == later


async def test_a_raw_plist_comes_back_byte_for_byte(system: System, generation: str) -> None:
    plist = plistlib.dumps({"CommandUUID": UUID, "Command": {"RequestType": "ProfileList"}})
    await system.http.put("/v1/commands/MAC", content=plist)

    answer = (await system.http.get("/v1/commands/MAC")).json()

    assert base64.b64decode(answer["commands"][0]["payload"]) == plist


async def test_a_removed_device_has_no_commands_and_takes_none(
    system: System, generation: str
) -> None:
    await system.post(request_type="ProfileList")

    removal = await system.http.request("DELETE", "/v1/devices", json={"udids": ["MAC"]})
    after = await system.post(request_type="ProfileList")

    assert (removal.status_code, removal.json()) == (200, {})
    assert after.status_code == 404
    assert await system.shown() == []
    assert (await system.http.post("/v1/devices")).json() == {"devices": []}


async def test_a_user_channel_is_not_removed_and_keeps_its_commands(
    system: System, generation: str
) -> None:
    now = system.clock.now()
    change = Change(ANNA, system.ids.new(), None, Topic.TOKEN_UPDATE, now, generation=generation)
    assert await system.enrollments.apply([change]) == [True]
    await system.http.post("/v1/commands", json={"udid": ANNA.id, "request_type": "ProfileList"})

    await system.http.request("DELETE", "/v1/devices", json={"udids": [ANNA.id]})

    answer = (await system.http.get(f"/v1/commands/{ANNA.id}")).json()
    assert len(answer["commands"]) == 1
    assert (await system.post(udid=ANNA.id, request_type="ProfileList")).status_code == 201


async def test_the_janitor_runs_beside_requests_and_ends_when_told(
    system: System, generation: str
) -> None:
    old = system.clock.now() - timedelta(days=2)
    await system.post(request_type="ProfileList")
    running = asyncio.ensure_future(system.service.run())
    await system.post(request_type="SecurityInfo")

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(await system.shown()) == 2
    assert await system.commands.untouched("", old) == {}
