"""What devices answer that unlocks them is shown to administrators only, whichever way one asks."""

import asyncio
import base64
import plistlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from services.commands.history.schemas import ANSWER_IS_SECRET
from shared.concurrency.periodic import Loops
from shared.domain.access import Scope
from shared.domain.command import EntryState
from shared.domain.event import Event, Topic
from shared.times import nanoseconds
from tests.support.commands_world import MAC
from tests.support.fakes.clock import settle
from tests.unit.shared.web.test_api_access import CATALOGUE, Api

UUID = "c-1"
SECRET = b"what unlocks the device"
PATH = f"/v1/commands/MAC/{UUID}"
BODY = plistlib.dumps({"CommandUUID": UUID, "Status": "Acknowledged", "UnlockToken": SECRET})
MORE = {"Identifiers": ["com.example.app"]}
NOT_ADMIN = sorted(set(Scope) - {Scope.ADMIN})
SECOND = timedelta(seconds=1)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    yield made
    await made.http.aclose()


async def queue(api: Api, request_type: str) -> None:
    body = {"udid": "MAC", "command_uuid": UUID, "Command": MORE | {"RequestType": request_type}}
    if request_type != "ManagedApplicationConfiguration":
        body["Command"] = {"RequestType": request_type}
    answer = await api.call("POST", "/v1/commands", body)
    assert answer.status_code == 201, answer.text


async def report(api: Api, state: EntryState) -> None:
    """The device has had it, and answers, as check-in journals and applies it."""
    entry = api.world.entry(uuid=UUID)
    if entry.handed_by is None:
        await api.world.connect()
    api.clock.advance(SECOND)
    event = Event(
        id=f"event-{state}",
        topic=Topic.CONNECT,
        key=MAC,
        created_at=nanoseconds(api.clock.now()),
        raw_payload=BODY,
        writer="w",
        number=1,
        status="NotNow" if state is EntryState.NOT_NOW else "Acknowledged",
        command_uuid=UUID,
    )
    await api.process.journal.append([event])
    await api.world.answer(api.world.entry(uuid=UUID), state, event.id)


def is_told(answer: dict[str, Any]) -> bool:
    """Whether a device's answer is shown with what it says; everyone sees that there was one."""
    assert (answer["event_id"], answer["received_at"], answer["status"]) != (None, None, None)
    assert answer["error_chain"] is None
    if answer["raw"] is None:
        assert answer["response"] is None
        return False
    assert answer["response"]["UnlockToken"] == base64.b64encode(SECRET).decode()
    return bool(answer["raw"] == base64.b64encode(BODY).decode())


@pytest.mark.parametrize("request_type", sorted(ANSWER_IS_SECRET))
@pytest.mark.parametrize("held", NOT_ADMIN)
async def test_an_answer_that_unlocks_a_device_is_for_administrators(
    api: Api, request_type: str, held: Scope
) -> None:
    await queue(api, request_type)
    await report(api, EntryState.ACKNOWLEDGED)
    reader, admin = await api.token(Scope.READ, held), await api.token(Scope.ADMIN, name="admin")

    shown = (await api.call("GET", PATH, auth=("anybody", reader))).json()
    whole = (await api.call("GET", PATH, auth=("anybody", admin))).json()

    assert shown["state"] == "acknowledged"
    assert not is_told(shown["answer"])
    assert is_told(whole["answer"])


async def test_other_answers_are_for_all_who_read(api: Api) -> None:
    await queue(api, "ProfileList")
    await report(api, EntryState.ACKNOWLEDGED)
    reader = await api.token(Scope.READ)

    shown = (await api.call("GET", PATH, auth=("anybody", reader))).json()

    assert is_told(shown["answer"])


async def test_who_cancels_a_command_is_not_told_what_its_device_said(api: Api) -> None:
    await queue(api, "RequestUnlockToken")
    await report(api, EntryState.NOT_NOW)
    token = await api.token(Scope.COMMANDS)

    cancelled = await api.call("DELETE", PATH, auth=("anybody", token))
    await report(api, EntryState.ACKNOWLEDGED)
    reader = await api.token(Scope.READ, name="reader")
    late = (await api.call("GET", PATH, auth=("anybody", reader))).json()["late_answer"]

    assert cancelled.status_code == 200
    assert not is_told(cancelled.json()["answer"])
    assert late["state"] == "acknowledged"
    assert not is_told(late["answer"])


@pytest.mark.parametrize("held", Scope)
async def test_who_waits_for_an_answer_is_told_no_more_than_who_reads_it(
    api: Api, held: Scope
) -> None:
    token = await api.token(Scope.COMMANDS, held)
    waiting = asyncio.create_task(api.process.poll.run(Loops(api.world.clock)))
    body = {"udid": "MAC", "command_uuid": UUID, "request_type": "ActivationLockBypassCode"}
    options = {"auth": ("anybody", token), "params": {"wait": "30"}}
    asking = asyncio.create_task(api.call("POST", "/v1/commands", body, **options))
    for _ in range(20):
        await settle()

    await report(api, EntryState.ACKNOWLEDGED)
    await api.clock.run(SECOND)
    answer = await asking

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    command = answer.json()["command"]
    assert command["state"] == "acknowledged"
    assert is_told(command["answer"]) is (held is Scope.ADMIN)


def test_the_request_types_with_secret_answers_are_apples() -> None:
    assert set(tuple(CATALOGUE.forms)) >= ANSWER_IS_SECRET
