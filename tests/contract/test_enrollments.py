"""The contract of `Enrollments`, held by the fake and by MongoDB with both drivers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from shared.domain.binding import MOST_RETIRED, Binding
from shared.domain.enrollment import (
    PARTITIONS,
    Enrollment,
    EnrollmentKey,
    EnrollmentStatus,
    Inventory,
    PushTarget,
    Waiting,
)
from shared.domain.event import Topic
from shared.ports.enrollments import Change, DeviceQuery, Enrollments, Mark
from tests.contract.stores import KEYRING, STORES, open_store
from tests.support.fakes.enrollments import FakeEnrollments

NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

MAC = EnrollmentKey("MAC", device="MAC", udid="MAC")
PAD = EnrollmentKey("PAD", device="PAD", udid="PAD")
ANNA = EnrollmentKey("MAC:anna", device="MAC", udid="MAC", user="anna")
ANNA_ON_PAD = EnrollmentKey("PAD:anna", device="PAD", udid="PAD", user="anna")
PRIVATE = EnrollmentKey("E-1", device="E-1", enrollment_id="E-1")
PRIVATE_USER = EnrollmentKey("E-1:EU-1", device="E-1", enrollment_id="E-1", user="EU-1")
PUSH = PushTarget("com.apple.mgmt.test", b"token-1", "magic-1")


@pytest.fixture(params=STORES)
async def enrollments(request: pytest.FixtureRequest) -> AsyncIterator[Enrollments]:
    if request.param == "fake":
        yield FakeEnrollments()
        return
    from shared.storage.enrollments.store import MongoEnrollments

    async with open_store(request) as mongo:
        yield MongoEnrollments(mongo, KEYRING)


def change(
    key: EnrollmentKey, topic: Topic, by: str, expected: str | None, **more: object
) -> Change:
    made = Change(key, by, expected, topic, NOW)
    if topic is Topic.AUTHENTICATE:
        made = replace(made, certificate=f"cert-{key.id}", makes_record=expected is None)
    return replace(made, **more)  # type: ignore[arg-type]  # any field of a Change


async def bind(
    enrollments: Enrollments, key: EnrollmentKey, certificate: str, generation: str | None = None
) -> bool:
    record = (await enrollments.load({key.device})).get(key.device)
    replaces = None if record is None else record.certificate
    binding = Binding(key, generation, certificate, is_new=record is None, replaces=replaces)
    [bound] = await enrollments.bind([binding])
    return bound


async def apply(enrollments: Enrollments, *changes: Change) -> list[bool]:
    """As one who has just read the records."""
    records = await enrollments.load({change.key.id for change in changes})
    last = {id_: record.changed_by for id_, record in records.items()}
    read = [replace(change, expected_change=last.get(change.key.id)) for change in changes]
    return await enrollments.apply(read)


async def load(enrollments: Enrollments, key: EnrollmentKey) -> Enrollment:
    return (await enrollments.load({key.id}))[key.id]


async def authenticated(
    enrollments: Enrollments, key: EnrollmentKey, generation: str = "gen-1", **more: object
) -> Enrollment:
    """A device that has authenticated, with the certificate `cert-<its id>`."""
    assert await bind(enrollments, key, f"cert-{key.id}")
    assert await apply(enrollments, change(key, Topic.AUTHENTICATE, generation, None, **more)) == [
        True
    ]
    return await load(enrollments, key)


async def enrolled(
    enrollments: Enrollments, key: EnrollmentKey, serial: str | None = None
) -> Enrollment:
    await authenticated(enrollments, key, inventory=Inventory(serial_number=serial))
    done = await apply(
        enrollments, change(key, Topic.TOKEN_UPDATE, f"tok-{key.id}", "gen-1", push=PUSH)
    )
    assert done == [True]
    return await load(enrollments, key)


async def user_enrolled(enrollments: Enrollments, key: EnrollmentKey) -> Enrollment:
    first = change(key, Topic.TOKEN_UPDATE, f"tok-{key.id}", None, generation="gen-1", push=PUSH)
    done = await apply(enrollments, first)
    assert done == [True]
    return await load(enrollments, key)


def ids(found: dict[str, list[Enrollment]], name: str) -> set[str]:
    return {enrollment.id for enrollment in found.get(name, [])}


# --- binding


async def test_a_first_binding_reserves_the_certificate_and_makes_no_record(
    enrollments: Enrollments,
) -> None:
    assert await bind(enrollments, MAC, "cert-1") is True

    assert await enrollments.holders({"cert-1"}) == {"cert-1": "MAC"}
    assert await enrollments.load({"MAC"}) == {}


async def test_the_first_authenticate_makes_the_record(enrollments: Enrollments) -> None:
    told = Inventory(serial_number="C02", model="Mac16,1")

    done = await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-1", None, inventory=told))

    assert done == [True]
    assert await load(enrollments, MAC) == Enrollment(
        MAC,
        EnrollmentStatus.AUTHENTICATED,
        generation="gen-1",
        changed_by="gen-1",
        certificate="cert-MAC",
        inventory=told,
        last_seen=NOW,
    )
    assert ids(await enrollments.find({"C02"}), "C02") == {"MAC"}


async def test_of_two_first_authenticates_of_a_device_one_wins(enrollments: Enrollments) -> None:
    one = change(MAC, Topic.AUTHENTICATE, "gen-1", None, certificate="cert-1")
    other = change(MAC, Topic.AUTHENTICATE, "gen-2", None, certificate="cert-2")

    outcomes = await asyncio.gather(enrollments.apply([one]), enrollments.apply([other]))

    assert sorted(outcomes) == [[False], [True]]
    winner = "cert-1" if outcomes[0] == [True] else "cert-2"
    assert (await load(enrollments, MAC)).certificate == winner


async def test_an_authenticate_that_is_applied_again_changes_nothing(
    enrollments: Enrollments,
) -> None:
    first = change(MAC, Topic.AUTHENTICATE, "gen-1", None)

    assert await apply(enrollments, first) == [True]
    before = await load(enrollments, MAC)

    assert await apply(enrollments, first) == [True]
    assert await load(enrollments, MAC) == before


async def test_binding_anew_replaces_the_certificate(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)

    assert await bind(enrollments, MAC, "cert-2", "gen-1") is True

    assert (await load(enrollments, MAC)).certificate == "cert-2"


async def test_binding_on_another_generation_is_overtaken(enrollments: Enrollments) -> None:
    before = await authenticated(enrollments, MAC)

    assert await bind(enrollments, MAC, "cert-2", "gen-0") is False
    assert await bind(enrollments, MAC, "cert-2", None) is False

    assert await load(enrollments, MAC) == before


async def test_a_certificate_has_one_holder(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)

    assert await bind(enrollments, PAD, "cert-MAC") is False

    assert await enrollments.load({"PAD"}) == {}
    assert await enrollments.holders({"cert-MAC"}) == {"cert-MAC": "MAC"}


async def test_a_certificate_of_another_device_does_not_replace_ones_own(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    before = await authenticated(enrollments, PAD)

    assert await bind(enrollments, PAD, "cert-MAC", "gen-1") is False

    assert await load(enrollments, PAD) == before


async def test_of_two_devices_that_bind_one_certificate_at_once_one_wins(
    enrollments: Enrollments,
) -> None:
    outcomes = await asyncio.gather(
        enrollments.bind([Binding(MAC, None, "cert-1", is_new=True)]),
        enrollments.bind([Binding(PAD, None, "cert-1", is_new=True)]),
    )

    assert sorted(outcomes) == [[False], [True]]


async def test_a_replaced_certificate_keeps_its_holder(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)
    await bind(enrollments, MAC, "cert-2", "gen-1")

    assert await enrollments.holders({"cert-MAC", "cert-2", "unknown"}) == {
        "cert-MAC": "MAC",
        "cert-2": "MAC",
    }


async def test_a_certificate_whose_binding_was_overtaken_stays_its_devices(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    assert await bind(enrollments, MAC, "cert-2", "gen-0") is False

    assert await bind(enrollments, PAD, "cert-2") is False
    assert await bind(enrollments, MAC, "cert-2", "gen-1") is True


async def test_a_replaced_certificate_is_retired(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)

    await enrollments.bind([Binding(MAC, "gen-1", "cert-2", is_new=False, replaces="cert-MAC")])

    assert (await load(enrollments, MAC)).retired_certificates == ("cert-MAC",)


async def test_a_record_lists_its_latest_retired_certificates_and_all_of_them_are_known(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    names = ["cert-MAC", *(f"cert-{number}" for number in range(MOST_RETIRED + 5))]

    for before, after in pairwise(names):
        retired = (await load(enrollments, MAC)).retired_certificates
        binding = Binding(MAC, "gen-1", after, is_new=False, replaces=before, retired=retired)
        assert await enrollments.bind([binding]) == [True]

    listed = (await load(enrollments, MAC)).retired_certificates
    assert listed == tuple(names[-MOST_RETIRED - 1 : -1])
    assert await enrollments.long_retired(names) == set(names[: -MOST_RETIRED - 1])
    assert set(await enrollments.holders(names)) == set(names)


async def test_a_replaced_certificate_cannot_be_bound_to_another_device(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    await bind(enrollments, MAC, "cert-2", "gen-1")

    assert await bind(enrollments, PAD, "cert-MAC") is False


async def test_bindings_of_a_batch_each_have_their_own_outcome(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)

    outcomes = await enrollments.bind(
        [
            Binding(PAD, None, "cert-MAC", is_new=True),
            Binding(PRIVATE, None, "cert-E", is_new=True),
            Binding(MAC, "gen-0", "cert-3", is_new=False),
        ]
    )

    assert outcomes == [False, True, False]


# --- applying messages


async def test_authenticate_makes_its_event_the_generation(enrollments: Enrollments) -> None:
    await bind(enrollments, MAC, "cert-1")
    told = Inventory(serial_number="C02", model="Mac16,1", device_name="Anna's Mac")

    done = await apply(
        enrollments,
        change(MAC, Topic.AUTHENTICATE, "gen-1", None, inventory=told, certificate="cert-1"),
    )

    assert done == [True]
    record = await load(enrollments, MAC)
    assert record.generation == "gen-1"
    assert record.status is EnrollmentStatus.AUTHENTICATED
    assert record.certificate == "cert-1"
    assert record.inventory == told


async def test_token_update_enrolls_and_keeps_the_generation(enrollments: Enrollments) -> None:
    record = await enrolled(enrollments, MAC)

    assert record.status is EnrollmentStatus.ENROLLED
    assert record.push == PUSH
    assert record.token_updated_at == NOW
    assert record.generation == "gen-1"


async def test_a_new_token_revives_a_dead_one(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.mark_token("MAC", PUSH.token, dead=True)
    fresh = PushTarget(PUSH.topic, b"token-2", "magic-2")

    await apply(enrollments, change(MAC, Topic.TOKEN_UPDATE, "tok-2", "gen-1", push=fresh))

    assert (await load(enrollments, MAC)).push == fresh


async def test_a_token_update_without_inventory_keeps_what_was_told(
    enrollments: Enrollments,
) -> None:
    record = await enrolled(enrollments, MAC, serial="C02")

    assert record.inventory.serial_number == "C02"


@pytest.mark.parametrize("topic", [Topic.TOKEN_UPDATE, Topic.SET_BOOTSTRAP_TOKEN])
@pytest.mark.parametrize("key", [MAC, ANNA])
async def test_of_two_that_read_a_record_at_once_and_bring_secrets_the_later_is_overtaken(
    enrollments: Enrollments, topic: Topic, key: EnrollmentKey
) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)
    read = (await load(enrollments, key)).changed_by
    newer, late = [
        change(key, topic, by, "gen-1", generation="gen-1", expected_change=read, push=push)
        for by, push in (("newer", replace(PUSH, token=b"newer")), ("late", PUSH))
    ]

    outcomes = [await enrollments.apply([newer]), await enrollments.apply([late])]
    again = await enrollments.apply([newer])

    assert (outcomes, again) == ([[True], [False]], [True])
    record = await load(enrollments, key)
    assert record.push is not None
    assert (record.changed_by, record.push.token) == ("newer", b"newer")


async def test_inventory_is_written_only_where_something_is_told(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    told = Inventory(os_version="15.1")

    await apply(enrollments, change(MAC, Topic.TOKEN_UPDATE, "tok-2", "gen-1", inventory=told))

    inventory = (await load(enrollments, MAC)).inventory
    assert (inventory.serial_number, inventory.os_version) == ("C02", "15.1")


async def test_authenticate_forgets_the_push_token_until_the_next_token_update(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))

    record = await load(enrollments, MAC)
    assert record.push is None
    assert record.token_updated_at is None
    assert record.status is EnrollmentStatus.AUTHENTICATED
    assert record.generation == "gen-2"


async def test_a_new_enrollment_begins_without_the_bootstrap_token_of_the_last(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)
    topic = Topic.SET_BOOTSTRAP_TOKEN
    await apply(enrollments, change(MAC, topic, "boot-1", "gen-1", bootstrap_token=b"secret"))

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))

    assert (await load(enrollments, MAC)).bootstrap_token is None


@pytest.mark.parametrize("topic", [Topic.AUTHENTICATE, Topic.CHECK_OUT])
async def test_user_channels_end_with_the_enrollment_of_their_device(
    enrollments: Enrollments, topic: Topic
) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)
    await enrolled(enrollments, PAD)
    elsewhere = await user_enrolled(enrollments, ANNA_ON_PAD)

    await apply(enrollments, change(MAC, topic, "event-2", "gen-1"))

    ended = await load(enrollments, ANNA)
    assert ended.status is EnrollmentStatus.CHECKED_OUT
    assert ended.push is None
    assert await load(enrollments, ANNA_ON_PAD) == elsewhere


async def test_the_first_authenticate_ends_no_user_channel(enrollments: Enrollments) -> None:
    await bind(enrollments, MAC, "cert-1")
    before = await user_enrolled(enrollments, ANNA)

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-1", None))

    assert await load(enrollments, ANNA) == before


async def test_an_overtaken_authenticate_ends_no_user_channel(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    before = await user_enrolled(enrollments, ANNA)

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-0"))

    assert await load(enrollments, ANNA) == before


@pytest.mark.parametrize("key", [MAC, ANNA], ids=["device", "user"])
async def test_a_record_keeps_the_latest_time_of_signing(
    enrollments: Enrollments, key: EnrollmentKey
) -> None:
    await authenticated(enrollments, MAC, signed_at=NOW)
    assert (await load(enrollments, MAC)).signed_at == NOW
    times = (NOW + MINUTE, NOW + 3 * MINUTE, NOW + 2 * MINUTE, None)
    for number, signed_at in enumerate(times):
        expected = None if key is ANNA and number == 0 else "gen-1"
        said = change(key, Topic.TOKEN_UPDATE, f"tok-{number}", expected, generation="gen-1")
        assert await apply(enrollments, replace(said, push=PUSH, signed_at=signed_at)) == [True]

    assert (await load(enrollments, key)).signed_at == NOW + 3 * MINUTE
    await enrollments.remove({"MAC"}, "removal")
    assert (await load(enrollments, key)).signed_at == NOW + 3 * MINUTE


async def test_a_message_raises_last_seen(enrollments: Enrollments) -> None:
    record = await enrolled(enrollments, MAC)

    assert record.last_seen == NOW


async def test_check_out_is_noted_and_keeps_the_generation(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    await apply(enrollments, change(MAC, Topic.CHECK_OUT, "out-1", "gen-1"))

    record = await load(enrollments, MAC)
    assert record.status is EnrollmentStatus.CHECKED_OUT
    assert record.push is None
    assert record.generation == "gen-1"


async def test_a_bootstrap_token_is_kept(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    await apply(
        enrollments,
        change(MAC, Topic.SET_BOOTSTRAP_TOKEN, "boot-1", "gen-1", bootstrap_token=b"secret"),
    )

    record = await load(enrollments, MAC)
    assert record.bootstrap_token == b"secret"
    assert record.status is EnrollmentStatus.ENROLLED


@pytest.mark.parametrize("topic", [Topic.AUTHENTICATE, Topic.TOKEN_UPDATE, Topic.CHECK_OUT])
async def test_a_change_on_another_generation_is_overtaken(
    enrollments: Enrollments, topic: Topic
) -> None:
    before = await enrolled(enrollments, MAC)

    for expected in ("gen-0", None):
        assert await apply(enrollments, change(MAC, topic, "late", expected)) == [False]

    assert await load(enrollments, MAC) == before


async def test_of_two_authenticates_on_one_generation_one_wins(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)

    outcomes = await asyncio.gather(
        apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1")),
        apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-3", "gen-1")),
    )

    assert sorted(outcomes) == [[False], [True]]
    winner = "gen-2" if outcomes[0] == [True] else "gen-3"
    assert (await load(enrollments, MAC)).generation == winner


@pytest.mark.parametrize("renewing", [None, "cert-MAC"])
@pytest.mark.parametrize("topic", [Topic.AUTHENTICATE, Topic.CHECK_OUT])
async def test_rule_01_what_read_a_record_before_another_change_of_it_is_overtaken(
    enrollments: Enrollments, topic: Topic, renewing: str | None
) -> None:
    read = (await enrolled(enrollments, MAC)).changed_by
    await user_enrolled(enrollments, ANNA)
    late = change(MAC, topic, "late", "gen-1", expected_change=read, renewing=renewing)
    await apply(enrollments, change(MAC, Topic.TOKEN_UPDATE, "newer", "gen-1", push=PUSH))
    before = await enrollments.load({"MAC", "MAC:anna"})

    assert await enrollments.apply([late]) == [False]

    assert await enrollments.load({"MAC", "MAC:anna"}) == before


async def test_rule_04_an_authenticate_of_a_renewal_keeps_the_enrollment(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    boot = change(MAC, Topic.SET_BOOTSTRAP_TOKEN, "boot-1", "gen-1", bootstrap_token=b"secret")
    await apply(enrollments, boot)
    before, anna = await load(enrollments, MAC), await user_enrolled(enrollments, ANNA)
    told = Inventory(serial_number="C02", os_version="27.0")
    renewal = change(MAC, Topic.AUTHENTICATE, "again", "gen-1", renewing="cert-MAC", inventory=told)

    assert await apply(enrollments, renewal) == [True]

    changed = {"changed_by": "again", "renewing": "cert-MAC", "inventory": told}
    assert await load(enrollments, MAC) == replace(before, **changed)  # type: ignore[arg-type]
    assert await load(enrollments, ANNA) == anna


@pytest.mark.parametrize("topic", [Topic.AUTHENTICATE, Topic.TOKEN_UPDATE])
async def test_the_end_of_a_renewal_is_noted_beside_its_beginning(
    enrollments: Enrollments, topic: Topic
) -> None:
    await enrolled(enrollments, MAC)
    begins = change(MAC, Topic.AUTHENTICATE, "again", "gen-1", renewing="cert-MAC")
    ends = change(MAC, topic, "end", "gen-1", renewed="cert-MAC")

    for each in (begins, ends):
        assert await apply(enrollments, each) == [True]

    record = await load(enrollments, MAC)
    assert (record.renewing, record.renewed) == ("cert-MAC", "cert-MAC")


async def test_rule_16_another_binding_ends_what_was_noted_of_a_renewal(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)
    marks = {"renewing": "cert-MAC", "renewed": "cert-MAC"}
    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "again", "gen-1", **marks))

    assert await bind(enrollments, MAC, "cert-2", "gen-1")

    record = await load(enrollments, MAC)
    assert (record.renewing, record.renewed) == (None, None)


async def test_a_change_of_a_device_without_a_record_is_overtaken(enrollments: Enrollments) -> None:
    assert await apply(enrollments, change(MAC, Topic.TOKEN_UPDATE, "tok-1", None)) == [False]

    assert await enrollments.load({"MAC"}) == {}


async def test_a_user_channel_gets_its_record_from_its_first_change(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)

    record = await user_enrolled(enrollments, ANNA)

    assert record.key == ANNA
    assert record.status is EnrollmentStatus.ENROLLED
    assert record.push == PUSH
    assert record.generation == "gen-1"


async def test_changes_of_a_batch_each_have_their_own_outcome(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC)
    await authenticated(enrollments, PAD)

    outcomes = await apply(
        enrollments,
        change(MAC, Topic.TOKEN_UPDATE, "tok-1", "gen-0", push=PUSH),
        change(PAD, Topic.TOKEN_UPDATE, "tok-2", "gen-1", push=PUSH),
        change(ANNA, Topic.TOKEN_UPDATE, "tok-3", "gen-1", push=PUSH),
        change(PRIVATE, Topic.TOKEN_UPDATE, "tok-4", None, push=PUSH),
    )

    assert outcomes == [False, True, True, False]
    assert (await load(enrollments, PAD)).status is EnrollmentStatus.ENROLLED
    assert (await load(enrollments, MAC)).status is EnrollmentStatus.AUTHENTICATED


async def test_a_certificate_that_was_bound_before_survives_a_new_generation(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))

    assert (await load(enrollments, MAC)).certificate == "cert-MAC"


# --- finding by any id


@pytest.mark.parametrize("name", ["MAC", "C02"])
async def test_a_device_is_found_by_udid_and_serial_number(
    enrollments: Enrollments, name: str
) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    await enrolled(enrollments, PAD, serial="DMP")

    assert ids(await enrollments.find({name}), name) == {"MAC"}


async def test_a_udid_means_the_device_channel_though_users_share_it(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)

    assert ids(await enrollments.find({"MAC"}), "MAC") == {"MAC"}


@pytest.mark.parametrize("name", ["anna", "MAC:anna"])
async def test_a_user_channel_is_found_by_user_id_and_by_its_full_id(
    enrollments: Enrollments, name: str
) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)

    assert ids(await enrollments.find({name}), name) == {"MAC:anna"}


async def test_a_user_id_on_several_devices_is_ambiguous(enrollments: Enrollments) -> None:
    for device, user in ((MAC, ANNA), (PAD, ANNA_ON_PAD)):
        await enrolled(enrollments, device)
        await user_enrolled(enrollments, user)

    assert ids(await enrollments.find({"anna"}), "anna") == {"MAC:anna", "PAD:anna"}


async def test_a_user_enrollment_is_found_by_its_ids(enrollments: Enrollments) -> None:
    await enrolled(enrollments, PRIVATE)
    await user_enrolled(enrollments, PRIVATE_USER)

    found = await enrollments.find({"E-1", "EU-1"})

    assert ids(found, "E-1") == {"E-1"}
    assert ids(found, "EU-1") == {"E-1:EU-1"}


async def test_an_unknown_name_finds_nothing(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    assert ids(await enrollments.find({"nobody"}), "nobody") == set()


async def test_two_devices_with_one_serial_number_are_ambiguous(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    await enrolled(enrollments, PAD, serial="C02")

    assert ids(await enrollments.find({"C02"}), "C02") == {"MAC", "PAD"}


async def test_removed_enrollments_are_not_found(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    await user_enrolled(enrollments, ANNA)
    await enrollments.remove({"MAC"}, "removal")

    found = await enrollments.find({"MAC", "C02", "anna", "MAC:anna"})

    assert [name for name, there in found.items() if there] == []


# --- waiting (rule 8)


async def test_marks_widen_the_span_and_count_up(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    for created_at in (200, 100, 300):
        assert await enrollments.mark_waiting([Mark("MAC", created_at)]) == [True]

    assert await enrollments.read_waiting("MAC") == Waiting(since=100, upto=300, count=3)
    assert (await load(enrollments, MAC)).waiting == Waiting(since=100, upto=300, count=3)


async def test_several_marks_of_one_device_in_a_flush_all_count(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    assert await enrollments.mark_waiting([Mark("MAC", 200), Mark("MAC", 100)]) == [True, True]

    assert await enrollments.read_waiting("MAC") == Waiting(since=100, upto=200, count=2)


async def test_a_time_in_nanoseconds_is_kept_exactly(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    at = 1_767_323_045_123_456_789

    await enrollments.mark_waiting([Mark("MAC", at)])

    assert await enrollments.read_waiting("MAC") == Waiting(since=at, upto=at, count=1)


async def test_a_mark_without_a_record_is_refused_and_makes_none(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    assert await enrollments.mark_waiting([Mark("PAD", 1), Mark("MAC", 1)]) == [False, True]

    assert await enrollments.load({"PAD"}) == {}
    assert await enrollments.read_waiting("PAD") is None


async def test_rule_08_clearing_waits_for_the_count_that_was_read(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.mark_waiting([Mark("MAC", 100)])
    await enrollments.mark_waiting([Mark("MAC", 200)])

    assert await enrollments.clear_waiting("MAC", 1) is False
    assert await enrollments.read_waiting("MAC") == Waiting(since=100, upto=200, count=2)
    assert await enrollments.clear_waiting("MAC", 2) is True
    assert await enrollments.read_waiting("MAC") == Waiting(count=2)


async def test_clearing_a_part_leaves_the_rest(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.mark_waiting([Mark("MAC", 100, 300)])

    assert await enrollments.clear_waiting("MAC", 2, upto=200) is False
    assert await enrollments.clear_waiting("MAC", 1, upto=200) is True
    assert await enrollments.read_waiting("MAC") == Waiting(since=200, upto=300, count=1)
    assert await enrollments.clear_waiting("MAC", 1, upto=150) is True
    assert await enrollments.clear_waiting("MAC", 1, upto=301) is False
    assert await enrollments.read_waiting("MAC") == Waiting(since=200, upto=300, count=1)
    assert list(await enrollments.waiting([MAC.partition])) == ["MAC"]
    assert await enrollments.clear_waiting("MAC", 1) is True
    assert await enrollments.clear_waiting("MAC", 1, upto=200) is False
    assert await enrollments.read_waiting("MAC") == Waiting(count=1)


async def test_the_count_goes_on_after_clearing(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.mark_waiting([Mark("MAC", 100)])
    await enrollments.clear_waiting("MAC", 1)

    await enrollments.mark_waiting([Mark("MAC", 50)])

    assert await enrollments.read_waiting("MAC") == Waiting(since=50, upto=50, count=2)


async def test_waiting_lists_the_devices_of_these_partitions(enrollments: Enrollments) -> None:
    devices = [EnrollmentKey(f"D{n}", device=f"D{n}", udid=f"D{n}") for n in range(8)]
    for key in devices:
        await authenticated(enrollments, key)
    await enrollments.mark_waiting([Mark(key.device, 100) for key in devices])
    await enrollments.clear_waiting("D0", 1)

    mark = Waiting(since=100, upto=100, count=1)
    assert await enrollments.waiting(range(PARTITIONS)) == {f"D{n}": mark for n in range(1, 8)}
    some = {devices[1].partition, devices[2].partition}
    assert await enrollments.waiting(some) == {
        key.device: mark for key in devices[1:] if key.partition in some
    }


async def test_authenticate_keeps_waiting(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.mark_waiting([Mark("MAC", 100)])

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))

    assert await enrollments.read_waiting("MAC") == Waiting(since=100, upto=100, count=1)


# --- last_seen (rule 15)


async def test_last_seen_only_goes_up(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrolled(enrollments, PAD)

    await enrollments.seen({"MAC": NOW, "PAD": NOW})
    await enrollments.seen({"MAC": NOW - MINUTE, "PAD": NOW + MINUTE})

    assert (await load(enrollments, MAC)).last_seen == NOW
    assert (await load(enrollments, PAD)).last_seen == NOW + MINUTE


async def test_rule_15_having_been_seen_makes_no_record(enrollments: Enrollments) -> None:
    await enrollments.seen({"MAC": NOW})

    assert await enrollments.load({"MAC"}) == {}


# --- block, remove, list


async def test_blocking_and_unblocking(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    assert await enrollments.block("MAC", True) is True
    assert (await load(enrollments, MAC)).blocked is True
    assert await enrollments.block("MAC", False) is True
    assert (await load(enrollments, MAC)).blocked is False


async def test_a_block_survives_authenticate(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.block("MAC", True)

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))

    assert (await load(enrollments, MAC)).blocked is True


async def test_blocking_an_unknown_or_removed_device_says_so(enrollments: Enrollments) -> None:
    await enrolled(enrollments, PAD)
    await enrollments.remove({"PAD"}, "removal")

    assert await enrollments.block("MAC", True) is False
    assert await enrollments.block("PAD", True) is False


async def test_removing_leaves_a_stub_of_what_must_not_be_forgotten(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    await enrollments.mark_waiting([Mark("MAC", 100)])

    assert await enrollments.remove({"MAC"}, "removal") == ["MAC"]

    stub = await load(enrollments, MAC)
    assert stub.status is EnrollmentStatus.REMOVED
    assert stub.certificate == "cert-MAC"
    assert stub.generation == "gen-1"
    assert stub.waiting == Waiting(since=100, upto=100, count=1)
    assert stub.push == PUSH
    assert stub.inventory == Inventory()
    assert await enrollments.holders({"cert-MAC"}) == {"cert-MAC": "MAC"}


async def test_a_removed_device_keeps_its_last_serial_number_for_the_filters_of_webhooks(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    await user_enrolled(enrollments, ANNA)
    await enrolled(enrollments, PAD)
    names = {"MAC", ANNA.id, "PAD"}
    expected = {"MAC": {"C02"}, ANNA.id: set[str](), "PAD": set[str]()}

    async def serials() -> dict[str, frozenset[str]]:
        found = await enrollments.summaries(names)
        return {id_: each.serial_numbers for id_, each in found.items()}

    assert await serials() == expected
    await enrollments.remove({"MAC", "PAD"}, "removal")
    assert await serials() == expected
    await enrollments.revive({"MAC", "PAD"})
    assert await serials() == expected
    await enrollments.remove({"MAC"}, "removal")
    assert await serials() == expected
    assert await enrollments.find({"C02"}) == {}


async def test_removing_a_device_removes_its_user_channels(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)
    await enrolled(enrollments, PAD)

    removed = await enrollments.remove({"MAC"}, "removal")

    assert sorted(removed) == ["MAC", "MAC:anna"]
    assert (await load(enrollments, PAD)).status is EnrollmentStatus.ENROLLED


async def test_removing_an_unknown_device_removes_nothing(enrollments: Enrollments) -> None:
    assert await enrollments.remove({"MAC"}, "removal") == []


async def test_events_of_a_removed_device_still_wait(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.remove({"MAC"}, "removal")

    assert await enrollments.mark_waiting([Mark("MAC", 100)]) == [True]
    assert await enrollments.waiting({MAC.partition}) == {
        "MAC": Waiting(since=100, upto=100, count=1)
    }


@pytest.mark.parametrize(
    ("topic", "status"),
    [
        (Topic.TOKEN_UPDATE, EnrollmentStatus.ENROLLED),
        (Topic.AUTHENTICATE, EnrollmentStatus.AUTHENTICATED),
    ],
)
async def test_the_next_message_of_a_removed_device_makes_its_record_anew(
    enrollments: Enrollments, topic: Topic, status: EnrollmentStatus
) -> None:
    await enrolled(enrollments, MAC)
    await enrollments.remove({"MAC"}, "removal")

    assert await apply(enrollments, change(MAC, topic, "next", "gen-1")) == [True]

    assert (await load(enrollments, MAC)).status is status
    assert ids(await enrollments.find({"MAC"}), "MAC") == {"MAC"}


async def test_a_removed_enrollment_that_speaks_again_counts_anew(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)
    await enrolled(enrollments, PAD)
    await enrollments.remove({"MAC"}, "removal")

    await enrollments.revive({"MAC", "PAD", "nobody"})

    revived = await load(enrollments, MAC)
    assert revived.status is EnrollmentStatus.ENROLLED
    assert revived.push == PUSH
    assert revived.has_enrolled
    assert await enrollments.load({"nobody"}) == {}


async def test_a_removed_device_without_a_token_has_only_authenticated(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)
    await enrollments.remove({"MAC"}, "removal")

    await enrollments.revive({"MAC", ANNA.id})

    assert (await load(enrollments, MAC)).status is EnrollmentStatus.AUTHENTICATED
    assert not (await load(enrollments, MAC)).has_enrolled
    assert (await load(enrollments, ANNA)).status is EnrollmentStatus.ENROLLED


async def test_rule_01_a_late_rebinding_does_not_replace_a_newer_one(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    late = Binding(MAC, "gen-1", "cert-late", is_new=False, replaces="cert-MAC")
    assert await bind(enrollments, MAC, "cert-new", "gen-1")

    assert await enrollments.bind([late]) == [False]

    assert (await load(enrollments, MAC)).certificate == "cert-new"


async def test_rule_01_authenticate_applies_only_while_its_certificate_is_bound(
    enrollments: Enrollments,
) -> None:
    await authenticated(enrollments, MAC)
    await bind(enrollments, MAC, "cert-new", "gen-1")

    assert await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1")) == [False]

    assert (await load(enrollments, MAC)).generation == "gen-1"


async def test_rule_01_a_late_message_does_not_bring_an_ended_user_channel_back(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)
    late = change(ANNA, Topic.TOKEN_UPDATE, "late", "gen-1", generation="gen-1", push=PUSH)
    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))

    assert await apply(enrollments, late) == [False]

    assert (await load(enrollments, ANNA)).status is EnrollmentStatus.CHECKED_OUT


async def test_rule_01_a_late_message_does_not_bring_a_user_channel_back_that_a_check_out_ended(
    enrollments: Enrollments,
) -> None:
    mac = await enrolled(enrollments, MAC)
    anna = await user_enrolled(enrollments, ANNA)
    late = change(ANNA, Topic.TOKEN_UPDATE, "late", "gen-1", generation="gen-1", push=PUSH)
    out = change(MAC, Topic.CHECK_OUT, "out", "gen-1", expected_change=mac.changed_by)
    assert await enrollments.apply([out]) == [True]

    assert await enrollments.apply([replace(late, expected_change=anna.changed_by)]) == [False]

    ended = await load(enrollments, ANNA)
    assert (ended.status, ended.push) == (EnrollmentStatus.CHECKED_OUT, None)


@pytest.mark.parametrize("key", [MAC, ANNA], ids=["device", "user"])
@pytest.mark.parametrize("is_back", [False, True], ids=["removed", "back"])
async def test_rule_01_what_read_a_record_before_its_removal_is_overtaken(
    enrollments: Enrollments, key: EnrollmentKey, is_back: bool
) -> None:
    await enrolled(enrollments, MAC)
    await user_enrolled(enrollments, ANNA)
    read = await load(enrollments, key)
    late = change(key, Topic.TOKEN_UPDATE, "late", "gen-1", generation="gen-1", push=PUSH)
    await enrollments.remove({"MAC"}, "removal-1")
    if is_back:
        read = await load(enrollments, key)
        await enrollments.revive({key.id})
        await enrollments.remove({"MAC"}, "removal-2")

    assert await enrollments.apply([replace(late, expected_change=read.changed_by)]) == [False]

    assert (await load(enrollments, key)).status is EnrollmentStatus.REMOVED


async def test_rule_01_a_late_authenticate_ends_no_user_channel_of_its_repetition(
    enrollments: Enrollments,
) -> None:
    await enrolled(enrollments, MAC)
    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1"))
    user = change(ANNA, Topic.TOKEN_UPDATE, "tok", None, generation="gen-2", push=PUSH)
    await apply(enrollments, user)

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-3", "gen-1"))
    await apply(enrollments, change(MAC, Topic.CHECK_OUT, "out", "gen-1"))

    assert (await load(enrollments, ANNA)).status is EnrollmentStatus.ENROLLED


async def test_devices_lists_device_channels_that_are_not_removed(enrollments: Enrollments) -> None:
    for key in (PRIVATE, PAD, MAC):
        await enrolled(enrollments, key)
    await user_enrolled(enrollments, ANNA)
    await enrollments.remove({"PAD"}, "removal")

    listed = await enrollments.devices(DeviceQuery())

    assert [enrollment.id for enrollment in listed] == ["E-1", "MAC"]


async def test_devices_are_listed_from_authenticate_on(enrollments: Enrollments) -> None:
    await authenticated(enrollments, MAC, inventory=Inventory(serial_number="C02"))

    [listed] = await enrollments.devices(DeviceQuery())

    assert listed.inventory.serial_number == "C02"


async def test_devices_can_be_filtered_by_serial_number_and_udid(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC, serial="C02")
    await enrolled(enrollments, PAD, serial="DMP")

    async def listed(query: DeviceQuery) -> list[str]:
        return [enrollment.id for enrollment in await enrollments.devices(query)]

    assert await listed(DeviceQuery(serial_numbers=["DMP", "unknown"])) == ["PAD"]
    assert await listed(DeviceQuery(udids=["MAC"])) == ["MAC"]
    assert await listed(DeviceQuery(udids=["MAC", "PAD"])) == ["MAC", "PAD"]
    assert await listed(DeviceQuery(serial_numbers=["C02"], udids=["PAD"])) == []


async def test_devices_come_in_pages(enrollments: Enrollments) -> None:
    keys = [EnrollmentKey(f"D{n}", device=f"D{n}", udid=f"D{n}") for n in range(5)]
    for key in reversed(keys):
        await authenticated(enrollments, key)

    pages = [
        [e.id for e in await enrollments.devices(DeviceQuery(page=page, per_page=2))]
        for page in range(4)
    ]

    assert pages == [["D0", "D1"], ["D2", "D3"], ["D4"], []]


# --- dead tokens (rule 12)


async def test_a_token_that_we_still_hold_can_be_marked_dead(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    assert await enrollments.mark_token("MAC", PUSH.token, dead=True) is True

    assert (await load(enrollments, MAC)).push == replace(PUSH, dead=True)


async def test_a_dead_token_that_we_still_hold_can_be_marked_alive(
    enrollments: Enrollments,
) -> None:
    before = await enrolled(enrollments, MAC)
    await enrollments.mark_token("MAC", PUSH.token, dead=True)

    assert await enrollments.mark_token("MAC", b"earlier", dead=False) is False
    still_dead = (await load(enrollments, MAC)).push
    assert await enrollments.mark_token("MAC", PUSH.token, dead=False) is True

    assert still_dead == replace(PUSH, dead=True)
    assert await load(enrollments, MAC) == before


async def test_rule_12_what_apns_says_of_an_earlier_token_does_not_count(
    enrollments: Enrollments,
) -> None:
    before = await enrolled(enrollments, MAC)

    assert await enrollments.mark_token("MAC", b"earlier", dead=True) is False
    assert await enrollments.mark_token("PAD", PUSH.token, dead=True) is False

    assert await load(enrollments, MAC) == before


async def test_that_a_device_was_enrolled_before_is_kept(enrollments: Enrollments) -> None:
    assert not (await authenticated(enrollments, MAC)).was_enrolled
    again = change(MAC, Topic.AUTHENTICATE, "gen-2", "gen-1", was_enrolled=True)
    assert await apply(enrollments, again) == [True]
    assert (await load(enrollments, MAC)).was_enrolled

    await apply(enrollments, change(MAC, Topic.AUTHENTICATE, "gen-3", "gen-2"))
    await enrollments.remove({"MAC"}, "removal")

    assert (await load(enrollments, MAC)).was_enrolled


async def test_a_mark_may_span_several_events(enrollments: Enrollments) -> None:
    await enrolled(enrollments, MAC)

    assert await enrollments.mark_waiting([Mark("MAC", 5, 8)]) == [True]

    assert await enrollments.read_waiting("MAC") == Waiting(5, 8, 1)
