"""The contract of `Tokens`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.access import Scope, Token, token_digest
from shared.ports.access import Tokens
from tests.contract.stores import STORES, open_store
from tests.support.fakes.tokens import FakeTokens

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=STORES)
async def tokens(request: pytest.FixtureRequest) -> AsyncIterator[Tokens]:
    if request.param == "fake":
        yield FakeTokens()
        return
    from shared.storage.access import tokens as storage

    async with open_store(request) as mongo:
        await mongo.ensure(storage.INDEXES)
        yield storage.MongoTokens(mongo)


def token(id: str = "1", name: str = "ci") -> Token:
    return Token(
        id=id,
        name=name,
        digest=token_digest(f"mdm_{id}".encode()),
        scopes=frozenset({Scope.READ, Scope.COMMANDS}),
        created_at=NOW,
        created_by="api-key",
    )


async def test_what_was_added_is_there_unchanged(tokens: Tokens) -> None:
    given = [token(), replace(token("2", "night"), expires_at=NOW + HOUR)]

    assert [await tokens.add(each) for each in given] == [True, True]

    assert await tokens.all() == given


async def test_a_name_is_given_once(tokens: Tokens) -> None:
    await tokens.add(token())
    await tokens.revoke("1", NOW)

    assert await tokens.add(token("2")) is False

    assert [each.id for each in await tokens.all()] == ["1"]


async def test_of_many_adding_one_name_at_once_one_has_it(tokens: Tokens) -> None:
    added = await asyncio.gather(*(tokens.add(token(str(number))) for number in range(8)))

    assert sorted(added) == [False] * 7 + [True]


async def test_adding_again_is_no_conflict(tokens: Tokens) -> None:
    await tokens.add(token())

    assert await tokens.add(token()) is True

    assert await tokens.all() == [token()]


async def test_a_token_is_revoked_once_and_stays(tokens: Tokens) -> None:
    await tokens.add(token())
    revoked = replace(token(), revoked_at=NOW)

    assert await tokens.revoke("1", NOW) == revoked
    assert await tokens.revoke("1", NOW + HOUR) == revoked

    assert await tokens.all() == [revoked]


async def test_nobodys_token_is_not_revoked(tokens: Tokens) -> None:
    assert await tokens.revoke("1", NOW) is None


async def test_the_last_use_is_noted_and_never_goes_back(tokens: Tokens) -> None:
    await tokens.add(token())
    await tokens.add(token("2", "night"))

    await tokens.mark_used(["1", "unknown"], NOW + HOUR)
    await tokens.mark_used(["1"], NOW)
    await tokens.mark_used([], NOW)

    assert [each.last_used_at for each in await tokens.all()] == [NOW + HOUR, None]
