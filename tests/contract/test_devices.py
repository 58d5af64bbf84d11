"""The contract of `Devices`, held by the fake and by MongoDB with both drivers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.domain.binding import Binding
from shared.domain.enrollment import EnrollmentKey, EnrollmentStatus, Inventory, PushTarget
from shared.domain.errors import CannotDecrypt
from shared.domain.event import Topic
from shared.domain.identity import DeviceCertificate, Quarantine, QuarantineReason
from shared.domain.outbox import quarantined
from shared.ports.devices import (
    DeviceFilter,
    Devices,
    DeviceSecrets,
    Imported,
    ImportedKind,
    Migration,
)
from shared.ports.enrollments import Change, Enrollments
from shared.ports.identities import Identities
from shared.security.encryption import AesKeyring
from tests.contract.stores import DRIVERS, KEYRING, STORES, open_store
from tests.support.fakes.devices import FakeDevices, FakeMigration
from tests.support.fakes.enrollments import FakeEnrollments
from tests.support.fakes.identities import FakeIdentities

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Store:
    enrollments: Enrollments
    devices: Devices
    migration: Migration
    identities: Identities

    async def enroll(self, device: str, **inventory: str) -> EnrollmentKey:
        """A device, enrolled at NOW."""
        key = EnrollmentKey(device, device, udid=device)
        certificate = f"certificate of {device}"
        await self.enrollments.bind([Binding(key, None, certificate, is_new=True)])
        first = Change(key, f"{device}-1", None, Topic.AUTHENTICATE, NOW)
        first = replace(first, certificate=certificate, makes_record=True)
        await self.change(replace(first, inventory=Inventory(**inventory)))
        await self.token_update(key)
        return key

    async def token_update(self, key: EnrollmentKey, **more: Any) -> None:
        generation = f"{key.device}-1"
        expected = generation if key.is_device_channel else None
        change = Change(key, f"{key.id}-2", expected, Topic.TOKEN_UPDATE, NOW)
        push = PushTarget("topic", b"token", "magic")
        await self.change(replace(change, generation=generation, push=push, **more))

    async def user(self, device: str, name: str) -> EnrollmentKey:
        key = EnrollmentKey(f"{device}:{name}", device, udid=device, user=name)
        await self.token_update(key)
        return key

    async def change(self, change: Change) -> None:
        record = (await self.enrollments.load([change.key.id])).get(change.key.id)
        change = replace(change, expected_change=record.changed_by if record else None)
        assert await self.enrollments.apply([change]) == [True]

    async def migrate(self, device: str) -> None:
        key = EnrollmentKey(device, device, udid=device)
        until = NOW + 24 * HOUR
        await self.migration.take(
            Imported(key, ImportedKind.AUTHENTICATE, "digest", NOW, until, f"{device}-1")
        )

    async def ids(self, **query: Any) -> list[str]:
        query.setdefault("limit", 100)
        return [found.id for found in await self.devices.page(DeviceFilter(**query))]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "fake":
        fake = FakeEnrollments()
        yield Store(fake, FakeDevices(fake), FakeMigration(fake), FakeIdentities(fake))
        return
    from shared.storage.enrollments.devices import MongoDevices
    from shared.storage.enrollments.identities import MongoIdentities
    from shared.storage.enrollments.imports import MongoMigration
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as mongo:
        yield Store(
            MongoEnrollments(mongo, KEYRING),
            MongoDevices(mongo, KEYRING),
            MongoMigration(mongo, KEYRING),
            MongoIdentities(mongo, KEYRING),
        )


async def test_only_device_channels_that_are_not_removed_are_listed_by_id(store: Store) -> None:
    for device in ("PAD", "MAC", "OLD"):
        await store.enroll(device)
    await store.user("MAC", "anna")
    await store.enrollments.remove({"OLD"}, "removal")

    assert await store.ids() == ["MAC", "PAD"]


IDS = [
    "00008030-000A1111",
    "00008030-000A1112",
    "00008030-001B0000",
    "0AAA",
    "AAAA-1",
    "AAAA-2",
    "AAAB",
    "b",
    "geräte-1",
    "geräte\ud7ff",
    "geräte\ue000",
    "\U0001f34e",
]


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_pages_together_hold_every_device_once(store: Store, limit: int) -> None:
    for device in reversed(IDS):
        await store.enroll(device)

    found: list[str] = []
    page = await store.ids(limit=limit)
    while page:
        assert len(page) <= limit
        found += page
        page = await store.ids(limit=limit, after=found[-1])

    assert found == IDS


async def test_a_page_goes_on_behind_a_device_that_is_gone_and_one_that_came(store: Store) -> None:
    for device in ("A", "C", "E"):
        await store.enroll(device)
    first = await store.ids(limit=2)
    await store.enrollments.remove({"C"}, "removal")
    await store.enroll("D")
    await store.enroll("B")

    assert first == ["A", "C"]
    assert await store.ids(limit=2, after="C") == ["D", "E"]


async def test_each_filter_leaves_out_the_others(store: Store) -> None:
    await store.enroll("MAC", serial_number="C02", model="Mac16,1", os_version="15.1")
    await store.enroll("PAD", serial_number="DMP", model="iPad16,3", os_version="18.1")
    await store.migrate("OLD")
    await store.enrollments.block("PAD", True)
    await store.enrollments.seen({"PAD": NOW + HOUR})

    assert await store.ids(id="PAD") == ["PAD"]
    assert await store.ids(id="PAD", after="MAC") == ["PAD"]
    assert await store.ids(id="PAD", after="PAD") == []
    assert await store.ids(serial_number="C02") == ["MAC"]
    assert await store.ids(serial_number="C02", after="MAC") == []
    assert await store.ids(model="iPad16,3") == ["PAD"]
    assert await store.ids(os_version="15.1") == ["MAC"]
    assert await store.ids(blocked=True) == ["PAD"]
    assert await store.ids(blocked=False) == ["MAC", "OLD"]
    assert await store.ids(migrating=True) == ["OLD"]
    assert await store.ids(migrating=False) == ["MAC", "PAD"]
    assert await store.ids(status=EnrollmentStatus.AUTHENTICATED) == ["OLD"]
    assert await store.ids(seen_since=NOW + HOUR) == ["PAD"]
    assert await store.ids(seen_before=NOW + HOUR) == ["MAC"]
    assert await store.ids(os_version="15.1", model="iPad16,3") == []


async def test_devices_in_quarantine_are_found(store: Store) -> None:
    for device in ("MAC", "PAD"):
        await store.enroll(device)
    shown = DeviceCertificate("other")
    reason = QuarantineReason.OTHER_CERTIFICATE
    seen = Quarantine(NOW, NOW, reason, shown)
    outbox_event = quarantined("notice", 1, "certificate of PAD", seen)
    assert await store.identities.quarantine("PAD", "certificate of PAD", seen, outbox_event)

    assert await store.ids(quarantined=True) == ["PAD"]
    assert await store.ids(quarantined=False) == ["MAC"]


async def test_a_device_is_not_found_by_the_serial_number_that_is_another_ones_id(
    store: Store,
) -> None:
    await store.enroll("MAC", serial_number="PAD")
    await store.enroll("PAD", serial_number="DMP")

    assert await store.ids(serial_number="PAD") == ["MAC"]


async def test_the_user_channels_of_a_device_are_its_own(store: Store) -> None:
    for device in ("MAC", "PAD"):
        await store.enroll(device)
        for name in ("otto", "anna"):
            await store.user(device, name)
    await store.enrollments.remove({"PAD"}, "removal")

    assert [user.id for user in await store.devices.users("MAC", 9)] == ["MAC:anna", "MAC:otto"]
    assert await store.devices.users("PAD", 9) == []
    assert await store.devices.users("nobody", 9) == []


async def test_user_channels_come_in_pages_by_id(store: Store) -> None:
    await store.enroll("MAC")
    for name in ("c", "a", "b"):
        await store.user("MAC", name)

    first = await store.devices.users("MAC", 2)
    second = await store.devices.users("MAC", 2, first[-1].id)

    assert [user.id for user in (*first, *second)] == ["MAC:a", "MAC:b", "MAC:c"]
    assert await store.devices.users("MAC", 2, "MAC:c") == []
    assert await store.devices.users("MAC", 1, "AAA:z") == first[:1]


@pytest.mark.parametrize("claimed", ["MAC:*", "MAC"])
async def test_a_user_of_a_stranger_never_passes_for_one_of_the_device(
    store: Store, claimed: str
) -> None:
    await store.enroll("MAC")
    await store.enroll("EVIL")
    await store.user("EVIL", claimed)

    assert await store.devices.users("MAC", 9) == []
    assert await store.enrollments.count_users("MAC", 9) == 0


async def test_secrets_come_back_as_the_device_sent_them(store: Store) -> None:
    key = await store.enroll("MAC")
    await store.token_update(key, unlock_token=b"unlock")
    token = Change(key, "MAC-3", "MAC-1", Topic.SET_BOOTSTRAP_TOKEN, NOW)
    await store.change(replace(token, bootstrap_token=b"bootstrap"))

    assert await store.devices.secrets("MAC") == DeviceSecrets(b"unlock", b"bootstrap")


async def test_secrets_stay_over_a_renewal_and_go_with_the_enrollment(store: Store) -> None:
    key = await store.enroll("MAC")
    await store.token_update(key, unlock_token=b"unlock")
    [record] = (await store.enrollments.load({"MAC"})).values()
    again = Change(
        key, "MAC-3", "MAC-1", Topic.AUTHENTICATE, NOW, certificate=record.certificate, renewing="c"
    )
    await store.change(again)

    kept = await store.devices.secrets("MAC")
    await store.change(replace(again, by="MAC-4", renewing=None))

    assert (kept, await store.devices.secrets("MAC")) == (DeviceSecrets(b"unlock"), DeviceSecrets())


async def test_there_are_no_secrets_where_none_were_sent_or_an_empty_one(store: Store) -> None:
    key = await store.enroll("MAC")
    before = await store.devices.secrets("MAC")
    token = Change(key, "MAC-3", "MAC-1", Topic.SET_BOOTSTRAP_TOKEN, NOW)
    await store.change(replace(token, bootstrap_token=b""))

    assert before == await store.devices.secrets("MAC") == DeviceSecrets()
    assert await store.devices.secrets("nobody") == DeviceSecrets()


async def test_a_removed_device_has_no_secrets(store: Store) -> None:
    key = await store.enroll("MAC")
    await store.token_update(key, unlock_token=b"unlock")
    await store.enrollments.remove({"MAC"}, "removal")

    assert await store.devices.secrets("MAC") == DeviceSecrets()


def test_secrets_do_not_show() -> None:
    assert "unlock" not in repr(DeviceSecrets(b"unlock")).replace("unlock_token", "")


@pytest.mark.parametrize("driver", DRIVERS, indirect=False)
async def test_a_secret_encrypted_with_a_key_that_we_lack_is_no_missing_one(
    request: pytest.FixtureRequest, driver: str
) -> None:
    from shared.storage.enrollments.devices import MongoDevices
    from shared.storage.enrollments.identities import MongoIdentities
    from shared.storage.enrollments.imports import MongoMigration
    from shared.storage.enrollments.store import MongoEnrollments

    request.param = driver
    async with open_store(request) as mongo:
        other = MongoDevices(mongo, AesKeyring([b"another secret key of 32 bytes!!"]))
        store = Store(
            MongoEnrollments(mongo, KEYRING),
            other,
            MongoMigration(mongo, KEYRING),
            MongoIdentities(mongo, KEYRING),
        )
        key = await store.enroll("MAC")
        await store.token_update(key, unlock_token=b"unlock")

        with pytest.raises(CannotDecrypt):
            await store.devices.secrets("MAC")
