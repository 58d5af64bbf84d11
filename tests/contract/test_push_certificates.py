"""The contract of `PushCertificates`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shared.domain.errors import CannotDecrypt
from shared.ports.certificates import InstalledPair, InstalledTopic, PushCertificates, TopicVersion
from shared.security.encryption import AesKeyring
from shared.storage.database import Database
from tests.contract.stores import DRIVERS, KEYRING, STORES, open_store
from tests.support.fakes.push_certificates import FakePushCertificates

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
TOPIC = "com.apple.mgmt.External.a"
OTHER = "com.apple.mgmt.External.b"
OLD = InstalledPair(b"old certificate", b"old key", AT)
NEW = InstalledPair(b"new certificate", b"new key", AT)
FIRST = InstalledTopic(TopicVersion(TOPIC, "r1", "c1"), OLD)
SECOND = InstalledTopic(TopicVersion(TOPIC, "r2", "c1"), NEW, before=OLD)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PushCertificates]:
    if request.param == "fake":
        yield FakePushCertificates()
        return
    from shared.storage.certificates.push import MongoPushCertificates

    async with open_store(request) as mongo:
        yield MongoPushCertificates(mongo, KEYRING)


async def test_there_are_none_before_the_first(store: PushCertificates) -> None:
    assert await store.versions() == []
    assert await store.load(TOPIC) is None


async def test_what_was_put_is_loaded(store: PushCertificates) -> None:
    assert await store.put(FIRST, None)

    assert await store.load(TOPIC) == FIRST
    assert await store.versions() == [FIRST.version]


async def test_topics_stand_side_by_side_and_are_listed_by_name(store: PushCertificates) -> None:
    other = replace(FIRST, version=TopicVersion(OTHER, "r9"))
    for topic in (other, FIRST):
        assert await store.put(topic, None)

    assert await store.versions() == [FIRST.version, other.version]
    assert await store.load(OTHER) == other


async def test_a_topic_is_replaced_as_a_whole(store: PushCertificates) -> None:
    await store.put(SECOND, None)
    third = InstalledTopic(TopicVersion(TOPIC, "r3"), OLD)

    assert await store.put(third, "r2")

    assert await store.load(TOPIC) == third


@pytest.mark.parametrize("replaces", [None, "r0", "r2"])
async def test_a_put_on_another_revision_changes_nothing(
    store: PushCertificates, replaces: str | None
) -> None:
    await store.put(FIRST, None)

    assert not await store.put(SECOND, replaces)

    assert await store.load(TOPIC) == FIRST


async def test_a_put_on_a_topic_that_is_not_there_changes_nothing(store: PushCertificates) -> None:
    assert not await store.put(FIRST, "r0")

    assert await store.versions() == []


async def test_of_many_that_replace_one_revision_one_wins(store: PushCertificates) -> None:
    await store.put(FIRST, None)
    rivals = [replace(SECOND, version=TopicVersion(TOPIC, f"rival-{i}")) for i in range(8)]

    won = await asyncio.gather(*(store.put(rival, "r1") for rival in rivals))

    assert sum(won) == 1
    assert await store.load(TOPIC) == rivals[won.index(True)]


async def test_a_retired_certificate_is_gone_and_the_newest_stays(store: PushCertificates) -> None:
    await store.put(SECOND, None)

    assert await store.retire(TOPIC, "r2", "r3")

    assert await store.load(TOPIC) == InstalledTopic(TopicVersion(TOPIC, "r3", "c1"), NEW)


async def test_retiring_another_revision_changes_nothing(store: PushCertificates) -> None:
    await store.put(SECOND, None)

    assert not await store.retire(TOPIC, "r1", "r3")
    assert not await store.retire(OTHER, "r2", "r3")

    assert await store.load(TOPIC) == SECOND


async def test_a_topic_is_removed_on_condition_of_its_revision(store: PushCertificates) -> None:
    await store.put(FIRST, None)

    assert not await store.remove(TOPIC, "r0")
    assert await store.load(TOPIC) == FIRST
    assert await store.remove(TOPIC, "r1")
    assert await store.versions() == []


@pytest.mark.parametrize("by_driver", DRIVERS, indirect=True)
async def test_no_key_is_in_the_store_in_clear(by_driver: Database) -> None:
    from shared.storage.certificates.push import COLLECTION, MongoPushCertificates

    await MongoPushCertificates(by_driver, KEYRING).put(SECOND, None)

    [document] = await by_driver.collection(COLLECTION).find({})

    shown = repr(document).encode()
    assert OLD.certificate_pem in shown
    assert OLD.key_pem not in shown
    assert NEW.key_pem not in shown


@pytest.mark.parametrize("by_driver", DRIVERS, indirect=True)
async def test_what_another_key_has_encrypted_says_so(by_driver: Database) -> None:
    from shared.storage.certificates.push import MongoPushCertificates

    await MongoPushCertificates(by_driver, KEYRING).put(FIRST, None)
    stranger = MongoPushCertificates(by_driver, AesKeyring([b"s" * 32]))

    with pytest.raises(CannotDecrypt):
        await stranger.load(TOPIC)
    assert await stranger.versions() == [FIRST.version]


@pytest.mark.parametrize("by_driver", DRIVERS, indirect=True)
async def test_its_keys_are_encrypted_anew_when_the_secret_key_changes(by_driver: Database) -> None:
    from shared.storage.certificates.push import COLLECTION, MongoPushCertificates
    from shared.storage.maintenance.reencryption import MongoEncryptedValues

    await MongoPushCertificates(by_driver, AesKeyring([b"o" * 32])).put(SECOND, None)
    both = AesKeyring([b"n" * 32, b"o" * 32])

    encrypted = await MongoEncryptedValues(by_driver, both).reencrypt(COLLECTION, [TOPIC])

    assert encrypted == 2
    assert await MongoPushCertificates(by_driver, AesKeyring([b"n" * 32])).load(TOPIC) == SECOND


@pytest.fixture
async def by_driver(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    async with open_store(request) as database:
        yield database
