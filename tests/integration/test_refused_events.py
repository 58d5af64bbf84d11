"""A receiver that cannot take the events of one device, on real processes, a real broker and store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.messaging.rabbit.broker import RabbitBroker
from shared.storage.database import Database
from shared.storage.events.journal import MongoJournal
from shared.storage.mongo import Mongo
from tests.contract.stores import KEYRING
from tests.integration.test_webhook import CLOCK, assert_in_order, event, until
from tests.support.harness.sink import Behaviour, Sink
from tests.support.harness.system import ServiceProcess, deliveries_command

BAD, GOOD = "bad", "good"
SCHEDULE = "1 s, 1 s, 1 s, 1 s, 1 s, 1 h"


@dataclass
class Stage:
    """Two devices, and one webhook process that posts their events."""

    database: Database
    broker: RabbitBroker
    sink: Sink
    process: ServiceProcess
    made: dict[str, list[str]] = field(default_factory=dict)
    refuses: bool = True

    def answer(self, posted: dict[str, Any]) -> Behaviour:
        content = posted.get("acknowledge_event") or {}
        return Behaviour(status=500 if self.refuses and content.get("udid") == BAD else 200)

    async def publish(self, device: str) -> str:
        one = event(device, len(self.made.setdefault(device, [])))
        assert all(await MongoJournal(self.database, KEYRING).append([one]))
        assert all(await self.broker.publisher.publish([one]))
        self.made[device].append(one.id)
        return one.id

    async def publish_for(self, seconds: int) -> None:
        """Both devices speak, twice a second."""
        for _ in range(2 * seconds):
            await self.publish(BAD)
            await self.publish(GOOD)
            await asyncio.sleep(0.5)

    async def command(self, *arguments: str) -> str:
        return await deliveries_command(self.process, *arguments)

    def logged(self, name: str) -> list[dict[str, Any]]:
        lines = (line for line in self.process.output().splitlines() if line.startswith("{"))
        return [found for line in lines if (found := orjson.loads(line)).get("event") == name]

    async def until_taken(self, *event_ids: str) -> None:
        async def taken() -> bool:
            return set(event_ids) <= {arrival.event_id for arrival in self.sink.taken}

        await until(taken, timeout=60)


@asynccontextmanager
async def stage_on(folder: Path, mongodb_url: str, amqp_url: str) -> AsyncIterator[Stage]:
    database, broker = Mongo(mongodb_url), RabbitBroker(amqp_url, clock=CLOCK)
    await broker.start(timedelta(seconds=30))
    async with Sink() as sink:
        settings = {
            "MDM_MONGODB_URL": mongodb_url,
            "MDM_AMQP_URL": amqp_url,
            "MDM_WEBHOOK_URL": sink.url,
            "MDM_WEBHOOK_RETRY_SCHEDULE": SCHEDULE,
        }
        process = ServiceProcess("webhook", folder, settings)
        stage = Stage(database, broker, sink, process)
        sink.script = stage.answer
        try:
            await asyncio.to_thread(process.start)
            yield stage
        finally:
            process.close()
            await broker.close()
            await database.close()


@pytest.fixture
async def stage(tmp_path: Path, mongodb_url: str, amqp_url: str) -> AsyncIterator[Stage]:
    async with stage_on(tmp_path, mongodb_url, amqp_url) as made:
        yield made


async def test_a_device_whose_event_is_refused_goes_on_after_five_waits_over_kill_9(
    stage: Stage,
) -> None:
    await stage.publish_for(2)
    stage.process.kill()
    await asyncio.to_thread(stage.process.start)
    async with asyncio.timeout(90):
        while not stage.logged("delivery_set_aside"):
            await stage.publish_for(1)
    first = stage.made[BAD][0]
    assert stage.logged("delivery_failed")[0]["device"] == BAD
    stage.process.kill()
    await asyncio.to_thread(stage.process.start)

    stage.refuses = False
    new = [await stage.publish(BAD) for _ in range(3)]
    await stage.until_taken(*new, *stage.made[GOOD])

    assert first not in {arrival.event_id for arrival in stage.sink.taken}
    assert_in_order(stage.sink, {GOOD: stage.made[GOOD]})
    order = stage.sink.first_taken(BAD)
    assert [each for each in order if each in new] == new
    blocked = await stage.command("list", "--blocked")
    assert f"config:{first}  device={BAD}  topic=mdm.Connect  attempts=6" in blocked
    assert "set_aside" in blocked

    await stage.command("retry", *(line.split()[0] for line in blocked.splitlines()))
    await stage.until_taken(*stage.made[BAD])
    assert await stage.command("list") == "no dead letters\n"


async def test_an_operator_skips_what_a_device_waits_for_and_replays_it_later(
    stage: Stage,
) -> None:
    first, second = await stage.publish(BAD), await stage.publish(BAD)
    async with asyncio.timeout(90):  # nobody else speaks: it fails as a whole, and the order holds
        while "attempts=2" not in (blocked := await stage.command("list", "--blocked")):
            await asyncio.sleep(0.5)
    assert f"config:{first}" in blocked
    assert "behind=1" in blocked

    await stage.command("skip", f"config:{first}")
    stage.refuses = False
    await stage.until_taken(second)
    assert first not in {arrival.event_id for arrival in stage.sink.taken}
    assert f"config:{first}" in await stage.command("list")

    await stage.command("retry")
    await stage.until_taken(first)
