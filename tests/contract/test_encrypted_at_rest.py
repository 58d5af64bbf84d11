"""What the adapters write is encrypted where it is secret, and opens for those who hold the key."""

import base64
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest

from shared.domain.binding import Binding
from shared.domain.command import Command
from shared.domain.enrollment import Enrollment, EnrollmentKey, PushTarget
from shared.domain.errors import CannotDecrypt, Misconfigured
from shared.domain.event import Event, Topic
from shared.domain.subscription import (
    Activity,
    AttemptRecord,
    Delivery,
    DeliveryQueueKey,
    DeliveryState,
    RequestSecrets,
    Subscription,
)
from shared.ports.certificates import InstalledPair, InstalledTopic, StoredAuthority, TopicVersion
from shared.ports.enrollments import Change
from shared.ports.events import Appended
from shared.ports.keyring import Keyring
from shared.security.authority import open_authority
from shared.security.encryption import AesKeyring, key_id
from shared.storage.certificates.authority import MongoAuthorityStore
from shared.storage.certificates.push import MongoPushCertificates
from shared.storage.database import Database, Operation
from shared.storage.enrollments.store import MongoEnrollments
from shared.storage.events.deliveries import MongoDeliveries
from shared.storage.events.journal import MongoJournal
from shared.storage.events.subscriptions import MongoSubscriptions
from shared.storage.events.webhook_history import MongoActivities
from shared.storage.maintenance.reencryption import MongoEncryptedValues
from shared.storage.queue.store import MongoCommandQueue
from tests.contract.stores import DRIVERS, open_store
from tests.support.fakes.clock import FakeClock

OLD, NEW = b"\x01" * 32, b"\x02" * 32
NOW = datetime.now(UTC)
MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")
PUSH = PushTarget("com.apple.mgmt.test", b"token-of-the-device", "a-push-magic-0123456789")
UNLOCK, BOOTSTRAP = b"an-unlock-token-0123456789", b"a-bootstrap-token-0123456789"
KEY_PEM = b"-----BEGIN PRIVATE KEY----- of the CA"
BODY = b"<plist>" + PUSH.magic.encode() + UNLOCK + BOOTSTRAP + b"</plist>"
DELIVERY = Delivery(DeliveryQueueKey("config", "MAC"), "event", 1)
COMMAND = Command("c" * 64, "uuid", "ClearPasscode", b"<plist>" + UNLOCK + b"</plist>")
TOKEN_IN_URL, BEARER = "a-token-in-a-url", "Bearer a-bearer-token"
SUBSCRIPTION = Subscription(
    "webhook",
    f"https://receiver.example/{TOKEN_IN_URL}",
    secrets=RequestSecrets(authorization=BEARER),
)
SECRETS = (
    PUSH.magic.encode(),
    UNLOCK,
    BOOTSTRAP,
    KEY_PEM,
    TOKEN_IN_URL.encode(),
    BEARER.encode(),
)


