"""The contract of `Challenges`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from shared.ports.certificates import Challenge, Challenges
from tests.contract.stores import STORES, open_store
from tests.support.fakes.challenges import FakeChallenges
from tests.support.fakes.clock import START

LATER = START + timedelta(hours=1)
CHALLENGE = Challenge("ab" * 32, LATER, "UDID-1", "SERIAL-1")


@pytest.fixture(params=STORES)
async def challenges(request: pytest.FixtureRequest) -> AsyncIterator[Challenges]:
    if request.param == "fake":
        yield FakeChallenges()
        return
    from shared.storage.certificates import challenges as adapter

    async with open_store(request) as mongo:
        await mongo.ensure(adapter.INDEXES)
        yield adapter.MongoChallenges(mongo)


async def test_a_challenge_is_used_with_all_that_it_says(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)

    assert await challenges.use(CHALLENGE.digest, "one", START) == CHALLENGE


async def test_a_challenge_for_any_device_names_none(challenges: Challenges) -> None:
    anybodys = Challenge("cd" * 32, LATER)
    await challenges.create(anybodys)

    assert await challenges.use(anybodys.digest, "one", START) == anybodys


async def test_a_challenge_for_a_renewal_names_what_it_renews(challenges: Challenges) -> None:
    renewal = Challenge("cd" * 32, LATER, "MAC", renews="ab" * 32)
    await challenges.create(renewal)

    assert await challenges.use(renewal.digest, "one", START) == renewal


async def test_an_unknown_challenge_is_nobodys(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)

    assert await challenges.use("ef" * 32, "one", START) is None


async def test_another_transaction_does_not_get_a_used_challenge(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)
    await challenges.use(CHALLENGE.digest, "one", START)

    assert await challenges.use(CHALLENGE.digest, "two", START) is None


async def test_the_same_transaction_gets_its_challenge_again(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)
    await challenges.use(CHALLENGE.digest, "one", START)

    assert await challenges.use(CHALLENGE.digest, "one", START) == CHALLENGE


async def test_an_expired_challenge_is_nobodys(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)

    assert await challenges.use(CHALLENGE.digest, "one", LATER) is None
    assert await challenges.use(CHALLENGE.digest, "one", LATER + timedelta(seconds=1)) is None


async def test_creating_it_again_does_not_free_a_used_challenge(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)
    await challenges.use(CHALLENGE.digest, "one", START)

    await challenges.create(CHALLENGE)

    assert await challenges.use(CHALLENGE.digest, "two", START) is None


async def test_of_many_transactions_at_once_one_gets_it(challenges: Challenges) -> None:
    await challenges.create(CHALLENGE)

    uses = [challenges.use(CHALLENGE.digest, f"by-{number}", START) for number in range(12)]
    found = await asyncio.gather(*uses)

    assert sum(each is not None for each in found) == 1


async def test_the_user_of_a_challenge_is_known_when_it_has_expired_too(
    challenges: Challenges,
) -> None:
    await challenges.create(CHALLENGE)
    before = await challenges.user_of(CHALLENGE.digest)
    await challenges.use(CHALLENGE.digest, "one", START)
    await challenges.use(CHALLENGE.digest, "two", START)

    assert before is None
    assert await challenges.use(CHALLENGE.digest, "one", LATER) is None
    assert await challenges.user_of(CHALLENGE.digest) == "one"
    assert await challenges.user_of("ef" * 32) is None


async def test_a_challenge_that_nobody_stored_is_taken_by_one_transaction(
    challenges: Challenges,
) -> None:
    assert await challenges.take(CHALLENGE, "one")
    assert await challenges.take(CHALLENGE, "one")

    assert not await challenges.take(CHALLENGE, "two")
    assert await challenges.user_of(CHALLENGE.digest) == "one"


async def test_of_many_transactions_at_once_one_takes_it(challenges: Challenges) -> None:
    takes = [challenges.take(CHALLENGE, f"by-{number}") for number in range(12)]

    assert sum(await asyncio.gather(*takes)) == 1


async def test_a_challenge_that_is_stored_and_not_used_is_taken_by_nobody(
    challenges: Challenges,
) -> None:
    await challenges.create(CHALLENGE)

    assert not await challenges.take(CHALLENGE, "one")
