"""The contract of `Profiles`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.ports.access import Profiles, Reserved, StoredProfile
from tests.contract.stores import STORES, open_store
from tests.support.fakes.profiles import FakeProfiles

ENROLL = StoredProfile(Reserved.ENROLL, b"<plist>\r\n\x00\xff</plist>")
OTHER = StoredProfile("com.example.wifi", b"wifi")


@pytest.fixture(params=STORES)
async def profiles(request: pytest.FixtureRequest) -> AsyncIterator[Profiles]:
    if request.param == "fake":
        yield FakeProfiles()
        return
    from shared.storage.access.profiles import MongoProfiles

    async with open_store(request) as mongo:
        yield MongoProfiles(mongo)


async def test_there_are_none_before_the_first(profiles: Profiles) -> None:
    assert await profiles.get(Reserved.ENROLL) is None
    assert await profiles.page(None, 10) == []


async def test_what_was_put_comes_back_byte_for_byte(profiles: Profiles) -> None:
    await profiles.put(ENROLL)

    assert await profiles.get(ENROLL.identifier) == ENROLL


async def test_all_come_by_identifier(profiles: Profiles) -> None:
    for profile in (ENROLL, OTHER):
        await profiles.put(profile)

    expected = sorted((ENROLL, OTHER), key=lambda profile: profile.identifier)
    assert await profiles.page(None, 10) == expected


async def test_the_same_identifier_is_replaced(profiles: Profiles) -> None:
    await profiles.put(OTHER)
    newer = StoredProfile(OTHER.identifier, b"newer")

    await profiles.put(newer)

    assert await profiles.page(None, 10) == [newer]


async def test_of_many_at_once_one_stays_whole(profiles: Profiles) -> None:
    rivals = [StoredProfile("com.example.rival", b"%d" % i) for i in range(8)]

    await asyncio.gather(*(profiles.put(rival) for rival in rivals))

    [left] = await profiles.page(None, 10)
    assert left in rivals


async def test_deleted_ones_are_gone_and_unknown_ones_are_no_error(profiles: Profiles) -> None:
    for profile in (ENROLL, OTHER):
        await profiles.put(profile)

    await profiles.delete([OTHER.identifier, "com.example.nobody"])
    await profiles.delete([])

    assert await profiles.page(None, 10) == [ENROLL]


async def test_pages_hold_every_profile_once(profiles: Profiles) -> None:
    names = [f"com.example.{n}" for n in range(5)]
    for name in reversed(names):
        await profiles.put(StoredProfile(name, b"p"))

    first = await profiles.page(None, 3)
    second = await profiles.page(first[-1].identifier, 3)

    assert [profile.identifier for profile in (*first, *second)] == names
    assert len(first) == 3