@dataclass
class Store:
    mongo: Database
    folder: Path

    def enrollments(self, keyring: Keyring) -> MongoEnrollments:
        return MongoEnrollments(self.mongo, keyring)

    async def fill(self, keyring: Keyring) -> None:
        """One of everything that is encrypted."""
        enrollments = self.enrollments(keyring)
        for key in (MAC, PAD):
            await enroll(enrollments, key)
        events = [event(Topic.TOKEN_UPDATE), event(Topic.SET_BOOTSTRAP_TOKEN)]
        assert await MongoJournal(self.mongo, keyring).append(events) == [Appended.STORED] * 2
        deliveries = MongoDeliveries(self.mongo, keyring)
        await deliveries.store([DELIVERY])
        assert await deliveries.lease([DELIVERY], "holder", NOW, NOW) == {DELIVERY.id}
        dead_lettered = replace(DELIVERY, state=DeliveryState.DEAD_LETTERED)
        await deliveries.failed(dead_lettered, "holder", b'{"raw_payload": "' + BODY + b'"}')
        await MongoSubscriptions(self.mongo, keyring).add(SUBSCRIPTION)
        failure = AttemptRecord("e", NOW, reason="answered 500", answer=BODY.decode())
        activity = Activity("1", "p", NOW, failures=(failure,))
        await MongoActivities(self.mongo, keyring).note([activity])
        await MongoAuthorityStore(self.mongo, keyring).create(StoredAuthority(b"a cert", KEY_PEM))
        await MongoCommandQueue(self.mongo, keyring).store([COMMAND], NOW)
        push = InstalledTopic(TopicVersion("topic", "1"), InstalledPair(b"a cert", KEY_PEM, NOW))
        await MongoPushCertificates(self.mongo, keyring).put(push, None)

    async def written(self) -> bytes:
        """Every byte of every document."""
        return b"".join(
            [
                bson.encode(document)
                for name in await self.mongo.names()
                async for found in self.mongo.collection(name).scan({})
                for document in found
            ]
        )

    def files(self) -> bytes:
        """Every byte that SQLite wrote, also of what it deleted since."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("store.db*")))

    async def document(self, collection: str, key: str) -> dict[str, Any]:
        found = await self.mongo.collection(collection).find_one({"_id": key})
        assert found is not None
        return found

    async def set(self, collection: str, key: str, **fields: object) -> None:
        changed = {name.replace("__", "."): value for name, value in fields.items()}
        done = await self.mongo.collection(collection).update_one({"_id": key}, {"$set": changed})
        assert done == 1


@pytest.fixture(params=DRIVERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(request) as database:
        yield Store(database, tmp_path)


def event(topic: Topic, name: str = "") -> Event:
    at = int(NOW.timestamp() * 1e9)
    return Event(name or topic.value, topic, MAC, at, BODY, writer="w", number=1)


async def enroll(
    enrollments: MongoEnrollments, key: EnrollmentKey, push: PushTarget = PUSH
) -> None:
    certificate = f"certificate of {key.id}"
    assert await enrollments.bind([Binding(key, None, certificate, is_new=True)]) == [True]
    begin = Change(
        key, "gen", None, Topic.AUTHENTICATE, NOW, certificate=certificate, makes_record=True
    )
    token = Change(key, "token", "gen", Topic.TOKEN_UPDATE, NOW, push=push, unlock_token=UNLOCK)
    boot = Change(key, "boot", "gen", Topic.SET_BOOTSTRAP_TOKEN, NOW, bootstrap_token=BOOTSTRAP)
    for change, before in ((begin, None), (token, "gen"), (boot, "token")):
        assert await enrollments.apply([replace(change, expected_change=before)]) == [True]


async def load(enrollments: MongoEnrollments, key: EnrollmentKey = MAC) -> Enrollment:
    return (await enrollments.load({key.id}))[key.id]


async def assert_all_opens(store: Store, keyring: Keyring) -> None:
    for key in (MAC, PAD):
        enrollment = await load(store.enrollments(keyring), key)
        assert (enrollment.push, enrollment.bootstrap_token) == (PUSH, BOOTSTRAP)
        assert keyring.decrypt(
            bytes((await store.document("enrollments", key.id))["unlock_token"]),
            f"enrollments/{key.id}/unlock_token",
        ) == UNLOCK  # fmt: skip
    journal = MongoJournal(store.mongo, keyring)
    topics = (Topic.TOKEN_UPDATE, Topic.SET_BOOTSTRAP_TOKEN)
    found = await journal.read([topic.value for topic in topics])
    assert found == {topic.value: event(topic) for topic in topics}
    kept = await MongoDeliveries(store.mongo, keyring).body(DELIVERY.id)
    assert kept is not None
    assert BODY in kept
    found_commands = await MongoCommandQueue(store.mongo, keyring).commands({COMMAND.hash})
    assert found_commands == {COMMAND.hash: COMMAND}
    assert await MongoSubscriptions(store.mongo, keyring).all() == [SUBSCRIPTION]
    authority = await MongoAuthorityStore(store.mongo, keyring).load()
    assert authority is not None
    assert authority.key_pem == KEY_PEM


async def test_no_secret_stands_in_the_store_in_clear_and_everything_opens(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))

    written = await store.written()

    assert PUSH.token in written  # compared in the store, so the search does find what is there
    for bytes_of_store in (written, store.files()):
        assert [each for each in SECRETS if each in bytes_of_store] == []
        assert [each for each in SECRETS if base64.b64encode(each)[:-4] in bytes_of_store] == []
    await assert_all_opens(store, AesKeyring([OLD]))


async def test_the_bodies_of_other_topics_are_kept_as_they_came(store: Store) -> None:
    connect = replace(
        event(Topic.CONNECT), raw_payload=AesKeyring([OLD]).encrypt(b"x", "elsewhere")
    )
    journal = MongoJournal(store.mongo, AesKeyring([NEW]))
    await journal.append([connect])

    assert await journal.read([connect.id]) == {connect.id: connect}
    assert (await store.document("events", connect.id))["raw_payload"] == connect.raw_payload


async def test_what_an_earlier_version_wrote_in_clear_is_read(store: Store) -> None:
    await store.fill(AesKeyring([OLD], encrypts=False))

    written = await store.written()

    assert [each for each in SECRETS if each not in written] == []
    assert isinstance((await store.document("enrollments", "MAC"))["push"]["magic"], str)
    await assert_all_opens(store, AesKeyring([OLD]))


async def test_push_tokens_are_still_compared_in_the_store(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))
    enrollments = store.enrollments(AesKeyring([OLD]))

    assert await enrollments.mark_token("MAC", PUSH.token, dead=True)
    assert not await enrollments.mark_token("MAC", b"another", dead=True)
    assert (await load(enrollments)).push == replace(PUSH, dead=True)


async def test_a_record_that_cannot_be_opened_says_so_and_its_neighbours_are_read(
    store: Store,
) -> None:
    await store.fill(AesKeyring([OLD]))
    stolen = (await store.document("enrollments", "MAC"))["push"]["magic"]
    await store.set("enrollments", "PAD", push__magic=stolen)

    found = await store.enrollments(AesKeyring([OLD])).load({"MAC", "PAD"})

    assert found["MAC"].push == PUSH
    assert found["MAC"].unreadable is None
    assert found["PAD"].push is None
    assert "enrollments/PAD/push.magic" in (found["PAD"].unreadable or "")


async def test_a_record_is_read_without_its_secrets_and_without_their_key(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))
    whole = await load(store.enrollments(AesKeyring([OLD])))
    lost = store.enrollments(AesKeyring([NEW]))

    found = await lost.load({"MAC"}, secrets=False)

    assert found == {"MAC": replace(whole, push=None, bootstrap_token=None)}
    assert (await load(lost)).unreadable is not None


async def test_a_command_that_cannot_be_opened_says_so_and_its_neighbours_are_read(
    store: Store,
) -> None:
    keyring = AesKeyring([OLD])
    other = replace(COMMAND, hash="d" * 64, uuid="another")
    await MongoCommandQueue(store.mongo, keyring).store([COMMAND, other], NOW)
    await store.set(
        "commands", other.hash, plist=(await store.document("commands", COMMAND.hash))["plist"]
    )

    found = await MongoCommandQueue(store.mongo, keyring).commands({COMMAND.hash, other.hash})

    assert found[COMMAND.hash] == COMMAND
    assert found[other.hash].plist == b""
    assert f"commands/{other.hash}/plist" in (found[other.hash].unreadable or "")


async def test_without_its_key_every_secret_says_which_key_it_needs(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))
    without = AesKeyring([NEW])

    enrollment = await load(store.enrollments(without))
    with pytest.raises(CannotDecrypt, match=key_id(OLD)):
        await MongoJournal(store.mongo, without).read([Topic.TOKEN_UPDATE.value])
    with pytest.raises(CannotDecrypt, match=key_id(OLD)):
        await MongoDeliveries(store.mongo, without).body(DELIVERY.id)
    with pytest.raises(Misconfigured, match=f"MDM_SECRET_KEY: .*{key_id(OLD)}"):
        await open_authority(MongoAuthorityStore(store.mongo, without), FakeClock())

    assert (enrollment.push, enrollment.bootstrap_token) == (None, None)
    assert key_id(OLD) in (enrollment.unreadable or "")


async def reencrypt(store: Store, keyring: Keyring) -> dict[str, int]:
    values = MongoEncryptedValues(store.mongo, keyring)
    encrypted = {}
    for collection in values.collections:
        encrypted[collection] = 0
        async for ids in values.batches(collection):
            encrypted[collection] += await values.reencrypt(collection, ids)
    return encrypted


async def counted(store: Store, keyring: Keyring) -> dict[str | None, int]:
    values = MongoEncryptedValues(store.mongo, keyring)
    found: dict[str | None, int] = {}
    for collection in values.collections:
        async for ids in values.batches(collection):
            for key, count in (await values.count(collection, ids)).items():
                found[key] = found.get(key, 0) + count
    return found


ALL_OF_IT = {
    "activities": 1,
    "authority": 1,
    "commands": 1,
    "enrollments": 6,
    "deliveries": 1,
    "events": 2,
    "push_certificates": 1,
    "webhooks": 2,
}


async def test_rotation_brings_everything_under_the_new_key_and_may_be_repeated(
    store: Store,
) -> None:
    await store.fill(AesKeyring([OLD]))
    both = AesKeyring([NEW, OLD])
    assert await counted(store, both) == {key_id(OLD): 15}

    assert await reencrypt(store, both) == ALL_OF_IT
    assert await reencrypt(store, both) == dict.fromkeys(ALL_OF_IT, 0)

    assert await counted(store, both) == {key_id(NEW): 15}
    await assert_all_opens(store, AesKeyring([NEW]))


async def test_rotation_encrypts_what_stands_in_clear(store: Store) -> None:
    await store.fill(AesKeyring([OLD], encrypts=False))

    assert await reencrypt(store, AesKeyring([OLD])) == ALL_OF_IT

    written = await store.written()
    assert [each for each in SECRETS if each in written] == []
    await assert_all_opens(store, AesKeyring([OLD]))


async def test_rotation_can_lead_back_to_a_version_that_knows_no_encrypts(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))
    clear = AesKeyring([OLD], encrypts=False)

    assert await reencrypt(store, clear) == ALL_OF_IT

    assert await counted(store, clear) == {None: 15}
    document = await store.document("enrollments", "MAC")
    assert document["push"]["magic"] == PUSH.magic
    assert (document["unlock_token"], document["bootstrap_token"]) == (UNLOCK, BOOTSTRAP)


async def test_rotation_leaves_what_it_cannot_open_and_counts_it(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))
    await store.set(
        "enrollments", "MAC", unlock_token=AesKeyring([b"\x03" * 32]).encrypt(UNLOCK, "x")
    )
    both = AesKeyring([NEW, OLD])

    assert (await reencrypt(store, both))["enrollments"] == 5

    assert await counted(store, both) == {key_id(NEW): 14, key_id(b"\x03" * 32): 1}


class Meddler:
    """A database in which somebody writes a record anew between its being read and its being encrypted."""

    def __init__(self, store: Store, **fields: object) -> None:
        self._store = store
        self._fields = fields
        self.is_done = False

    def collection(self, name: str) -> Any:
        collection = self._store.mongo.collection(name)
        return _Meddled(self, collection) if name == "enrollments" else collection

    async def meddle(self) -> None:
        if not self.is_done:
            self.is_done = True
            await self._store.set("enrollments", "MAC", **self._fields)


class _Meddled:
    def __init__(self, meddler: Meddler, collection: Any) -> None:
        self._meddler = meddler
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    async def bulk_write(self, operations: Sequence[Operation]) -> tuple[int, set[int]]:
        await self._meddler.meddle()
        return await self._collection.bulk_write(operations)


async def test_rotation_never_overwrites_what_changed_meanwhile(store: Store) -> None:
    await store.fill(AesKeyring([OLD]))
    fresh = b"the token that a device has just sent"
    # by a server whose first key is still the old one
    encrypted = AesKeyring([OLD]).encrypt(fresh, "enrollments/MAC/unlock_token")
    meddler = Meddler(store, unlock_token=encrypted)

    await reencrypt(replace(store, mongo=meddler), AesKeyring([NEW, OLD]))

    assert meddler.is_done
    stored = bytes((await store.document("enrollments", "MAC"))["unlock_token"])
    assert AesKeyring([NEW]).decrypt(stored, "enrollments/MAC/unlock_token") == fresh


async def test_batches_name_every_document_once(store: Store) -> None:
    journal = MongoJournal(store.mongo, AesKeyring([OLD]))
    names = {f"e{number}" for number in range(250)}
    await journal.append([event(Topic.TOKEN_UPDATE, name) for name in names])
    await journal.append([event(Topic.CONNECT, "has none")])

    batches = [
        ids async for ids in MongoEncryptedValues(store.mongo, AesKeyring([OLD])).batches("events")
    ]

    assert sorted(each for ids in batches for each in ids) == sorted(names)
    assert max(map(len, batches)) <= 100
