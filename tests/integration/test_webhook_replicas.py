"""Webhooks by two processes: replays, changes and batches, over kills of one and outages of receivers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from shared.times import rfc3339
from tests.integration.test_webhook import event, nothing_is_owed, until
from tests.integration.webhook_replicas import (
    FOLLOWED,
    PATIENCE,
    Replicas,
    firsts,
    taken,
    two_replicas,
)
from tests.support.harness.sink import OK, Arrival, Behaviour, Sink

REFUSING = Behaviour(status=503)
SOON = 10.0
"""Seconds: so soon the others serve the partitions of a replica that joined, left or died."""
DEVICES = 64
REPLAY = "x-macromdm-replay"


@pytest.fixture
async def replicas(tmp_path: Path, mongodb_url: str, amqp_url: str) -> AsyncIterator[Replicas]:
    settings = {"MDM_WEBHOOK_RETRY_SCHEDULE": "1s,1s,1s,2s,2s,5s,5s,5s,10s,30s,1h"}
    async with two_replicas(tmp_path, mongodb_url, amqp_url, settings) as made:
        yield made


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as made:
        yield made


@asynccontextmanager
async def speaking(replicas: Replicas, devices: int, every: float) -> AsyncIterator[None]:
    """All devices say something again and again."""
    over = asyncio.Event()

    async def speak() -> None:
        while not over.is_set():
            await replicas.publish(devices, each=1)
            await asyncio.sleep(every)

    task = asyncio.create_task(speak())
    try:
        yield
    finally:
        over.set()
        await task


def is_replayed(arrival: Arrival) -> bool:
    return REPLAY in arrival.headers


async def test_a_replay_of_a_day_goes_on_in_order_when_its_replica_is_killed(
    replicas: Replicas, sink: Sink
) -> None:
    day = await replicas.journal_a_day(devices=40, each=50)
    id = (await replicas.subscribed(sink))["id"]
    # The other one is frozen, so that we know which of them works on the replay.
    replicas.processes[1].pause()
    since = rfc3339(datetime.now(UTC) - timedelta(days=1, minutes=1))
    path = f"/{id}/replays/" + (await replicas.api("POST", f"/{id}/replay", {"since": since}))["id"]
    seen = [await replicas.api("GET", path)]
    async with asyncio.timeout(PATIENCE):
        while not seen[-1]["stored"]:
            seen.append(await replicas.api("GET", path))
    replicas.processes[0].kill()
    replicas.processes[1].resume()
    assert 0 < seen[-1]["progress"] < 1
    async with speaking(replicas, devices=8, every=1.0), asyncio.timeout(PATIENCE):
        while seen[-1]["state"] != "done":
            await asyncio.sleep(0.2)
            seen.append(await replicas.api("GET", path, replica=1))
        replayed = await taken(sink, 40 * 50, is_replayed)
    live = await taken(sink, sum(map(len, replicas.made.values())), lambda a: not is_replayed(a))
    await until(lambda: nothing_is_owed(replicas.database))

    assert firsts(replayed) == day
    assert firsts(live) == replicas.made
    assert {each.headers[REPLAY] for each in replayed} == {seen[0]["id"]}
    progress = [each["progress"] for each in seen]
    assert progress == sorted(progress)
    assert {0.0, 1.0} < set(progress)
    assert min(each.at for each in live) < max(each.at for each in replayed)


async def test_in_an_outage_a_replica_dies_and_others_join_and_leave_and_the_order_holds(
    replicas: Replicas, sink: Sink
) -> None:
    first, second = replicas.processes
    id = (await replicas.subscribed(sink))["id"]
    async with speaking(replicas, devices=30, every=0.3):
        await taken(sink, 60)
        sink.behaviour = REFUSING
        async with asyncio.timeout(PATIENCE):
            while (await replicas.status(id))["waiting"] < 60:
                await asyncio.sleep(0.1)
        sink.behaviour = Behaviour(delay=0.2)
        await until(lambda: _is_open(sink), PATIENCE)
        first.kill()  # in the middle of its queues: attempts are under way, events stored and un-acked
        died = await replicas.serve(0, 32)
        await asyncio.to_thread(first.start)
        joined = await replicas.serve(16, 16)
        began = time.monotonic()
        assert await asyncio.to_thread(second.terminate) == 0
        await replicas.serve(32, 0)
        left = time.monotonic() - began
        sink.behaviour = OK
    await taken(sink, sum(map(len, replicas.made.values())))
    await until(lambda: nothing_is_owed(replicas.database))

    assert firsts(sink.taken) == replicas.made
    assert max(died, joined, left) < SOON


async def _is_open(sink: Sink) -> bool:
    return sink.open_requests > 3


def arrived_at(sink: Sink) -> set[str]:
    return {each.event_id for each in sink.arrivals}


async def test_changes_by_api_are_followed_by_both_replicas_within_two_seconds(
    replicas: Replicas, sink: Sink
) -> None:
    made = await replicas.subscribed(sink)
    path = f"/{made['id']}"

    async def change(method: str, what: str = "", body: object = None, replica: int = 0) -> Any:
        """By the API of one replica; then devices of all partitions speak."""
        answer = await replicas.api(method, path + what, body, replica)
        await asyncio.sleep(FOLLOWED)
        await replicas.publish(DEVICES, each=1)
        return answer

    rotated = await change("POST", "/secret", {})
    for arrival in await taken(sink, DEVICES):
        for secret in (made["secret"], rotated["secret"]):
            Webhook(secret).verify(arrival.body, arrival.headers)

    async with Sink() as other:
        await change("PATCH", body={"url": other.url}, replica=1)
        await taken(other, DEVICES)
        assert len(arrived_at(sink)) == DEVICES

        await change("POST", "/pause")
        await replicas.waits(made["id"], DEVICES)
        assert len(arrived_at(other)) == DEVICES

        await change("POST", "/resume", replica=1)
        await taken(other, 3 * DEVICES)
        assert firsts(other.taken) == {device: ids[1:] for device, ids in replicas.made.items()}

        await change("DELETE", replica=1)
        await asyncio.sleep(1)
        assert len(arrived_at(other)) == 3 * DEVICES


async def test_batches_come_in_order_and_again_as_a_whole_and_a_larger_event_alone(
    replicas: Replicas, sink: Sink
) -> None:
    id = (await replicas.subscribed(sink, batch=100))["id"]
    await replicas.api("POST", f"/{id}/pause")
    await asyncio.sleep(FOLLOWED)
    await replicas.publish(devices=2, each=130)
    large = replace(event("device-0", 130), raw_payload=bytes(3_200_000))
    await replicas.publish_one(large)
    await replicas.publish(devices=2, each=20)
    count = sum(map(len, replicas.made.values()))
    await replicas.waits(id, count)
    refused: list[list[str]] = []

    def script(body: dict[str, Any]) -> Behaviour:
        if len(body["events"]) > 1 and not refused:
            refused.append(ids_of(body))
            return REFUSING
        return OK

    sink.script = script
    await replicas.api("POST", f"/{id}/resume")
    await until(lambda: nothing_is_owed(replicas.database), PATIENCE)

    batches = [ids_of(each.event) for each in sink.taken]
    assert refused[0] in batches
    assert len({a.headers["webhook-id"] for a in sink.arrivals if ids_of(a.event) in refused}) == 1
    assert [large.id] in batches
    assert max(map(len, batches)) == 100
    arrived = list(dict.fromkeys(each for batch in batches for each in batch))
    assert len(arrived) == count
    for ids in replicas.made.values():
        assert [each for each in arrived if each in set(ids)] == ids


def ids_of(body: dict[str, Any]) -> list[str]:
    return [each["event_id"] for each in body["events"]]
