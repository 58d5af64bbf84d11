"""The contract of `Refusals`, held by the fake and by every store."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.enrollment import MOST_REFUSALS, EnrollmentKey, EnrollmentStatus, Refusal
from shared.domain.event import Topic
from shared.ports.enrollments import Change, Enrollments
from shared.ports.events import Refusals
from shared.storage.enrollments.changes import MongoRefusals
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.refusals import FakeRefusals

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def refusal(minutes: int, reason: str = "plist", count: int = 1) -> Refusal:
    return Refusal(NOW + minutes * MINUTE, reason, "plist: no PushMagic", "/mdm/checkin", count)


@dataclass
class Kept:
    enrollments: Enrollments
    refusals: Refusals
    other: Refusals
    """The same of another replica."""

    async def of(self, device: str = "MAC") -> tuple[Refusal, ...]:
        return (await self.enrollments.load({device}))[device].refusals

    async def enroll(self, device: str = "MAC", generation: str | None = None) -> None:
        key = EnrollmentKey(device, device=device, udid=device)
        change = Change(key, f"{generation}+", generation, Topic.AUTHENTICATE, NOW)
        change = replace(
            change,
            expected_change=generation,
            certificate=f"cert-{device}",
            makes_record=generation is None,
        )
        assert await self.enrollments.apply([change]) == [True]


@pytest.fixture(params=STORES)
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "fake":
        enrollments = FakeEnrollments()
        yield Kept(enrollments, FakeRefusals(enrollments), FakeRefusals(enrollments))
        return
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as database:
        ours, theirs = MongoRefusals(database), MongoRefusals(database)
        yield Kept(MongoEnrollments(database, KEYRING), ours, theirs)


async def test_refusals_are_kept_newest_first(kept: Kept) -> None:
    await kept.enroll()
    await kept.enroll("PAD")

    await kept.refusals.add({"MAC": [refusal(1, "plist"), refusal(2, "blocked", count=7)]})
    await kept.refusals.add({"MAC": [refusal(3, "message")]})

    expected = (refusal(3, "message"), refusal(2, "blocked", count=7), refusal(1, "plist"))
    assert await kept.of() == expected
    assert await kept.of("PAD") == ()


async def test_the_latest_five_kinds_are_kept(kept: Kept) -> None:
    await kept.enroll()

    for minute in range(MOST_REFUSALS + 3):
        await kept.refusals.add({"MAC": [refusal(minute, f"reason {minute}")]})

    assert [each.at for each in await kept.of()] == [
        NOW + minute * MINUTE for minute in (7, 6, 5, 4, 3)
    ]


async def test_refusals_of_one_kind_are_counted_together(kept: Kept) -> None:
    await kept.enroll()
    await kept.refusals.add({"MAC": [refusal(1, count=2), refusal(2, "blocked")]})

    await kept.refusals.add({"MAC": [refusal(3, count=4)]})

    assert await kept.of() == (refusal(3, count=6), refusal(2, "blocked"))


async def test_rule_15_adding_again_what_was_added_changes_nothing(kept: Kept) -> None:
    await kept.enroll()
    at = NOW.replace(microsecond=89123)
    more = {"MAC": [replace(refusal(0, count=2), at=at), refusal(2, "blocked")]}

    for _ in range(2):
        await kept.refusals.add(more)

    assert [each.count for each in await kept.of()] == [1, 2]


async def test_rule_15_refusals_of_two_replicas_at_once_are_all_kept(kept: Kept) -> None:
    await kept.enroll()

    await asyncio.gather(
        kept.refusals.add({"MAC": [refusal(1, "plist")]}),
        kept.other.add({"MAC": [refusal(2, "blocked")]}),
    )

    assert await kept.of() == (refusal(2, "blocked"), refusal(1, "plist"))


async def test_rule_15_a_refusal_makes_no_record(kept: Kept) -> None:
    await kept.refusals.add({"MAC": [refusal(1)]})

    assert await kept.enrollments.load({"MAC"}) == {}


async def test_a_removed_device_has_no_refusals_and_gets_none(kept: Kept) -> None:
    await kept.enroll()
    await kept.refusals.add({"MAC": [refusal(1)]})

    await kept.enrollments.remove({"MAC"}, "removal")
    await kept.refusals.add({"MAC": [refusal(2)]})

    [record] = (await kept.enrollments.load({"MAC"})).values()
    assert (record.status, record.refusals) == (EnrollmentStatus.REMOVED, ())


async def test_a_new_enrollment_keeps_the_refusals_before_it(kept: Kept) -> None:
    await kept.enroll()
    await kept.refusals.add({"MAC": [refusal(1)]})

    await kept.enroll(generation="None+")

    assert await kept.of() == (refusal(1),)
