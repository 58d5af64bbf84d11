"""Two replicas of the webhook service as processes of their own, on a real broker and store."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from shared.domain.event import Event, derived_id
from shared.messaging.rabbit.broker import RabbitBroker
from shared.storage.database import Database
from shared.storage.events.journal import MongoJournal
from shared.storage.mongo import Mongo
from tests.contract.stores import KEYRING
from tests.integration.test_webhook import CLOCK, event, publish, until
from tests.support.harness.loopback_program import LoopbackProcess
from tests.support.harness.sink import Arrival, Sink
from tests.support.harness.system import API_KEY, ServiceProcess

FOLLOWED = 2.0
"""Seconds: so soon every replica follows a change of a subscription."""
PATIENCE = 180.0
SERVED = "macromdm_partitions_served"
Made = dict[str, list[str]]


@dataclass
class Replicas:
    database: Database
    broker: RabbitBroker
    http: httpx.AsyncClient
    processes: Sequence[ServiceProcess]
    made: Made = field(default_factory=dict)
    """The ids of all events that were published, in order, by device."""

    async def api(self, method: str, path: str, body: object = None, replica: int = 0) -> Any:
        url = f"{self.processes[replica].url}/v1/webhooks{path}"
        answer = await self.http.request(method, url, json=body, auth=("micromdm", API_KEY))
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def subscribed(self, sink: Sink, **fields: object) -> dict[str, Any]:
        """A subscription that both replicas know."""
        made = await self.api("POST", "", {"name": "made", "url": sink.url, **fields})
        await asyncio.sleep(FOLLOWED)
        return dict(made)

    async def status(self, id: str, replica: int = 0) -> dict[str, Any]:
        return dict((await self.api("GET", f"/{id}", replica=replica))["status"])

    async def waits(self, id: str, count: int) -> None:
        """Until so many events wait."""
        async with asyncio.timeout(PATIENCE):
            while (await self.status(id))["waiting"] != count:
                await asyncio.sleep(0.1)

    async def publish(self, devices: int, each: int) -> None:
        for device, ids in (await publish(self.database, self.broker, devices, each)).items():
            self.made.setdefault(device, []).extend(ids)

    async def publish_one(self, one: Event) -> None:
        assert all(await MongoJournal(self.database, KEYRING).append([one]))
        assert all(await self.broker.publisher.publish([one]))
        self.made.setdefault(one.key.device, []).append(one.id)

    async def journal_a_day(self, devices: int, each: int) -> Made:
        """Events of the last day, evenly spread, that only the journal still has; device -> ids in order."""
        step = timedelta(hours=23) / (devices * each)
        began = CLOCK.time_ns() - int(timedelta(hours=24).total_seconds() * 1e9)
        journal, made = MongoJournal(self.database, KEYRING), dict[str, list[str]]()
        for number in range(each):
            events = []
            for device in range(devices):
                at = began + int((number * devices + device) * step.total_seconds() * 1e9)
                one = event(f"device-{device}", number)
                id_ = derived_id(f"{device} {number}", at // 10**6)
                events.append(replace(one, id=id_, created_at=at))
            assert all(await journal.append(events))
            for one in events:
                made.setdefault(one.key.device, []).append(one.id)
        return made

    async def served(self, replica: int) -> float:
        text = await asyncio.to_thread(self.processes[replica].metrics)
        line = next(each for each in text.splitlines() if each.startswith(SERVED))
        return float(line.split()[1])

    async def serve(self, *counts: int) -> float:
        """Until each replica serves so many partitions; the seconds until then."""
        began = time.monotonic()

        async def shared() -> bool:
            found = [await self.served(n) for n, count in enumerate(counts) if count]
            return found == [count for count in counts if count]

        await until(shared, PATIENCE)
        return time.monotonic() - began


@asynccontextmanager
async def two_replicas(
    folder: Path, mongodb_url: str, amqp_url: str, settings: Mapping[str, str]
) -> AsyncIterator[Replicas]:
    """Both are up, and each serves half of the partitions."""
    database, broker = Mongo(mongodb_url), RabbitBroker(amqp_url, clock=CLOCK)
    await broker.start(timedelta(seconds=30))
    urls = {"MDM_MONGODB_URL": mongodb_url, "MDM_AMQP_URL": amqp_url, **settings}
    processes = [LoopbackProcess("webhook", folder / f"webhook-{n}", urls) for n in range(2)]
    try:
        async with httpx.AsyncClient(timeout=30) as http:
            await asyncio.gather(*(asyncio.to_thread(each.start) for each in processes))
            made = Replicas(database, broker, http, processes)
            await made.serve(16, 16)
            yield made
    finally:
        for process in processes:
            process.close()
        await broker.close()
        await database.close()


def any_of(_: Arrival) -> bool:
    return True


async def taken(
    sink: Sink, count: int, wanted: Callable[[Arrival], bool] = any_of
) -> list[Arrival]:
    """What the sink took and is wanted, once that is so many different events."""

    async def there() -> bool:
        return len({each.event_id for each in sink.taken if wanted(each)}) >= count

    await until(there, PATIENCE)
    return [each for each in sink.taken if wanted(each)]


def firsts(arrivals: Sequence[Arrival]) -> Made:
    """Event ids by device in the order of their first arrival."""
    found: dict[str, dict[str, None]] = {}
    for each in arrivals:
        found.setdefault(each.device, {}).setdefault(each.event_id)
    return {device: list(ids) for device, ids in found.items()}
