"""The push service as it is built for a process: real store, in-process broker, fake APNs over TLS."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.push.app import check
from shared.concurrency.clock import SystemClock
from shared.domain.errors import Misconfigured
from shared.storage.database import Database
from shared.storage.queue.pushes import MongoPushes
from tests.integration.push_process import enroll, process, queue_command, settings, until
from tests.support.harness.apns import FakeApns, running
from tests.support.harness.push_certificates import TOPIC, PushAuthority


@pytest.fixture
async def apns(tmp_path: Path) -> AsyncIterator[FakeApns]:
    async with running(tmp_path / "apns") as fake:
        yield fake


async def test_a_push_request_reaches_the_device_and_is_recorded(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    async with process(settings(apns), database) as running_push:
        await queue_command(database)
        running_push.broker.push_requests.add(["MAC"])

        async def recorded() -> bool:
            return "MAC" in await MongoPushes(database).load(["MAC"])

        await until(recorded)

    assert apns.tokens() == [b"token"]


async def test_a_command_whose_push_request_was_lost_is_pushed_within_ten_seconds(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    async with process(settings(apns), database):
        await queue_command(database)
        accepted = asyncio.get_running_loop().time()

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)
        took = asyncio.get_running_loop().time() - accepted

    assert took < 10


async def test_the_api_pushes_through_the_app(apns: FakeApns, database: Database) -> None:
    await enroll(database)
    async with process(settings(apns), database) as running_push:
        answer = await running_push.api("GET", "/push/MAC")

    assert answer.status_code == 200
    assert len(answer.json()["push_notification_id"]) == 36
    assert apns.tokens() == [b"token"]


async def test_without_a_certificate_it_is_ready_and_what_was_queued_is_pushed_once_there_is_one(
    apns: FakeApns, database: Database
) -> None:
    await enroll(database)
    async with process(settings(apns, certified=False), database) as without:

        async def ready() -> bool:
            return await without.service.ready() == []

        await until(ready)
        await queue_command(database)
        without.broker.push_requests.add(["MAC"])
        await asyncio.sleep(0.2)
        pushed_without = list(apns.pushes)
    async with process(settings(apns), database):

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)

    assert pushed_without == []
    assert apns.tokens() == [b"token"]


async def test_the_expiry_of_each_certificate_is_a_metric(
    apns: FakeApns, database: Database
) -> None:
    async with process(settings(apns), database) as running_push:

        async def shown() -> bool:
            name = "push_certificate_expiry_timestamp_seconds"
            value = running_push.metric(name, topic=TOPIC)
            return value is not None and value > datetime.now(UTC).timestamp()

        await until(shown)


async def test_a_certificate_that_cannot_be_used_is_refused_before_anything_starts(
    apns: FakeApns, database: Database, tmp_path: Path
) -> None:
    chosen = settings(apns)
    other = PushAuthority(tmp_path / "other").issue()
    wrong = chosen.model_copy(update={"push_key": (str(other.key),)})

    with pytest.raises(Misconfigured, match="MDM_PUSH_KEY"):
        check(wrong, SystemClock())
    with pytest.raises(Misconfigured, match="MDM_PUSH_KEY"):
        async with process(wrong, database):
            pytest.fail("it started")
