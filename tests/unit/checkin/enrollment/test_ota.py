"""POST /ota/phase23: phase 2 to devices of Apple's with a challenge, phase 3 to identities of ours."""

import plistlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from shared.domain.enrollment import Enrollment, EnrollmentKey, EnrollmentStatus
from shared.ports.access import Reserved, StoredProfile
from shared.ports.certificates import IssuedCertificate
from shared.security.apple_device import AppleDevices
from tests.support.enrollment_rig import (
    APPLE,
    OURS,
    URL,
    VALIDITY,
    Rig,
    attached,
    machine,
    mdm,
    scep,
)
from tests.support.harness.identities import (
    DeviceIdentity,
    FleetAuthority,
    Profile,
    envelope,
    signer_info,
)

PATH = "/ota/phase23"
LAPSED = Profile(datetime(2007, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC), None)


def rig(**more: Any) -> Rig:
    return Rig(apple=AppleDevices([APPLE.certificate]), **more)


async def challenge_of(rig: Rig, query: str = "") -> str:
    """What the first profile asks for."""
    profile = await rig.profile("/ota/enroll" + query)
    return str(profile["PayloadContent"]["Challenge"])


async def phase_2(rig: Rig, device: DeviceIdentity, **said: object) -> httpx.Response:
    return await rig.http.post(PATH, content=attached(device, machine(**said)))


async def test_phase_2_answers_with_an_identity_and_nothing_else() -> None:
    world = rig()
    challenge = await challenge_of(world)

    answer = await phase_2(world, APPLE.issue(), CHALLENGE=challenge)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-apple-aspen-config"
    profile = plistlib.loads(answer.content)
    assert profile["PayloadIdentifier"] == "com.example.ota.phase2"
    [only] = profile["PayloadContent"]
    assert only["PayloadIdentifier"] == "com.example.ota.phase2.scep"
    assert scep(profile)["URL"] == f"{URL}/scep"
    assert scep(profile)["Name"] == "OTA Phase 2 Certificate"


async def test_the_challenge_of_phase_2_is_for_the_device_that_apple_vouches_for() -> None:
    world = rig()
    answer = await phase_2(world, APPLE.issue(), CHALLENGE=await challenge_of(world))

    secret = scep(plistlib.loads(answer.content))["Challenge"]

    grant = await world.book.redeem(secret, by="scep")
    assert grant is not None and (grant.udid, grant.serial_number) == ("UDID-1", "C02")


async def test_apples_certificates_count_though_they_and_their_ca_have_expired() -> None:
    apple = FleetAuthority(
        "Apple", profile=Profile(LAPSED.not_before, LAPSED.not_after, None, True)
    )
    world = Rig(apple=AppleDevices([apple.certificate]))

    answer = await phase_2(world, apple.issue(profile=LAPSED), CHALLENGE=await challenge_of(world))

    assert answer.status_code == 200


async def test_a_device_may_repeat_phase_2_and_no_other_may() -> None:
    world = rig()
    challenge = await challenge_of(world)
    device = APPLE.issue()

    first = await phase_2(world, device, CHALLENGE=challenge)
    again = await phase_2(world, device, CHALLENGE=challenge)
    other = await phase_2(world, APPLE.issue(), CHALLENGE=challenge)
    renamed = await phase_2(world, device, CHALLENGE=challenge, UDID="UDID-2")

    assert [a.status_code for a in (first, again, other, renamed)] == [200, 200, 400, 400]


@pytest.mark.parametrize("challenge", ["", "unknown", "x" * 300, 7])
async def test_without_a_good_challenge_phase_2_is_refused(challenge: object) -> None:
    world = rig()

    answer = await phase_2(world, APPLE.issue(), CHALLENGE=challenge)

    assert_refused(answer)
    assert world.challenges.rows == {}


async def test_an_expired_challenge_is_refused() -> None:
    world = rig()
    challenge = await challenge_of(world)
    world.clock.advance(VALIDITY + timedelta(seconds=1))

    assert_refused(await phase_2(world, APPLE.issue(), CHALLENGE=challenge))


async def test_with_apples_ca_a_strangers_certificate_is_refused_and_uses_up_nothing() -> None:
    world = rig()
    challenge = await challenge_of(world)

    stranger = await phase_2(world, FleetAuthority("Stranger").issue(), CHALLENGE=challenge)
    device = await phase_2(world, APPLE.issue(), CHALLENGE=challenge)

    assert_refused(stranger)
    assert device.status_code == 200


async def test_without_apples_ca_the_challenge_is_all_that_counts_and_binds_nobody() -> None:
    world = Rig()
    challenge = await challenge_of(world)

    answer = await phase_2(world, FleetAuthority("Whoever").issue(), CHALLENGE=challenge)

    secret = scep(plistlib.loads(answer.content))["Challenge"]
    grant = await world.book.redeem(secret, by="scep")
    assert grant is not None and (grant.udid, grant.serial_number) == (None, None)
    assert_refused(await phase_2(world, FleetAuthority("Whoever").issue(), CHALLENGE=challenge))


async def test_a_challenge_that_was_made_for_a_device_stays_that_devices_through_phase_2() -> None:
    world = Rig()
    challenge = await world.book.issue_once(udid="UDID-7", serial_number="C07")

    answer = await phase_2(world, FleetAuthority("Whoever").issue(), CHALLENGE=challenge)

    secret = scep(plistlib.loads(answer.content))["Challenge"]
    grant = await world.book.redeem(secret, by="scep")
    assert grant is not None and (grant.udid, grant.serial_number) == ("UDID-7", "C07")


