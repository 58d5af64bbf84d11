"""Commands queued many times, over HTTP: MicroMDM's way, where each is delivered, and the way that asks for
the newest only."""

import asyncio
import base64
import plistlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.whole import Device, Whole, given, new_id, whole_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPIC = "macromdm.CommandSuperseded"
PROFILE = plistlib.dumps({"PayloadIdentifier": "wifi", "PayloadType": "Configuration"})
QUESTION = {"request_type": "DeviceInformation", "queries": ["OSVersion"]}
INSTALL = {"request_type": "InstallProfile", "payload": base64.b64encode(PROFILE).decode()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    """Its subscriber asked for our own topic."""
    settings = {"MDM_WEBHOOK_EXTRA_TOPICS": TOPIC}
    async with whole_server(tmp_path_factory.mktemp("superseding"), settings) as found:
        yield found


async def queue(device: Device, **body: Any) -> str:
    answer = await device.whole.api("POST", "/v1/commands", {"udid": device.id, **body})
    assert answer.status_code == 201, answer.text
    uuid: str = answer.json()["payload"]["command_uuid"]
    return uuid


async def queue_raw(device: Device, query: str, **command: Any) -> str:
    uuid = new_id()
    plist = plistlib.dumps({"CommandUUID": uuid, "Command": command})
    answer = await device.whole.api("POST", f"/v1/commands/{device.id}{query}", plist)
    assert answer.status_code == 201, answer.text
    return uuid


async def fetched(device: Device) -> list[str]:
    """The commands that the device gets, and answers, until there is none."""
    uuids: list[str] = []
    uuid = given(await device.connect())
    while uuid is not None:
        uuids.append(uuid)
        uuid = given(await device.connect("Acknowledged", CommandUUID=uuid))
    return uuids


async def shown(device: Device, uuid: str) -> dict[str, Any]:
    answer = await device.whole.api("GET", f"/v1/commands/{device.id}/{uuid}")
    found: dict[str, Any] = answer.json()
    return found


async def test_the_same_command_queued_as_micromdms_clients_do_is_delivered_each_time(
    server: Whole,
) -> None:
    device = await server.enrolled()
    uuids = []
    for _ in range(5):
        uuids.append(await queue(device, **INSTALL))
        uuids.append(await queue(device, **QUESTION))
        uuids.append(await queue(device, Command={"RequestType": "ProfileList"}))
        uuids.append(await queue_raw(device, "", RequestType="InstallProfile", Payload=PROFILE))
    at_once = await asyncio.gather(*(queue(device, **INSTALL) for _ in range(5)))

    got = await fetched(device)

    assert got[: len(uuids)] == uuids
    assert sorted(got[len(uuids) :]) == sorted(at_once)
    for uuid in got:
        assert (await shown(device, uuid))["state"] == "acknowledged"
    [*_, last] = await server.events_of(device.id, 2 + 1 + len(got))
    assert last["acknowledge_event"]["command_uuid"] == got[-1]


async def test_the_newest_of_those_that_ask_for_it_is_sent_alone(server: Whole) -> None:
    device = await server.enrolled()
    asks = {"supersede": True}
    profile, question = [await queue(device, **body, **asks) for body in (INSTALL, QUESTION)]
    raw = {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]}
    second = await queue_raw(device, "?supersede=true", **raw)
    untouched = [await queue(device, **INSTALL), await queue_raw(device, "", **raw)]
    newest = [await queue(device, **INSTALL, **asks), await queue(device, **QUESTION, **asks)]

    assert await fetched(device) == untouched + newest
    superseded = {profile: newest[0], question: second, second: newest[1]}
    for older, newer in superseded.items():
        found = await shown(device, older)
        assert (found["state"], found["superseded_by"]) == ("superseded", newer)
    assert (await shown(device, newest[0]))["superseded_by"] is None
    fetches = 1 + len(untouched + newest)
    events = await server.events_of(device.id, 2 + fetches + len(superseded))
    told = [event["command_event"] for event in events if event["topic"] == TOPIC]
    assert {each["command_uuid"]: each["superseded_by"] for each in told} == superseded
    assert {each["state"] for each in told} == {"superseded"}


async def test_the_targets_of_a_job_may_ask_for_it_too(server: Whole) -> None:
    device = await server.enrolled()
    older = await queue(device, **QUESTION, supersede=True)
    body = {"udids": [device.id], **QUESTION, "supersede": True}
    accepted = await server.api("POST", "/v1/commands", body)
    assert accepted.status_code == 201, accepted.text
    async with asyncio.timeout(20):
        while (await shown(device, older))["state"] != "superseded":
            await asyncio.sleep(0.05)
    [newer] = await fetched(device)
    assert newer != older
    refused = await server.api("POST", "/v1/commands", body | {"collapse_key": "mine"})
    assert refused.status_code == 400
    assert [fault["path"] for fault in refused.json()["faults"]] == ["supersede"]
