"""The contract of `PushExpiries`, held by the fake and by both stores."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.domain.event import Topic
from shared.domain.identity import ReportedExpiry
from shared.domain.outbox import OutboxEvent
from shared.ports.certificates import PushExpiries, PushExpiry
from tests.contract.stores import STORES, open_store
from tests.support.fakes.push_certificates import FakePushExpiries

TOPIC = "com.apple.mgmt.External.a"


@pytest.fixture(params=STORES)
async def expiries(request: pytest.FixtureRequest) -> AsyncIterator[PushExpiries]:
    if request.param == "fake":
        yield FakePushExpiries()
        return
    from shared.storage.certificates.push import MongoPushExpiries

    async with open_store(request) as database:
        yield MongoPushExpiries(database)


def reported(id_: str, days: int, topic: str = TOPIC) -> PushExpiry:
    event = OutboxEvent(id_, Topic.PUSH_CERTIFICATE_EXPIRING, 7, {"days": days, "topic": topic})
    return PushExpiry(topic, ReportedExpiry("fingerprint", days), event)


async def test_what_was_reported_is_there_with_its_event_until_that_is_safe(
    expiries: PushExpiries,
) -> None:
    first, other = reported("1", 30), reported("2", 14, "com.apple.mgmt.External.b")
    assert await expiries.all() == []

    assert await expiries.report(first, None)
    assert await expiries.report(other, None)
    assert sorted(await expiries.all(), key=lambda each: each.topic) == [first, other]

    await expiries.published(first)
    await expiries.published(first)
    found = sorted(await expiries.all(), key=lambda each: each.topic)
    assert found == [replace(first, event=None), other]


async def test_of_two_that_report_at_once_one_is_overtaken(expiries: PushExpiries) -> None:
    first = reported("1", 30)

    assert await expiries.report(first, None)
    assert not await expiries.report(reported("2", 30), None)

    assert await expiries.all() == [first]


async def test_the_next_report_follows_the_one_before_once_that_is_safe(
    expiries: PushExpiries,
) -> None:
    first, second = reported("1", 30), reported("2", 14)
    safe = replace(first, event=None)
    await expiries.report(first, None)
    assert not await expiries.report(second, safe)
    await expiries.published(first)

    assert not await expiries.report(second, replace(safe, reported=ReportedExpiry("other", 30)))
    assert await expiries.report(second, safe)
    assert not await expiries.report(reported("3", 14), safe)
    await expiries.published(first)

    assert await expiries.all() == [second]
