"""Tokens and the audit log on a real store, as operators use them."""

import asyncio
import time

import httpx
import pytest

from tests.integration.whole import Whole, new_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def create(whole: Whole, *scopes: str) -> tuple[str, str]:
    """Name and secret of a new token, once every process knows it."""
    name = f"t-{new_id()}"
    answer = await whole.api("POST", "/v1/tokens", {"name": name, "scopes": scopes})
    assert answer.status_code == 201
    secret = answer.json()["token"]
    return name, secret


async def is_answered(whole: Whole, secret: str, status: int, within: float) -> bool:
    """Whether a read with this token is answered so within some seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        answer = await whole.api("POST", "/v1/devices", auth=("t", secret))
        if answer.status_code == status:
            return True
        await asyncio.sleep(0.05)
    return False


async def audit(whole: Whole, **filters: str | int) -> list[dict[str, object]]:
    answer = await whole.api("GET", "/v1/audit", params=filters)
    assert answer.status_code == 200
    entries: list[dict[str, object]] = answer.json()["entries"]
    return entries


async def test_a_token_lives_from_its_making_to_its_revocation(whole: Whole) -> None:
    name, secret = await create(whole, "read")
    assert await is_answered(whole, secret, 200, within=5)
    assert (await whole.api("DELETE", "/v1/devices", auth=("t", secret))).status_code == 403

    await whole.api("DELETE", f"/v1/tokens/{name}")

    assert await is_answered(whole, secret, 401, within=10)
    listed = (await whole.api("GET", "/v1/tokens")).json()["tokens"]
    [token] = [token for token in listed if token["name"] == name]
    assert token["revoked_at"]


async def test_every_change_of_a_device_is_found_by_its_target(whole: Whole) -> None:
    device = await whole.enrolled()
    udid = device.id
    command = {"udid": udid, "request_type": "ProfileList"}
    changes = [
        ("POST", "/v1/commands", command),
        ("POST", f"/v1/push/{udid}", None),
        ("DELETE", f"/v1/commands/{udid}", None),
        ("POST", f"/v1/devices/{udid}/block", None),
        ("POST", f"/v1/devices/{udid}/unblock", None),
        ("DELETE", "/v1/devices", {"udids": [udid]}),
    ]
    statuses = [(await whole.api(method, path, body)).status_code for method, path, body in changes]

    entries = (await audit(whole, target=udid))[::-1]

    assert [entry["action"] for entry in entries] == [
        "command.queue",
        "device.push",
        "command.clear",
        "device.block",
        "device.unblock",
        "device.remove",
    ]
    assert [entry["status"] for entry in entries] == statuses
    assert {entry["caller"] for entry in entries} == {"api-key"}
    assert entries[0]["detail"] == "ProfileList"


async def test_the_next_cursor_of_a_page_leads_to_earlier_entries(whole: Whole) -> None:
    device = await whole.enrolled()
    for action in ("block", "unblock"):
        await whole.api("POST", f"/v1/devices/{device.id}/{action}")
    asked = {"target": device.id, "limit": 1}

    page = (await whole.api("GET", "/v1/audit", params=asked)).json()
    earlier = await audit(whole, **asked, cursor=page["next_cursor"])

    assert page["next"] == page["next_cursor"]
    assert [entry["action"] for entry in (*page["entries"], *earlier)] == [
        "device.unblock",
        "device.block",
    ]


async def test_all_of_many_commands_at_once_are_in_the_log(whole: Whole) -> None:
    name, secret = await create(whole, "commands")
    assert await is_answered(whole, secret, 403, within=5)
    device = await whole.enrolled()
    command = {"udid": device.id, "request_type": "ProfileList"}

    async def queue() -> httpx.Response:
        return await whole.api("POST", "/v1/commands", command, auth=("t", secret))

    answers = await asyncio.gather(*(queue() for _ in range(100)))

    assert {answer.status_code for answer in answers} == {201}
    entries = await audit(whole, caller=name, action="command.queue", limit=1000)
    assert len(entries) == 100
    assert len({entry["id"] for entry in entries}) == 100
