"""The contract of `AuthorityStore`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.ports.certificates import AuthorityStore, StoredAuthority
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.authority import FakeAuthorityStore

CANDIDATES = [StoredAuthority(b"certificate %d" % i, b"key %d" % i) for i in range(8)]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[AuthorityStore]:
    if request.param == "fake":
        yield FakeAuthorityStore()
        return
    from shared.storage.certificates.authority import MongoAuthorityStore

    async with open_store(request) as mongo:
        yield MongoAuthorityStore(mongo, KEYRING)


async def test_there_is_none_before_the_first(store: AuthorityStore) -> None:
    assert await store.load() is None
    assert await store.load() is None


async def test_what_was_created_is_loaded(store: AuthorityStore) -> None:
    assert await store.create(CANDIDATES[0]) == CANDIDATES[0]
    assert await store.load() == CANDIDATES[0]


async def test_a_later_candidate_gets_the_first_one(store: AuthorityStore) -> None:
    await store.create(CANDIDATES[0])

    assert await store.create(CANDIDATES[1]) == CANDIDATES[0]
    assert await store.load() == CANDIDATES[0]


async def test_of_many_at_once_one_is_everybodys(store: AuthorityStore) -> None:
    created = await asyncio.gather(*(store.create(candidate) for candidate in CANDIDATES))

    assert len(set(created)) == 1
    assert created[0] in CANDIDATES
    assert await store.load() == created[0]
