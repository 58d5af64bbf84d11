"""The contract of `Migration`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.binding import Binding
from shared.domain.enrollment import (
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
)
from shared.domain.event import Topic
from shared.ports.devices import (
    Devices,
    DeviceSecrets,
    Imported,
    ImportedKind,
    ImportOutcome,
    Migration,
)
from shared.ports.enrollments import Change, Enrollments
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.devices import FakeDevices, FakeMigration
from tests.support.fakes.enrollments import FakeEnrollments

NOW = datetime(2026, 1, 2, tzinfo=UTC)
UNTIL = NOW + timedelta(days=30)
LATER = timedelta(hours=1)
MAC = EnrollmentKey("MAC", "MAC", udid="MAC")
ANNA = EnrollmentKey("MAC:anna", "MAC", udid="MAC", user="anna")
PRIVATE = EnrollmentKey("E-1", "E-1", enrollment_id="E-1")
PUSH = PushTarget("topic", b"token", "magic")
TOLD = Inventory(serial_number="C02", os_version="15.1")

IMPORTED, UNCHANGED = ImportOutcome.IMPORTED, ImportOutcome.UNCHANGED
UNKNOWN, OWN = ImportOutcome.UNKNOWN, ImportOutcome.OWN


@dataclass
class Store:
    enrollments: Enrollments
    devices: Devices
    migration: Migration

    async def load(self, key: EnrollmentKey) -> Enrollment | None:
        return (await self.enrollments.load({key.id})).get(key.id)

    async def bind(self, key: EnrollmentKey, certificate: str) -> bool:
        record = await self.load(key)
        generation = None if record is None else record.generation
        binding = Binding(key, generation, certificate, is_new=record is None)
        return (await self.enrollments.bind([binding]))[0]

    async def migrate(self, *messages: Imported) -> list[ImportOutcome]:
        return [await self.migration.take(message) for message in messages]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "fake":
        fake = FakeEnrollments()
        yield Store(fake, FakeDevices(fake), FakeMigration(fake))
        return
    from shared.storage.enrollments.devices import MongoDevices
    from shared.storage.enrollments.imports import MongoMigration
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as mongo:
        yield Store(
            MongoEnrollments(mongo, KEYRING),
            MongoDevices(mongo, KEYRING),
            MongoMigration(mongo, KEYRING),
        )


def imported(key: EnrollmentKey, kind: ImportedKind, digest: str, **more: Any) -> Imported:
    return replace(Imported(key, kind, digest, NOW, UNTIL, f"import-of-{digest}"), **more)


def authenticate(key: EnrollmentKey = MAC, digest: str = "a", **more: Any) -> Imported:
    more.setdefault("inventory", TOLD)
    return imported(key, ImportedKind.AUTHENTICATE, digest, **more)


def token_update(key: EnrollmentKey = MAC, digest: str = "t", **more: Any) -> Imported:
    more.setdefault("push", PUSH)
    return imported(key, ImportedKind.TOKEN_UPDATE, digest, **more)


def bootstrap(key: EnrollmentKey = MAC, digest: str = "b", token: bytes = b"boot") -> Imported:
    return imported(key, ImportedKind.SET_BOOTSTRAP_TOKEN, digest, bootstrap_token=token)


@pytest.mark.parametrize("key", [MAC, PRIVATE], ids=["device", "user enrollment"])
async def test_the_messages_of_a_device_make_its_record(store: Store, key: EnrollmentKey) -> None:
    done = await store.migrate(
        authenticate(key), token_update(key, unlock_token=b"unlock"), bootstrap(key)
    )

    assert done == [IMPORTED] * 3
    assert await store.load(key) == Enrollment(
        key,
        EnrollmentStatus.ENROLLED,
        generation="import-of-a",
        changed_by="migration:b",
        push=PUSH,
        inventory=TOLD,
        bootstrap_token=b"boot",
        migrating_until=UNTIL,
        was_enrolled=True,
    )
    assert await store.devices.secrets(key.id) == DeviceSecrets(b"unlock", b"boot")
    found = await store.enrollments.find({"C02"})
    assert [record.id for record in found["C02"]] == [key.id]


async def test_after_authenticate_alone_a_device_is_not_enrolled_yet(store: Store) -> None:
    await store.migrate(authenticate())

    record = await store.load(MAC)
    assert record is not None and record.status is EnrollmentStatus.AUTHENTICATED
    assert record.push is None
    assert not record.has_enrolled
    assert not record.was_enrolled


async def test_a_user_channel_belongs_to_the_enrollment_of_its_device(store: Store) -> None:
    done = await store.migrate(authenticate(), token_update(), token_update(ANNA, "u"))

    assert done == [IMPORTED] * 3
    assert await store.load(ANNA) == Enrollment(
        ANNA,
        EnrollmentStatus.ENROLLED,
        generation="import-of-a",
        changed_by="migration:u",
        push=PUSH,
    )
    assert [user.id for user in await store.devices.users("MAC", 9)] == ["MAC:anna"]


async def test_the_same_messages_again_change_nothing(store: Store) -> None:
    messages = [authenticate(), token_update(), bootstrap(), token_update(ANNA, "u")]
    await store.migrate(*messages)
    before = await store.enrollments.load({"MAC", "MAC:anna"})

    later = [replace(m, at=NOW + LATER, until=UNTIL + LATER, generation="new") for m in messages]

    assert await store.migrate(*later) == [UNCHANGED] * 4
    assert await store.enrollments.load({"MAC", "MAC:anna"}) == before


async def test_a_newer_message_replaces_what_it_brings_and_keeps_the_rest(store: Store) -> None:
    await store.migrate(authenticate(), token_update(unlock_token=b"unlock"), bootstrap())
    newer = PushTarget("topic", b"token-2", "magic-2")

    done = await store.migrate(
        authenticate(digest="a2", inventory=Inventory(os_version="15.2"), until=UNTIL + LATER),
        token_update(digest="t2", push=newer, until=UNTIL + LATER),
    )

    assert done == [IMPORTED] * 2
    record = await store.load(MAC)
    assert record == Enrollment(
        MAC,
        EnrollmentStatus.ENROLLED,
        generation="import-of-a",
        changed_by="migration:t2",
        push=newer,
        inventory=Inventory(serial_number="C02", os_version="15.2"),
        bootstrap_token=b"boot",
        migrating_until=UNTIL + LATER,
        was_enrolled=True,
    )
    assert await store.devices.secrets("MAC") == DeviceSecrets(b"unlock", b"boot")


async def test_once_the_time_is_over_the_same_message_begins_it_anew(store: Store) -> None:
    await store.migrate(authenticate())
    late = authenticate(at=UNTIL + LATER, until=UNTIL + 2 * LATER)

    assert await store.migrate(late, late) == [IMPORTED, UNCHANGED]

    record = await store.load(MAC)
    assert record is not None and record.migrating_until == UNTIL + 2 * LATER
    assert record.generation == "import-of-a"


async def test_authenticate_of_the_device_comes_first(store: Store) -> None:
    assert await store.migrate(token_update(), bootstrap(), token_update(ANNA)) == [UNKNOWN] * 3

    assert await store.enrollments.load({"MAC", "MAC:anna"}) == {}


async def test_a_device_that_enrolled_here_is_not_touched(store: Store) -> None:
    assert await store.bind(MAC, "certificate")
    first = Change(MAC, "own-1", None, Topic.AUTHENTICATE, NOW, certificate="certificate")
    await store.enrollments.apply([replace(first, makes_record=True, inventory=TOLD)])
    before = await store.load(MAC)

    done = await store.migrate(authenticate(), token_update(), bootstrap(), token_update(ANNA, "u"))

    assert done == [OWN] * 4
    assert await store.load(MAC) == before
    assert await store.load(ANNA) is None


async def test_a_device_that_is_bound_is_not_imported_any_more(store: Store) -> None:
    await store.migrate(authenticate(), token_update())
    assert await store.bind(MAC, "certificate")
    before = await store.load(MAC)

    done = await store.migrate(
        authenticate(), token_update(), token_update(digest="t2"), bootstrap()
    )

    assert done == [UNCHANGED, UNCHANGED, OWN, OWN]
    assert await store.load(MAC) == before
    assert before is not None and before.migrating_until is None


async def test_a_user_channel_can_follow_a_device_that_is_bound_already(store: Store) -> None:
    await store.migrate(authenticate(), token_update())
    assert await store.bind(MAC, "certificate")

    assert await store.migrate(token_update(ANNA, "u")) == [IMPORTED]


async def test_a_user_channel_that_spoke_here_is_not_touched(store: Store) -> None:
    await store.migrate(authenticate(), token_update(ANNA, "u"))
    spoken = Change(ANNA, "own-1", "import-of-a", Topic.TOKEN_UPDATE, NOW, generation="import-of-a")
    own = PushTarget("topic", b"own", "own")
    imported = await store.load(ANNA)
    assert imported is not None
    spoken = replace(spoken, push=own, expected_change=imported.changed_by)
    assert await store.enrollments.apply([spoken]) == [True]

    assert await store.migrate(token_update(ANNA, "u"), token_update(ANNA, "u2")) == [
        UNCHANGED,
        OWN,
    ]

    record = await store.load(ANNA)
    assert record is not None and record.push == own


async def test_after_its_device_enrolled_anew_a_user_channel_is_not_imported(store: Store) -> None:
    await store.migrate(authenticate(), token_update())
    assert await store.bind(MAC, "certificate")
    imported = await store.load(MAC)
    assert imported is not None
    anew = Change(MAC, "own-1", "import-of-a", Topic.AUTHENTICATE, NOW, certificate="certificate")
    anew = replace(anew, expected_change=imported.changed_by)
    assert await store.enrollments.apply([anew]) == [True]

    assert await store.migrate(token_update(ANNA, "u")) == [OWN]

    assert await store.load(ANNA) is None


async def test_a_removed_device_can_be_imported_again(store: Store) -> None:
    messages = [authenticate(), token_update(), token_update(ANNA, "u")]
    await store.migrate(*messages)
    await store.enrollments.remove({"MAC"}, "removal")
    removed = await store.load(MAC)

    done = await store.migrate(messages[1], *messages)

    assert removed is not None and removed.migrating_until is None
    assert done == [UNKNOWN, IMPORTED, IMPORTED, IMPORTED]
    record, user = await store.load(MAC), await store.load(ANNA)
    assert record is not None and record.status is EnrollmentStatus.ENROLLED
    assert record.migrating_until == UNTIL
    assert user is not None and user.status is EnrollmentStatus.ENROLLED


async def test_two_imports_at_once_make_one_enrollment(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.migration.take(authenticate(generation=f"g{n}")) for n in range(4))
    )

    assert sorted(outcomes) == [IMPORTED, UNCHANGED, UNCHANGED, UNCHANGED]
    record = await store.load(MAC)
    assert record is not None and record.generation in {"g0", "g1", "g2", "g3"}


async def test_an_import_beside_the_binding_leaves_the_device_bound(store: Store) -> None:
    await store.migrate(authenticate(), token_update())

    bound, outcome = await asyncio.gather(
        store.bind(MAC, "certificate"), store.migration.take(token_update(digest="t2"))
    )

    assert bound
    assert outcome in {IMPORTED, OWN}
    record = await store.load(MAC)
    assert record is not None and record.certificate == "certificate"
    assert record.migrating_until is None


async def test_of_two_certificates_at_once_one_is_bound(store: Store) -> None:
    await store.migrate(authenticate(), token_update())
    record = await store.load(MAC)
    assert record is not None
    names = ["one", "two", "three"]
    bindings = [Binding(MAC, record.generation, name, is_new=False) for name in names]

    outcomes = await asyncio.gather(*(store.enrollments.bind([each]) for each in bindings))

    assert sorted(bound for [bound] in outcomes) == [False, False, True]
    record = await store.load(MAC)
    assert record is not None and record.certificate == names[outcomes.index([True])]
