"""What a name means (`Enrollments.find`), held by the fake and by all stores."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime

import pytest

from shared.domain.enrollment import EnrollmentKey, EnrollmentSummary, Inventory
from shared.domain.event import Topic
from shared.ports.enrollments import Change, Enrollments
from shared.storage.database import Database, Document
from tests.contract.stores import DRIVERS, KEYRING, STORES, open_store
from tests.support.fakes.enrollments import FakeEnrollments

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
UUID = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"
CHIP = "00008103-001A2B3C4D5E601E"
OLD = "0123456789abcdef0123456789abcdef01234567"
FORMS = [UUID, CHIP, OLD]


@dataclass
class Store:
    enrollments: Enrollments
    database: Database | None = None
    """None of the fake."""

    async def authenticate(
        self, device: str, serial: str | None = None, *, after: str | None = None
    ) -> str:
        """Enroll a device, anew after the generation `after`; its generation."""
        key = EnrollmentKey(device, device, udid=device)
        known = (await self.enrollments.load([device])).get(device)
        change = Change(
            key=key,
            by=f"{device}-{serial}",
            expected_generation=after,
            expected_change=None if known is None else known.changed_by,
            topic=Topic.AUTHENTICATE,
            at=NOW,
            certificate=f"certificate of {device}",
            makes_record=after is None,
            inventory=Inventory(serial_number=serial),
            known_serial_number=None if known is None else known.inventory.serial_number,
        )
        assert await self.enrollments.apply([change]) == [True]
        return change.by

    async def user(self, device: str, name: str) -> None:
        key = EnrollmentKey(f"{device}:{name}", device, udid=device, user=name)
        change = Change(key, f"{key.id}-1", None, Topic.TOKEN_UPDATE, NOW)
        assert await self.enrollments.apply([change]) == [True]

    async def found(self, name: str) -> list[str]:
        return sorted(e.id for e in (await self.enrollments.find([name])).get(name, []))

    async def document(self, enrollment: str) -> Document:
        assert self.database is not None
        found = await self.database.collection("enrollments").find_one({"_id": enrollment})
        assert found is not None
        return found


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield Store(FakeEnrollments())
        return
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as database:
        yield Store(MongoEnrollments(database, KEYRING), database)


async def test_a_summary_says_what_the_record_says(store: Store) -> None:
    await store.authenticate("MAC", "C02")
    await store.user("MAC", "anna")
    await store.authenticate("GONE", "C03")
    await store.enrollments.remove({"GONE"}, "removal")
    ids = {"MAC", "MAC:anna", "GONE", "NOBODY"}

    summaries = await store.enrollments.summaries(ids)

    parts = [each.name for each in fields(EnrollmentSummary) if each.name != "names"]
    for id_, whole in (await store.enrollments.load(ids)).items():
        assert [getattr(summaries[id_], part) for part in parts] == [
            getattr(whole, part) for part in parts
        ]
    assert summaries.keys() == ids - {"NOBODY"}
    assert await store.enrollments.summaries([]) == {}


def only_stores() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("store", DRIVERS, indirect=True)


# --- ids in the form of a UDID


@pytest.mark.parametrize("udid", FORMS)
async def test_a_serial_number_in_the_form_of_a_udid_names_nobody(store: Store, udid: str) -> None:
    await store.authenticate("EVIL", udid)

    assert await store.found(udid) == []


@pytest.mark.parametrize("udid", FORMS)
async def test_a_udid_means_its_device_whoever_else_claims_it(store: Store, udid: str) -> None:
    await store.authenticate(udid, "C02")
    await store.authenticate("EVIL", udid)
    await store.user("EVIL", udid)

    assert await store.found(udid) == [udid]


@pytest.mark.parametrize("udid", FORMS)
async def test_the_udid_of_a_removed_device_means_nobody(store: Store, udid: str) -> None:
    await store.authenticate(udid, "C02")
    await store.authenticate("EVIL", udid)
    await store.user("EVIL", udid)
    await store.enrollments.remove([udid], "removal")

    assert await store.found(udid) == []
    assert await store.found("C02") == []


async def test_a_serial_number_in_the_form_of_a_user_channels_id_names_nobody(store: Store) -> None:
    await store.authenticate("EVIL", f"{UUID}:anna")

    assert await store.found(f"{UUID}:anna") == []


async def test_a_user_id_that_equals_a_udid_never_seen_means_the_user(store: Store) -> None:
    await store.authenticate("MAC")
    await store.user("MAC", UUID)

    assert await store.found(UUID) == [f"MAC:{UUID}"]


async def test_a_user_id_means_the_user_though_a_serial_number_claims_it(store: Store) -> None:
    await store.authenticate("MAC")
    await store.user("MAC", UUID)
    await store.authenticate("EVIL", UUID)

    assert await store.found(UUID) == [f"MAC:{UUID}"]


# --- all other names


@pytest.mark.parametrize("serial", ["C02XYZ", "DEADBEEF", "0123456789", f"{UUID}0", UUID[:-1]])
async def test_any_other_serial_number_is_a_name(store: Store, serial: str) -> None:
    await store.authenticate("MAC", serial)

    assert await store.found(serial) == ["MAC"]


async def test_an_id_that_is_anothers_serial_number_names_both(store: Store) -> None:
    await store.authenticate(UUID, "C02")
    await store.authenticate("C02", "EVIL")

    assert await store.found("C02") == sorted(["C02", UUID])


async def test_an_id_that_is_anothers_user_id_names_both(store: Store) -> None:
    await store.authenticate("MAC")
    await store.user("MAC", "anna")
    await store.authenticate("anna")

    assert await store.found("anna") == ["MAC:anna", "anna"]


async def test_a_serial_number_that_is_anothers_user_id_names_both(store: Store) -> None:
    await store.authenticate("MAC")
    await store.user("MAC", "anna")
    await store.authenticate("EVIL", "anna")

    assert await store.found("anna") == ["EVIL", "MAC:anna"]


async def test_a_removed_enrollment_is_never_found_as_anothers_name(store: Store) -> None:
    await store.authenticate("DEVICE")
    await store.authenticate("EVIL", "DEVICE")
    await store.enrollments.remove(["DEVICE"], "removal")

    assert await store.found("DEVICE") == []


async def test_several_names_are_looked_up_at_once_each_by_itself(store: Store) -> None:
    await store.authenticate(UUID, "C02")
    await store.authenticate("C02", UUID)
    await store.user("C02", "anna")

    found = await store.enrollments.find({UUID, "C02", "anna", CHIP})

    assert {name: {e.id for e in each} for name, each in found.items()} == {
        UUID: {UUID},
        "C02": {UUID, "C02"},
        "anna": {"C02:anna"},
    }


# --- names are those of now


async def test_a_new_serial_number_takes_the_entry_of_the_earlier_one(store: Store) -> None:
    generation = await store.authenticate("MAC", "C02")
    await store.authenticate("MAC", "C03", after=generation)

    assert await store.found("C02") == []
    assert await store.found("C03") == ["MAC"]


async def test_an_authenticate_without_a_serial_number_leaves_the_name(store: Store) -> None:
    generation = await store.authenticate("MAC", "C02")
    await store.authenticate("MAC", None, after=generation)

    assert await store.found("C02") == ["MAC"]


@only_stores()
async def test_names_are_replaced_not_collected(store: Store) -> None:
    generation = await store.authenticate("MAC", "serial-0")
    for n in range(1, 6):
        generation = await store.authenticate("MAC", f"serial-{n}", after=generation)
    await store.user("MAC", "anna")

    assert (await store.document("MAC"))["names"] == ["MAC", "serial-5"]
    assert (await store.document("MAC:anna"))["names"] == ["MAC:anna", "anna", "MAC:*"]


@only_stores()
async def test_names_that_an_earlier_version_collected_mean_nobody(store: Store) -> None:
    generation = await store.authenticate("EVIL", "now")
    await collect(store, "EVIL", UUID, "C02", "now")

    assert await store.found(UUID) == []
    assert await store.found("C02") == []
    assert await store.found("now") == ["EVIL"]

    await store.authenticate(UUID, "C02")
    assert await store.found("C02") == [UUID]
    assert generation == "EVIL-now"


@only_stores()
@pytest.mark.parametrize("topic", [Topic.AUTHENTICATE, Topic.TOKEN_UPDATE, Topic.CHECK_OUT])
async def test_the_next_change_brings_collected_names_in_line(store: Store, topic: Topic) -> None:
    generation = await store.authenticate("MAC", "now")
    await collect(store, "MAC", "old-1", "old-2", "now")
    key = EnrollmentKey("MAC", "MAC", udid="MAC")
    change = Change(
        key,
        "next",
        generation,
        topic,
        NOW,
        certificate="certificate of MAC",
        expected_change=generation,
        known_serial_number="now",
    )

    assert await store.enrollments.apply([change]) == [True]

    assert (await store.document("MAC"))["names"] == ["MAC", "now"]


async def collect(store: Store, device: str, *names: str) -> None:
    assert store.database is not None
    update = {"$set": {"names": [device, *names]}}
    assert await store.database.collection("enrollments").update_one({"_id": device}, update) == 1


# --- user channels are their device's, whatever a stranger's UserID or serial number looks like


async def test_removing_a_device_leaves_strangers_that_claim_its_users_alone(store: Store) -> None:
    await store.authenticate("MAC")
    await store.user("MAC", "anna")
    await store.authenticate("EVIL", "MAC:*")
    await store.user("EVIL", "MAC:*")

    assert sorted(await store.enrollments.remove(["MAC"], "removal")) == ["MAC", "MAC:anna"]


async def test_user_channels_are_counted_up_to_a_limit(store: Store) -> None:
    await store.authenticate("MAC")
    for n in range(3):
        await store.user("MAC", f"user-{n}")

    assert [await store.enrollments.count_users("MAC", most) for most in (2, 9)] == [2, 3]
    await store.enrollments.remove(["MAC"], "removal")
    assert await store.enrollments.count_users("MAC", 9) == 0
