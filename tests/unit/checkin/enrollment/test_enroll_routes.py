"""GET and POST /mdm/enroll, GET /ota/enroll: what is in the profiles, and who gets them."""

import plistlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import structlog

from services.checkin.enrollment.identity_payload import OtherAcme, OtherScep
from shared.ports.access import Reserved, StoredProfile
from shared.security.apple_device import AppleDevices
from shared.security.signature.profile_signing import ProfileSigner
from shared.security.signature.signers import open_signed
from tests.support.enrollment_rig import (
    APPLE,
    MAX_BODY,
    RULES,
    SUBJECT,
    URL,
    VALIDITY,
    Rig,
    attached,
    machine,
    mdm,
    payload,
    scep,
)
from tests.support.fakes.clock import FakeIds
from tests.support.fakes.profiles import FakePushTopics
from tests.support.harness.identities import FleetAuthority

VOUCHED = AppleDevices([APPLE.certificate])
STORED = b'<?xml version="1.0"?>\r\n<plist version="1.0"><dict/></plist>'


def signer(folder: Path) -> ProfileSigner:
    root = FleetAuthority("Profiles Root")
    identity = root.issue("profiles")
    (folder / "cert.pem").write_bytes(identity.pem + root.pem)
    (folder / "key.pem").write_bytes(identity.key_pem)
    return ProfileSigner.load(folder / "cert.pem", folder / "key.pem")


async def test_the_enrollment_profile_has_micromdms_names_and_shapes() -> None:
    rig = Rig()

    answer = await rig.http.get("/mdm/enroll")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-apple-aspen-config"
    assert answer.headers["cache-control"] == "no-store"
    profile = plistlib.loads(answer.content)
    assert {key: value for key, value in profile.items() if key != "PayloadContent"} == {
        "PayloadType": "Configuration",
        "PayloadVersion": 1,
        "PayloadIdentifier": "com.example.enroll",
        "PayloadUUID": profile["PayloadUUID"],
        "PayloadOrganization": "Example",
        "PayloadScope": "System",
        "PayloadDisplayName": "Enrollment",
        "PayloadDescription": "The server may alter your settings",
    }
    assert scep(profile) == {
        "URL": f"{URL}/scep",
        "Name": "Device Management Identity Certificate",
        "Subject": [[["O", "Example"]], [["CN", "Example Identity"]]],
        "Key Type": "RSA",
        "Key Usage": 5,
        "Keysize": 2048,
        "Challenge": scep(profile)["Challenge"],
    }
    identity = payload(profile, "com.apple.security.scep")
    assert mdm(profile) == {
        "PayloadType": "com.apple.mdm",
        "PayloadVersion": 1,
        "PayloadIdentifier": "com.example.enroll.mdm",
        "PayloadUUID": mdm(profile)["PayloadUUID"],
        "PayloadOrganization": "Example",
        "PayloadDisplayName": "Device Management",
        "PayloadDescription": "Enrolls with the MDM server",
        "ServerURL": f"{URL}/mdm/connect",
        "CheckInURL": f"{URL}/mdm/checkin",
        "CheckOutWhenRemoved": True,
        "AccessRights": 8191,
        "Topic": "com.apple.mgmt.External.test",
        "SignMessage": True,
        "IdentityCertificateUUID": identity["PayloadUUID"],
        "ServerCapabilities": [
            "com.apple.mdm.per-user-connections",
            "com.apple.mdm.bootstraptoken",
        ],
    }


async def test_every_payload_has_a_uuid_and_an_identifier_of_its_own() -> None:
    authorities = [FleetAuthority(f"Root {number}").identity.der for number in (1, 2)]
    rig = Rig(rules=replace(RULES, trusted=authorities))

    profile = await rig.profile()
    again = await rig.profile()

    payloads = [profile, *profile["PayloadContent"], again, *again["PayloadContent"]]
    assert len({each["PayloadUUID"] for each in payloads}) == len(payloads) == 10
    assert len({each["PayloadIdentifier"] for each in payloads}) == 5
    roots = [p for p in profile["PayloadContent"] if p["PayloadType"] == "com.apple.security.root"]
    assert [root["PayloadContent"] for root in roots] == authorities


async def test_each_profile_has_a_challenge_that_is_good_once() -> None:
    rig = Rig()

    challenges = [scep(await rig.profile())["Challenge"] for _ in range(2)]

    assert challenges[0] != challenges[1]
    for challenge in challenges:
        grant = await rig.book.redeem(challenge, by="a")
        assert grant is not None and (grant.udid, grant.serial_number) == (None, None)
        assert await rig.book.redeem(challenge, by="b") is None


async def test_a_challenge_that_nobody_used_expires() -> None:
    rig = Rig()
    challenge = scep(await rig.profile())["Challenge"]

    rig.clock.advance(VALIDITY + timedelta(seconds=1))

    assert await rig.book.redeem(challenge, by="a") is None


async def test_a_static_challenge_stands_in_every_profile() -> None:
    rig = Rig(static="for everybody")

    assert scep(await rig.profile())["Challenge"] == "for everybody"


