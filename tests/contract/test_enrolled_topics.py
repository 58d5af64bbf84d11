"""The contract of `EnrolledTopics`, held by the fake and by MongoDB with both drivers."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shared.domain.binding import Binding
from shared.domain.enrollment import EnrollmentKey, PushTarget
from shared.domain.event import Topic
from shared.ports.certificates import EnrolledTopics
from shared.ports.enrollments import Change, Enrollments
from shared.storage.enrollments.devices import TOGETHER
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.push_certificates import FakeEnrolledTopics

NOW = datetime(2026, 1, 2, tzinfo=UTC)
Stores = tuple[Enrollments, EnrolledTopics]


@pytest.fixture(params=STORES)
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    if request.param == "fake":
        fake = FakeEnrollments()
        yield fake, FakeEnrolledTopics(fake)
        return
    from shared.storage.enrollments.devices import MongoEnrolledTopics
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as mongo:
        yield MongoEnrollments(mongo, KEYRING), MongoEnrolledTopics(mongo)


async def enroll(enrollments: Enrollments, device: str, topic: str | None) -> None:
    """Without a topic it stops after Authenticate."""
    key, event = EnrollmentKey(device, device, udid=device), f"{device}-1"
    await enrollments.bind([Binding(key, None, device.lower() * 32, is_new=True)])
    first = Change(
        key,
        event,
        None,
        Topic.AUTHENTICATE,
        NOW,
        certificate=device.lower() * 32,
        makes_record=True,
    )
    changes = [first]
    if topic is not None:
        target = PushTarget(topic, b"token", "magic")
        second = Change(key, f"{device}-2", event, Topic.TOKEN_UPDATE, NOW, push=target)
        changes.append(replace(second, expected_change=event))
    for change in changes:
        assert await enrollments.apply([change]) == [True]


async def test_nobody_is_enrolled_under_nothing(stores: Stores) -> None:
    assert await stores[1].count() == {}


async def test_enrolled_devices_are_counted_by_topic(stores: Stores) -> None:
    enrollments, topics = stores
    for device, topic in (("A1", "a"), ("A2", "a"), ("B1", "b"), ("E1", ""), ("N1", None)):
        await enroll(enrollments, device, topic)

    assert await topics.count() == {"a": 2, "b": 1}


async def test_more_devices_than_one_read_returns_are_all_counted(stores: Stores) -> None:
    enrollments, topics = stores
    devices = [f"D{number}" for number in range(TOGETHER + 1)]
    keys = [EnrollmentKey(device, device, udid=device) for device in devices]
    await enrollments.bind([Binding(key, None, key.id.lower(), is_new=True) for key in keys])
    begun = [
        Change(
            *(key, f"{key.id}-1", None, Topic.AUTHENTICATE, NOW),
            certificate=key.id.lower(),
            makes_record=True,
        )
        for key in keys
    ]
    target = PushTarget("a", b"token", "magic")
    done = [
        Change(
            *(each.key, f"{each.key.id}-2", each.by, Topic.TOKEN_UPDATE, NOW),
            push=target,
            expected_change=each.by,
        )
        for each in begun
    ]
    assert all(await enrollments.apply(begun)) and all(await enrollments.apply(done))

    assert await topics.count() == {"a": TOGETHER + 1}


async def test_user_channels_and_who_has_left_do_not_count(stores: Stores) -> None:
    enrollments, topics = stores
    for device in ("A1", "A2", "A3"):
        await enroll(enrollments, device, "a")
    user = EnrollmentKey("A1:U", "A1", udid="A1", user="U")
    target = PushTarget("a", b"token", "magic")
    await enrollments.apply(
        [Change(user, "U-1", None, Topic.TOKEN_UPDATE, NOW, generation="A1-1", push=target)]
    )
    a2 = EnrollmentKey("A2", "A2", udid="A2")
    left = Change(a2, "A2-3", "A2-1", Topic.CHECK_OUT, NOW, expected_change="A2-2")
    await enrollments.apply([left])
    await enrollments.remove(["A3"], "removal")

    assert await topics.count() == {"a": 1}