@pytest.mark.parametrize(
    ("bound", "status"),
    [
        ({"udid": "UDID-1"}, 200),
        ({"serial_number": "C02"}, 200),
        ({"udid": "UDID-7"}, 400),
        ({"udid": "UDID-1", "serial_number": "C07"}, 400),
    ],
)
async def test_a_challenge_of_another_device_lets_none_in_that_apple_vouches_for(
    bound: dict[str, str], status: int
) -> None:
    world = rig()
    challenge = await world.book.issue_once(**bound)

    answer = await phase_2(world, APPLE.issue(), CHALLENGE=challenge)

    assert answer.status_code == status


async def test_phase_3_answers_with_the_enrollment_profile_and_the_parameters() -> None:
    world = rig()

    profile = await world.profile(
        PATH, params={"site": "b c"}, content=attached(OURS.issue(), machine())
    )

    assert profile["PayloadIdentifier"] == "com.example.enroll"
    assert mdm(profile)["CheckInURL"] == f"{URL}/mdm/checkin?site=b%20c"
    grant = await world.book.redeem(scep(profile)["Challenge"], by="scep")
    assert grant is not None and (grant.udid, grant.serial_number) == (None, None)


async def test_the_challenge_of_phase_3_is_for_whom_the_identity_was_made() -> None:
    world = rig()
    identity = OURS.issue()
    now = world.clock.now()
    await world.issued.add(
        IssuedCertificate(
            transaction="t",
            fingerprint=identity.fingerprint,
            serial="01",
            certificate=identity.der,
            subject="",
            public_key="",
            issued_at=now,
            not_after=now,
            udid="UDID-1",
        )
    )

    profile = await world.profile(PATH, content=attached(identity, machine(UDID="UDID-2")))

    grant = await world.book.redeem(scep(profile)["Challenge"], by="scep")
    assert grant is not None and (grant.udid, grant.serial_number) == ("UDID-1", None)


@pytest.mark.parametrize(
    "identity",
    [
        OURS.issue(profile=LAPSED),
        OURS.issue(profile=Profile(usage=(ExtendedKeyUsageOID.SERVER_AUTH,))),
        OURS.identity,
    ],
    ids=["expired", "a server's", "the CA itself"],
)
async def test_phase_3_is_refused_to_certificates_that_are_no_identity(
    identity: DeviceIdentity,
) -> None:
    world = rig()

    assert_refused(await world.http.post(PATH, content=attached(identity, machine())))
    assert world.challenges.rows == {}


@pytest.mark.parametrize(("blocked", "retired"), [(True, False), (False, True)])
async def test_phase_3_is_refused_to_a_blocked_device_and_to_a_certificate_that_was_replaced(
    blocked: bool, retired: bool
) -> None:
    world = rig()
    identity = OURS.issue()
    record = Enrollment(
        EnrollmentKey("UDID-1", "UDID-1", udid="UDID-1"),
        EnrollmentStatus.ENROLLED,
        certificate=identity.fingerprint,
        blocked=blocked,
    )
    world.enrollments.add(record)
    if retired:
        retired_certificates = (identity.fingerprint,)
        world.enrollments.add(
            replace(record, certificate="newer", retired_certificates=retired_certificates)
        )

    assert_refused(await world.http.post(PATH, content=attached(identity, machine())))
    assert world.challenges.rows == {}


def altered(body: bytes) -> bytes:
    return body.replace(b"UDID-1", b"UDID-2")


def detached(identity: DeviceIdentity) -> bytes:
    return identity.cms(machine())


def two_signers() -> bytes:
    pair = [OURS.issue(), OURS.issue()]
    infos = [signer_info(each, machine(), "sha256") for each in pair]
    return envelope(infos, pair, content=machine())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        machine(),
        b"\x30\x80",
        altered(attached(OURS.issue(), machine())),
        altered(attached(OURS.issue(), machine(), attributes=False)),
        detached(OURS.issue()),
        two_signers(),
        attached(OURS.issue(), b"no plist"),
        attached(OURS.issue(), machine(X=bytes(38_000))),
    ],
    ids=[
        "empty",
        "nonsense",
        "unsigned",
        "cut off",
        "altered",
        "altered, no attributes",
        "detached",
        "two signers",
        "no plist",
        "too long",
    ],
)
async def test_what_is_not_signed_as_it_should_be_is_refused(body: bytes) -> None:
    world = rig()

    assert_refused(await world.http.post(PATH, content=body))
    assert world.challenges.rows == {}


async def test_stored_profiles_take_the_entry_of_both_answers() -> None:
    world = rig()
    await world.profiles.put(StoredProfile(Reserved.OTA_PHASE_2, b"<plist>2</plist>"))
    await world.profiles.put(StoredProfile(Reserved.ENROLL, b"<plist>3</plist>"))

    second = await phase_2(world, APPLE.issue(), CHALLENGE=await challenge_of(world))
    third = await world.http.post(PATH, content=attached(OURS.issue(), machine()))

    assert (second.content, third.content) == (b"<plist>2</plist>", b"<plist>3</plist>")


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (400, b"")
