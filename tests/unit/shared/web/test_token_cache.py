"""What a process knows of tokens, and how old that may be."""

import asyncio
from datetime import timedelta

import pytest

from shared.domain.access import Scope, Token, token_digest
from shared.domain.errors import StoreUnavailable
from shared.web.api.tokens import AGAIN, FRESH, USED_EVERY, TokenCache
from tests.support.fakes.clock import START, FakeClock
from tests.support.fakes.tokens import FakeTokens

SECRET = b"mdm_the-secret-of-ci"
MOMENT = timedelta(milliseconds=1)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tokens = FakeTokens()
        self.book = TokenCache(self.tokens, self.clock)

    async def add(self, secret: bytes = SECRET, expires_in: timedelta | None = None) -> None:
        name = secret.decode()
        await self.tokens.add(
            Token(
                id=name,
                name=name,
                digest=token_digest(secret),
                scopes=frozenset({Scope.READ}),
                created_at=START,
                created_by="api-key",
                expires_at=START + expires_in if expires_in else None,
            )
        )

    async def is_let_in(self, secret: bytes = SECRET) -> bool:
        return await self.book.caller(secret) is not None


@pytest.fixture
def world() -> World:
    return World()


async def test_a_token_names_its_caller_and_scopes(world: World) -> None:
    await world.add()

    caller = await world.book.caller(SECRET)

    assert caller is not None
    assert (caller.name, caller.scopes) == (SECRET.decode(), frozenset({Scope.READ}))


async def test_a_password_that_is_no_token_is_not_looked_up(world: World) -> None:
    assert not await world.is_let_in(b"the-api-key-of-somebody")

    assert world.tokens.reads == 0


async def test_many_requests_cost_one_read(world: World) -> None:
    await world.add()

    assert all(await asyncio.gather(*(world.is_let_in() for _ in range(50))))

    assert world.tokens.reads == 1


async def test_a_revoked_token_is_refused_within_the_bound(world: World) -> None:
    await world.add()
    assert await world.is_let_in()
    await world.tokens.revoke(SECRET.decode(), START)
    world.clock.advance(FRESH)

    assert not await world.is_let_in()


async def test_a_token_is_refused_from_the_moment_it_expires(world: World) -> None:
    await world.add(expires_in=MOMENT)
    assert await world.is_let_in()
    world.clock.advance(MOMENT)

    assert not await world.is_let_in()


async def test_a_new_token_is_good_after_a_second_at_most(world: World) -> None:
    assert not await world.is_let_in()
    await world.add()
    world.clock.advance(AGAIN)

    assert await world.is_let_in()


async def test_guesses_read_the_tokens_once_a_second(world: World) -> None:
    for guess in range(100):
        assert not await world.is_let_in(b"mdm_%d" % guess)

    assert world.tokens.reads == 1


async def test_no_token_is_judged_by_old_news_while_the_store_is_away(world: World) -> None:
    await world.add()
    assert await world.is_let_in()
    world.tokens.is_away = True
    world.clock.advance(FRESH - MOMENT)
    assert await world.is_let_in()
    world.clock.advance(MOMENT)

    with pytest.raises(StoreUnavailable, match="no token can be judged"):
        await world.is_let_in()


async def test_who_waited_for_a_read_that_failed_does_not_start_another(world: World) -> None:
    world.tokens.is_away = True

    outcomes = await asyncio.gather(*(world.is_let_in() for _ in range(20)), return_exceptions=True)

    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert world.tokens.reads == 1


async def test_tokens_are_good_again_when_the_store_is_back(world: World) -> None:
    await world.add()
    world.tokens.is_away = True
    with pytest.raises(StoreUnavailable):
        await world.is_let_in()
    world.tokens.is_away = False
    world.clock.advance(AGAIN)

    assert await world.is_let_in()


async def test_a_read_that_is_given_up_leaves_the_next_one_a_read(world: World) -> None:
    await world.add()
    dead_lettered = asyncio.create_task(world.is_let_in())
    await asyncio.sleep(0)
    dead_lettered.cancel()

    assert await world.is_let_in()


async def test_the_use_of_a_token_is_noted_once_an_hour(world: World) -> None:
    await world.add()
    noted = []
    for _ in range(4):
        await world.is_let_in()
        world.clock.advance(USED_EVERY / 2)
        await world.is_let_in()
        noted.append(world.tokens.tokens[SECRET.decode()].last_used_at)

    assert noted == [
        START + USED_EVERY / 2,
        START + USED_EVERY / 2,
        START + USED_EVERY * 3 / 2,
        START + USED_EVERY * 3 / 2,
    ]