async def test_the_settings_of_the_profile_are_heard() -> None:
    rig = Rig(rules=replace(RULES, access_rights=3, check_out_when_removed=False, name="Acme & Co"))

    profile = await rig.profile()

    assert profile["PayloadDisplayName"] == "Acme & Co"
    assert mdm(profile)["AccessRights"] == 3
    assert mdm(profile)["CheckOutWhenRemoved"] is False


async def test_without_a_push_certificate_the_topic_is_empty_and_the_log_warns() -> None:
    rig = Rig(topics=FakePushTopics(None))

    with structlog.testing.capture_logs() as logs:
        profile = await rig.profile()

    assert mdm(profile)["Topic"] == ""
    assert [(e["event"], e["log_level"]) for e in logs] == [("enrollment_without_topic", "warning")]


async def test_another_scep_server_gets_no_challenge_of_ours() -> None:
    rig = Rig(identities=OtherScep("https://ca.example.com/scep", SUBJECT))

    content = scep(await rig.profile())

    assert content["URL"] == "https://ca.example.com/scep"
    assert "Challenge" not in content
    assert rig.challenges.rows == {}


async def test_another_scep_server_gets_the_static_challenge() -> None:
    rig = Rig(identities=OtherScep("https://ca.example.com/scep", SUBJECT, "theirs"))

    assert scep(await rig.profile())["Challenge"] == "theirs"


async def test_an_acme_server_takes_the_entry_of_scep() -> None:
    rig = Rig(identities=OtherAcme("https://ca.example.com/acme", SUBJECT, FakeIds()))

    profile = await rig.profile()

    acme = payload(profile, "com.apple.security.acme")
    assert acme["DirectoryURL"] == "https://ca.example.com/acme"
    assert acme["ClientIdentifier"]
    assert (acme["KeyType"], acme["KeySize"], acme["HardwareBound"], acme["Attest"]) == (
        "ECSECPrimeRandom",
        384,
        True,
        True,
    )
    assert mdm(profile)["IdentityCertificateUUID"] == acme["PayloadUUID"]
    assert len(profile["PayloadContent"]) == 2


async def test_parameters_of_the_url_go_into_both_urls_unchanged() -> None:
    parameters = {"site": "Zürich & co", "a/b": "1+1=2", "empty": "", "percent": "100%"}
    rig = Rig()

    profile = await rig.profile("/mdm/enroll", params=parameters)

    for key, path in (("ServerURL", "/mdm/connect"), ("CheckInURL", "/mdm/checkin")):
        parts = urlsplit(mdm(profile)[key])
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == URL + path
        assert dict(parse_qsl(parts.query, keep_blank_values=True)) == parameters
        assert parts.query.isascii() and "+" not in parts.query and " " not in parts.query


async def test_of_a_repeated_parameter_the_first_counts_as_in_events() -> None:
    profile = await Rig().profile("/mdm/enroll?a=1&a=2")

    assert mdm(profile)["ServerURL"] == f"{URL}/mdm/connect?a=1"


@pytest.mark.parametrize(
    "query", ["&".join(f"p{i}=1" for i in range(21)), "a=" + "x" * 2048, "a=" + "%20" * 800]
)
@pytest.mark.parametrize("path", ["/mdm/enroll", "/ota/enroll"])
async def test_too_many_or_too_long_parameters_are_refused(path: str, query: str) -> None:
    rig = Rig()

    assert_refused(await rig.http.get(f"{path}?{query}"))
    assert rig.challenges.rows == {}


async def test_a_post_without_a_body_gets_the_profile_too() -> None:
    profile = await Rig().profile(content=b"")

    assert mdm(profile)["SignMessage"] is True


async def test_a_device_that_apple_vouches_for_gets_a_challenge_for_itself_alone() -> None:
    rig = Rig(apple=VOUCHED)

    profile = await rig.profile(content=attached(APPLE.issue(), machine()))

    grant = await rig.book.redeem(scep(profile)["Challenge"], by="a")
    assert grant is not None and (grant.udid, grant.serial_number) == ("UDID-1", "C02")


async def test_a_vouched_device_gets_a_challenge_of_its_own_beside_a_static_one() -> None:
    rig = Rig(apple=VOUCHED, static="for everybody")

    profile = await rig.profile(content=attached(APPLE.issue(), machine()))

    assert scep(profile)["Challenge"] != "for everybody"


@pytest.mark.parametrize(
    "body",
    [
        b"not a CMS",
        machine(),
        attached(FleetAuthority("Stranger").issue(), machine()),
        attached(APPLE.issue(), b"not a plist"),
        attached(APPLE.issue(), machine()).replace(b"UDID-1", b"UDID-2"),
        attached(APPLE.identity, machine()),
        attached(APPLE.issue(), machine(UDID=7)),
        b"\x30" + bytes(MAX_BODY - 1),
    ],
    ids=["no CMS", "unsigned", "stranger", "no plist", "altered", "the CA", "a number", "long"],
)
async def test_what_is_not_vouched_for_binds_no_challenge(body: bytes) -> None:
    rig = Rig(apple=VOUCHED)

    profile = await rig.profile(content=body)

    grant = await rig.book.redeem(scep(profile)["Challenge"], by="a")
    assert grant is not None and (grant.udid, grant.serial_number) == (None, None)


