"""A subscription's life by API on a whole server: made, tested, paused, resumed, replayed, deleted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from shared.times import rfc3339
from tests.integration.whole import Whole, whole_server
from tests.support.harness.sink import Arrival, Sink
from tests.support.harness.system import deliveries_command

SOON = 20.0
REPLAYED = 60.0
"""Seconds: a replay looks at the last events once they are surely in the journal."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Whole]:
    async with whole_server(tmp_path) as found:
        yield found


@pytest.fixture
async def receiver() -> AsyncIterator[Sink]:
    async with Sink() as found:
        yield found


async def ask(server: Whole, method: str, path: str, body: object = None) -> dict[str, Any]:
    answer = await server.api(method, f"/v1/webhooks{path}", body)
    assert answer.is_success, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def until(condition: Callable[[], bool], seconds: float = SOON) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def state(server: Whole, path: str) -> str:
    return str((await ask(server, "GET", path))["state"])


async def reached(server: Whole, path: str, wanted: str) -> None:
    async with asyncio.timeout(REPLAYED):
        while await state(server, path) != wanted:
            await asyncio.sleep(0.2)


def events_of(receiver: Sink, device: str) -> list[Arrival]:
    return [each for each in receiver.taken if each.device == device]


def topics(arrivals: list[Arrival]) -> list[str]:
    return [str(each.event["topic"]) for each in arrivals]


async def test_a_subscription_is_made_delivered_to_paused_resumed_and_deleted(
    server: Whole, receiver: Sink
) -> None:
    made = await ask(server, "POST", "", {"name": "inventory", "url": receiver.url})
    path = f"/{made['id']}"

    tested = await ask(server, "POST", f"{path}/test")
    assert tested["delivered"] is True
    [arrival] = receiver.taken
    assert arrival.event["topic"] == "macromdm.Test"
    signed = Webhook(made["secret"]).verify(arrival.body, arrival.headers)
    assert signed["event_id"] == tested["event_id"]

    await asyncio.sleep(2)  # all replicas follow within two seconds
    device = await server.enrolled()
    await until(lambda: len(events_of(receiver, device.id)) == 2)
    assert topics(events_of(receiver, device.id)) == ["mdm.Authenticate", "mdm.TokenUpdate"]

    assert (await ask(server, "POST", f"{path}/pause"))["state"] == "paused"
    await asyncio.sleep(2)
    for _ in range(3):
        await device.connect()
    async with asyncio.timeout(SOON):
        while (await ask(server, "GET", path))["status"]["waiting"] != 3:
            await asyncio.sleep(0.1)
    assert len(events_of(receiver, device.id)) == 2
    waiting = await ask(server, "GET", f"{path}/deliveries")
    assert [each["device"] for each in waiting["deliveries"]] == [device.id] * 3

    await ask(server, "POST", f"{path}/resume")
    await until(lambda: len(events_of(receiver, device.id)) == 5)
    times = [each.event["created_at"] for each in events_of(receiver, device.id)]
    assert times == sorted(times)

    await ask(server, "DELETE", path)
    await asyncio.sleep(2)
    before = len(receiver.taken)
    await device.connect()
    await asyncio.sleep(1)
    assert len(receiver.taken) == before
    assert (await server.api("GET", f"/v1/webhooks{path}")).status_code == 404


async def test_events_of_a_day_come_again_with_a_header_that_says_so(
    server: Whole, receiver: Sink
) -> None:
    devices = [await server.enrolled() for _ in range(3)]
    made = await ask(server, "POST", "", {"name": "later", "url": receiver.url})
    since = rfc3339(datetime.now(UTC) - timedelta(days=1))

    started = await deliveries_command(server.process, "replay", made["id"], "--since", since)
    replay = started.split()[0]
    await reached(server, f"/{made['id']}/replays/{replay}", "done")
    await until(lambda: len(receiver.taken) == 6)
    [listed] = (await deliveries_command(server.process, "replays", made["id"])).splitlines()
    assert listed.startswith(f"{replay}  state=done  stored=6  progress=100%")

    for device in devices:
        arrivals = events_of(receiver, device.id)
        assert topics(arrivals) == ["mdm.Authenticate", "mdm.TokenUpdate"]
        headers = {name.lower(): value for each in arrivals for name, value in each.headers.items()}
        assert headers["x-macromdm-replay"] == replay
    originals = {each.event_id: each.body for each in server.sink.taken}
    assert {each.event_id: each.body for each in receiver.taken} == originals


async def test_a_subscription_begins_with_history_and_goes_on_with_new_events(
    server: Whole, receiver: Sink
) -> None:
    device = await server.enrolled()
    start = rfc3339(datetime.now(UTC) - timedelta(hours=1))

    made = await ask(server, "POST", "", {"name": "h", "url": receiver.url, "start": start})
    assert made["state"] == "preparing"
    await device.connect()
    await reached(server, f"/{made['id']}", "active")
    await until(lambda: len(events_of(receiver, device.id)) == 3)
    await device.connect()
    await until(lambda: len(events_of(receiver, device.id)) == 4)

    expected = ["mdm.Authenticate", "mdm.TokenUpdate", "mdm.Connect", "mdm.Connect"]
    assert topics(events_of(receiver, device.id)) == expected
