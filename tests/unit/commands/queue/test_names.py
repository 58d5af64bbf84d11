"""Whom an API client means: the rule for names, and what `Targets` makes of it."""

import pytest

from services.commands.queue.targets import Target, Targets
from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus, Inventory
from shared.domain.errors import Conflict
from shared.domain.names import MOST_TOLD, fitting_names, is_like_id
from tests.support.fakes.enrollments import FakeEnrollments

UUID = "A5EF1BA1-586D-4F29-B4F3-759DADAC2DDD"
CHIP = "00008103-001A2B3C4D5E601E"
OLD = "0123456789abcdef0123456789abcdef01234567"


def device(id_: str, serial: str | None = None, *, is_removed: bool = False) -> Enrollment:
    return Enrollment(
        EnrollmentKey(id_, id_, udid=id_),
        EnrollmentStatus.REMOVED if is_removed else EnrollmentStatus.ENROLLED,
        generation=f"generation of {id_}",
        inventory=Inventory(serial_number=serial),
    )


def user(device: str, name: str) -> Enrollment:
    key = EnrollmentKey(f"{device}:{name}", device, udid=device, user=name)
    return Enrollment(key, EnrollmentStatus.ENROLLED)


async def resolve(name: str, *records: Enrollment) -> Target | Conflict:
    enrollments = FakeEnrollments()
    enrollments.add(*records)
    return (await Targets(enrollments).resolve([name]))[name]


async def id_of(name: str, *records: Enrollment) -> str | None:
    """The enrollment that the name means, None where it means none."""
    target = await resolve(name, *records)
    assert isinstance(target, Target), target
    return target.key.id if target.is_known else None


async def refusal(name: str, *records: Enrollment) -> str:
    target = await resolve(name, *records)
    assert isinstance(target, Conflict), target
    return str(target)


@pytest.mark.parametrize("name", [UUID, UUID.lower(), CHIP, OLD, OLD.upper(), f"{UUID}:anna"])
def test_these_have_the_form_of_an_id(name: str) -> None:
    assert is_like_id(name)
    assert fitting_names(device("EVIL", name)) == {"EVIL"}


@pytest.mark.parametrize(
    "name",
    [
        "C02W00D3HTD0",
        "DEADBEEF",
        OLD[1:],
        f"{OLD}0",
        UUID.replace("-", ""),
        f"{UUID}\n",
        f" {CHIP}",
    ],
)
def test_these_are_serial_numbers_like_any_other(name: str) -> None:
    assert not is_like_id(name)
    assert fitting_names(device("MAC", name)) == {"MAC", name}


def test_digits_of_other_scripts_make_no_udid() -> None:
    assert not is_like_id("٠" * 40)


@pytest.mark.parametrize("udid", [UUID, CHIP, OLD])
async def test_commands_for_a_udid_never_go_to_who_claims_it_as_serial_number(udid: str) -> None:
    evil, victim = device("EVIL", udid), device(udid, "C02")

    assert await id_of(udid, evil) is None
    assert await id_of(udid, evil, victim) == udid
    assert await id_of(udid, evil, user("EVIL", udid), device(udid, is_removed=True)) is None


async def test_commands_for_a_serial_number_never_go_to_who_claims_it_as_udid() -> None:
    victim, evil = device(UUID, "C02W00D3HTD0"), device("C02W00D3HTD0", "X")

    told = await refusal("C02W00D3HTD0", victim, evil)

    assert told.endswith(f"C02W00D3HTD0 names several enrollments: {UUID}, C02W00D3HTD0")


async def test_commands_for_a_user_never_go_to_who_claims_the_user_id_as_serial_number() -> None:
    there = device(UUID), user(UUID, "anna"), device("EVIL", "anna")

    assert f"{UUID}:anna, EVIL" in await refusal("anna", *there)
    assert (
        await id_of(CHIP, device(UUID), user(UUID, CHIP), device("EVIL", CHIP)) == f"{UUID}:{CHIP}"
    )


async def test_a_removed_enrollment_keeps_its_generation_for_who_queues_all_the_same() -> None:
    target = await resolve(UUID, device(UUID, is_removed=True), device("EVIL", UUID))

    assert target == Target(device(UUID).key, f"generation of {UUID}", is_known=False)


async def test_a_user_channel_is_resolved_with_what_its_device_told() -> None:
    target = await resolve("anna", device(UUID, "C02"), user(UUID, "anna"))

    assert target == Target(
        user(UUID, "anna").key, f"generation of {UUID}", is_known=True, inventory=Inventory("C02")
    )


async def test_a_refusal_lists_a_few_of_many() -> None:
    told = await refusal("C02", *(device(f"EVIL-{n:02}", "C02") for n in range(MOST_TOLD + 3)))

    assert "EVIL-09 and 3 more" in told
    assert "EVIL-10" not in told
