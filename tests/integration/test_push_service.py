"""The push service as it is built for a process: real store, in-process broker, fake APNs over TLS."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.push.app import check
from shared.clock import SystemClock
from shared.domain.errors import Misconfigured
from shared.storage import enrollments, place_documents
from shared.storage.mongo import Mongo
from shared.storage.pushes import MongoPushes
from tests.harness.apns import FakeApns, running
from tests.harness.push_certificates import TOPIC, PushAuthority
from tests.integration.push_process import enroll, process, queue_command, settings, until


@pytest.fixture
async def apns(tmp_path: Path) -> AsyncIterator[FakeApns]:
    async with running(tmp_path / "apns") as fake:
        yield fake


@pytest.fixture
async def mongo(mongodb_url: str) -> AsyncIterator[Mongo]:
    opened = Mongo(mongodb_url)
    await opened.ensure(enrollments.INDEXES)
    await opened.ensure(place_documents.indexes(timedelta(days=30)))
    yield opened
    await opened.close()


async def test_a_wish_reaches_the_device_and_is_recorded(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url), mongo) as running_push:
        await queue_command(mongo)
        running_push.broker.wishes.wish(["MAC"])

        async def recorded() -> bool:
            return "MAC" in await MongoPushes(mongo).load(["MAC"])

        await until(recorded)

    assert apns.tokens() == [b"token"]


async def test_a_command_whose_wish_was_lost_is_pushed_within_ten_seconds(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url), mongo):
        await queue_command(mongo)
        accepted = asyncio.get_running_loop().time()

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)
        took = asyncio.get_running_loop().time() - accepted

    assert took < 10


async def test_the_api_pushes_through_the_app(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url), mongo) as running_push:
        answer = await running_push.api("GET", "/push/MAC")

    assert answer.status_code == 200
    assert len(answer.json()["push_notification_id"]) == 36
    assert apns.tokens() == [b"token"]


async def test_without_a_certificate_it_is_ready_and_what_was_queued_is_pushed_once_there_is_one(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    await enroll(mongo)
    async with process(settings(apns, mongodb_url, certified=False), mongo) as without:

        async def ready() -> bool:
            return await without.service.ready() == []

        await until(ready)
        await queue_command(mongo)
        without.broker.wishes.wish(["MAC"])
        await asyncio.sleep(0.2)
        pushed_without = list(apns.pushes)
    async with process(settings(apns, mongodb_url), mongo):

        async def pushed() -> bool:
            return bool(apns.pushes)

        await until(pushed)

    assert pushed_without == []
    assert apns.tokens() == [b"token"]


async def test_the_expiry_of_each_certificate_is_a_metric(
    apns: FakeApns, mongo: Mongo, mongodb_url: str
) -> None:
    async with process(settings(apns, mongodb_url), mongo) as running_push:

        async def shown() -> bool:
            name = "push_certificate_expiry_timestamp_seconds"
            value = running_push.metric(name, topic=TOPIC)
            return value is not None and value > datetime.now(UTC).timestamp()

        await until(shown)


async def test_a_certificate_that_cannot_be_used_is_refused_before_anything_starts(
    apns: FakeApns, mongo: Mongo, mongodb_url: str, tmp_path: Path
) -> None:
    chosen = settings(apns, mongodb_url)
    other = PushAuthority(tmp_path / "other").issue()
    wrong = chosen.model_copy(update={"push_key": (str(other.key),)})

    with pytest.raises(Misconfigured, match="MDM_PUSH_KEY"):
        check(wrong, SystemClock())
    with pytest.raises(Misconfigured, match="MDM_PUSH_KEY"):
        async with process(wrong, mongo):
            pytest.fail("it started")
