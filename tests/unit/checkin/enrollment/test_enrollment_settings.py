"""Settings of enrollment: what is refused at the start, and by which name."""

from pathlib import Path

import pytest

from services.checkin.enrollment.assets import identity_payloads, read_files
from services.checkin.enrollment.identity_payload import OtherAcme, OtherScep, OurScep
from shared.domain.errors import Misconfigured
from shared.security.challenges import ScepChallenges
from shared.settings import AllSettings, load
from tests.support.enrollment_rig import VALIDITY
from tests.support.fakes.challenges import FakeChallenges
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.harness.identities import FleetAuthority
from tests.support.harness.push_certificates import TOPIC, PushAuthority

URL = "https://mdm.example.com"


def settings(**variables: str) -> AllSettings:
    return load(AllSettings, {f"MDM_{name}": value for name, value in variables.items()})


def refusal(**variables: str) -> str:
    with pytest.raises(Misconfigured) as refused:
        read_files(settings(**variables))
    return str(refused.value)


def test_without_settings_profiles_are_micromdms_and_the_door_is_open() -> None:
    found = settings()

    assert found.profile_identifier == "com.github.micromdm.micromdm"
    assert (found.access_rights, found.check_out_when_removed) == (8191, True)
    assert found.subject == (("O", "MacroMDM"), ("CN", "MacroMDM Identity (%ComputerName%)"))
    assert found.enroll_tokens == ()


@pytest.mark.parametrize("text", ["/O=Example/CN=A device", "O=Example / CN=A device"])
def test_a_subject_is_read_as_openssl_writes_it(text: str) -> None:
    assert settings(SCEP_SUBJECT=text).subject == (("O", "Example"), ("CN", "A device"))


def test_several_tokens_are_good_at_once_and_none_is_shown() -> None:
    found = settings(ENROLL_TOKEN="new old")

    assert found.enroll_tokens == ("new", "old")
    assert "new" not in repr(found.enroll_token)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCESS_RIGHTS", "0"),
        ("ACCESS_RIGHTS", "8192"),
        ("ACCESS_RIGHTS", "all"),
        ("ACCESS_RIGHTS", "2"),
        ("ACCESS_RIGHTS", "128"),
        ("ORGANIZATION", "a\nb"),
        ("ORGANIZATION", "x" * 201),
        ("PROFILE_IDENTIFIER", "com example"),
        ("PROFILE_IDENTIFIER", ".com"),
        ("SCEP_SUBJECT", "Example"),
        ("SCEP_SUBJECT", "/O=/CN=x"),
        ("SCEP_SUBJECT", "/"),
        ("SCEP_URL", "ftp://ca.example.com"),
        ("ACME_DIRECTORY_URL", "ca"),
        ("PROFILE_CERT", __file__),
        ("PROFILE_KEY", __file__),
        ("PROFILE_CA", "/nowhere/ca.pem"),
        ("PROFILE_CA", __file__),
        ("OTA_DEVICE_CA", "/nowhere/ca.pem"),
        ("OTA_DEVICE_CA", __file__),
        ("PUSH_CERT", "/nowhere/push.pem"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(name: str, value: str) -> None:
    text = refusal(**{name: value})

    assert name.rpartition("_")[0] in text and "\n" not in text


def test_two_sources_of_identities_are_refused() -> None:
    text = refusal(SCEP_URL="https://a.example", ACME_DIRECTORY_URL="https://b.example")

    assert text.startswith("MDM_ACME_DIRECTORY_URL:")


def test_files_are_read_once_at_the_start(tmp_path: Path) -> None:
    root, identity = FleetAuthority("Root"), FleetAuthority("Profiles").issue("profiles")
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "profiles.pem").write_bytes(identity.pem)
    (tmp_path / "profiles.key").write_bytes(identity.key_pem)

    found = read_files(
        settings(
            SERVER_URL=f"{URL}/",
            PROFILE_CA=str(tmp_path / "root.pem"),
            OTA_DEVICE_CA=str(tmp_path / "root.pem"),
            PROFILE_CERT=str(tmp_path / "profiles.pem"),
            PROFILE_KEY=str(tmp_path / "profiles.key"),
        )
    )

    assert found.rules.server_url == URL
    assert found.rules.trusted == (root.identity.der,)
    assert found.apple.vouches(root.issue().der)
    assert found.signer is not None


def test_the_topic_is_that_of_the_first_push_certificate(tmp_path: Path) -> None:
    authority = PushAuthority(tmp_path)
    pairs = [authority.issue(), authority.issue("com.apple.mgmt.External.other")]
    found = settings(
        PUSH_CERT=",".join(str(pair.certificate) for pair in pairs),
        PUSH_KEY=",".join(str(pair.key) for pair in pairs),
    )

    assert read_files(found).topic == TOPIC
    assert read_files(settings()).topic is None


def test_a_certificate_that_is_none_for_mdm_push_is_refused(tmp_path: Path) -> None:
    pair = PushAuthority(tmp_path).issue(None)

    assert "MDM_PUSH_CERT" in refusal(PUSH_CERT=str(pair.certificate), PUSH_KEY=str(pair.key))


def test_identities_come_from_where_the_settings_say() -> None:
    book = ScepChallenges(FakeChallenges(), FakeClock(), validity=VALIDITY)
    subject = settings().subject

    ours = identity_payloads(settings(SERVER_URL=URL), book, FakeIds())
    theirs = identity_payloads(
        settings(SCEP_URL="https://ca.example/scep", SCEP_CHALLENGE="theirs"), book, FakeIds()
    )
    acme = identity_payloads(
        settings(ACME_DIRECTORY_URL="https://ca.example/acme"), book, FakeIds()
    )

    assert ours == OurScep(book, f"{URL}/scep", subject)
    assert theirs == OtherScep("https://ca.example/scep", subject, "theirs")
    assert isinstance(acme, OtherAcme) and acme.directory_url == "https://ca.example/acme"