async def test_without_apples_ca_nobody_is_vouched_for() -> None:
    rig = Rig()

    profile = await rig.profile(content=attached(APPLE.issue(), machine()))

    grant = await rig.book.redeem(scep(profile)["Challenge"], by="a")
    assert grant is not None and grant.udid is None


async def test_a_body_over_the_limit_is_refused() -> None:
    rig = Rig()

    answer = await rig.http.post("/mdm/enroll", content=bytes(MAX_BODY + 1))

    assert (answer.status_code, answer.content) == (413, b"")
    assert rig.challenges.rows == {}


async def test_the_first_profile_over_the_air_asks_the_device_who_it_is() -> None:
    rig = Rig(static="for everybody")

    profile = await rig.profile("/ota/enroll", params={"site": "b c"})

    assert profile == {
        "PayloadType": "Profile Service",
        "PayloadVersion": 1,
        "PayloadIdentifier": "com.example.ota",
        "PayloadUUID": profile["PayloadUUID"],
        "PayloadOrganization": "Example",
        "PayloadDisplayName": "Example Profile Service",
        "PayloadDescription": "Profile Service enrollment",
        "PayloadContent": {
            "URL": f"{URL}/ota/phase23?site=b%20c",
            "DeviceAttributes": ["UDID", "VERSION", "PRODUCT", "SERIAL", "MEID", "IMEI"],
            "Challenge": profile["PayloadContent"]["Challenge"],
        },
    }
    assert await rig.book.redeem(profile["PayloadContent"]["Challenge"], by="a") is not None
    assert profile["PayloadContent"]["Challenge"] != "for everybody"


@pytest.mark.parametrize("path", ["/mdm/enroll", "/ota/enroll"])
@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=new%20old"])
async def test_without_a_good_token_there_is_no_profile(path: str, query: str) -> None:
    rig = Rig(tokens=["new", "old"])

    assert_refused(await rig.http.get(path + query))
    assert rig.challenges.rows == {}


@pytest.mark.parametrize("token", ["new", "old"])
async def test_the_token_lets_in_and_goes_no_further(token: str) -> None:
    rig = Rig(tokens=["new", "old"])

    profile = await rig.profile(f"/mdm/enroll?token={token}&site=a")
    first = await rig.profile(f"/ota/enroll?token={token}&site=a")

    assert mdm(profile)["ServerURL"] == f"{URL}/mdm/connect?site=a"
    assert first["PayloadContent"]["URL"] == f"{URL}/ota/phase23?site=a"


async def test_where_no_token_is_set_token_is_a_parameter_like_others() -> None:
    profile = await Rig().profile("/mdm/enroll?token=a")

    assert mdm(profile)["ServerURL"] == f"{URL}/mdm/connect?token=a"


@pytest.mark.parametrize(
    ("identifier", "path"), [(Reserved.ENROLL, "/mdm/enroll"), (Reserved.OTA, "/ota/enroll")]
)
async def test_a_stored_profile_is_served_in_entry_of_ours(identifier: str, path: str) -> None:
    rig = Rig()
    await rig.profiles.put(StoredProfile(identifier, STORED))

    answer = await rig.http.get(path, params={"site": "a"})

    assert (answer.status_code, answer.content) == (200, STORED)
    assert answer.headers["content-type"] == "application/x-apple-aspen-config"
    assert rig.challenges.rows == {}


async def test_profiles_are_signed_where_there_is_a_certificate(tmp_path: Path) -> None:
    rig = Rig(signer=signer(tmp_path))

    answers = [await rig.http.get(path) for path in ("/mdm/enroll", "/ota/enroll")]

    kinds = [plistlib.loads(open_signed(a.content).content)["PayloadType"] for a in answers]
    assert kinds == ["Configuration", "Profile Service"]


async def test_a_stored_profile_is_signed_once(tmp_path: Path) -> None:
    rig = Rig(signer=signer(tmp_path))
    theirs = attached(FleetAuthority("Somebody").issue("somebody"), STORED)
    await rig.profiles.put(StoredProfile(Reserved.ENROLL, STORED))
    await rig.profiles.put(StoredProfile(Reserved.OTA, theirs))

    plain = await rig.http.get("/mdm/enroll")
    signed = await rig.http.get("/ota/enroll")

    assert open_signed(plain.content).content == STORED
    assert signed.content == theirs


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/mdm/enroll"), ("POST", "/ota/enroll"), ("GET", "/ota/phase23")]
)
async def test_another_method_is_not_allowed(method: str, path: str) -> None:
    answer = await Rig().http.request(method, path)

    assert answer.status_code == 405


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (400, b"")
