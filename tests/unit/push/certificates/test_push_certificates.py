"""Push certificates: what is refused at the start, and what is said of the others."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.push.certificates.rotation import warn_of_expiry
from services.push.certificates.tls import client_context, load_certificates
from shared.domain.errors import Misconfigured
from tests.support.harness.push_certificates import TOPIC, Pair, PushAuthority

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> PushAuthority:
    return PushAuthority(tmp_path)


def pairs(*issued: Pair) -> list[tuple[Path, Path]]:
    return [(pair.certificate, pair.key) for pair in issued]


def test_the_topic_is_the_uid_of_the_subject(authority: PushAuthority) -> None:
    found = load_certificates(pairs(authority.issue(not_after=NOW + DAY)), NOW)

    assert list(found) == [TOPIC]
    assert found[TOPIC].remaining(NOW) == DAY


def test_several_topics_are_loaded(authority: PushAuthority) -> None:
    topics = [f"com.apple.mgmt.External.{letter}" for letter in "abc"]

    found = load_certificates(pairs(*map(authority.issue, topics)), NOW)

    assert list(found) == topics


def test_no_certificates_at_all_are_fine() -> None:
    assert load_certificates([], NOW) == {}


def test_certificate_and_key_may_be_in_one_file(authority: PushAuthority, tmp_path: Path) -> None:
    pair = authority.issue()
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())

    found = load_certificates([(both, both)], NOW)

    assert client_context(found[TOPIC], authority.ca_file).cert_store_stats()["x509_ca"] == 1


def refusal(certificate: Path, key: Path) -> str:
    with pytest.raises(Misconfigured) as refused:
        load_certificates([(certificate, key)], NOW)
    return str(refused.value)


def test_a_file_that_has_expired_keeps_nobody_from_starting(authority: PushAuthority) -> None:
    pair = authority.issue(not_before=NOW - 2 * DAY, not_after=NOW)

    found = load_certificates(pairs(pair), NOW)

    assert found[TOPIC].has_expired(NOW)


def test_a_certificate_that_is_not_valid_yet_is_refused(authority: PushAuthority) -> None:
    pair = authority.issue(not_before=NOW + DAY)

    assert "not valid yet" in refusal(pair.certificate, pair.key)


@pytest.mark.parametrize("topic", [None, "com.example.app"])
def test_a_certificate_without_an_mdm_topic_is_refused(
    authority: PushAuthority, topic: str | None
) -> None:
    pair = authority.issue(topic)

    assert "no MDM push certificate" in refusal(pair.certificate, pair.key)


def test_another_certificates_key_is_refused(authority: PushAuthority) -> None:
    pair, other = authority.issue(), authority.issue(name="other")

    said = refusal(pair.certificate, other.key)

    assert said.startswith("MDM_PUSH_KEY")
    assert "is not the key of" in said


def test_an_encrypted_key_is_refused_instead_of_asking_for_a_passphrase(
    authority: PushAuthority, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    said = refusal(authority.issue().certificate, locked)

    assert said.startswith("MDM_PUSH_KEY")
    assert "encrypted" in said


@pytest.mark.parametrize("content", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_is_no_certificate_or_key_is_refused_by_the_name_of_its_setting(
    authority: PushAuthority, tmp_path: Path, content: bytes
) -> None:
    pair = authority.issue()
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_bytes(content)

    assert refusal(rubbish, pair.key).startswith("MDM_PUSH_CERT")
    assert refusal(pair.certificate, rubbish).startswith("MDM_PUSH_KEY")


def test_a_missing_file_is_refused_by_the_name_of_its_setting(
    authority: PushAuthority, tmp_path: Path
) -> None:
    pair, missing = authority.issue(), tmp_path / "missing.pem"

    assert refusal(missing, pair.key).startswith("MDM_PUSH_CERT")
    assert refusal(pair.certificate, missing).startswith("MDM_PUSH_KEY")


def test_two_certificates_of_one_topic_are_refused(authority: PushAuthority) -> None:
    twice = pairs(authority.issue(), authority.issue(name="again"))

    with pytest.raises(Misconfigured, match=f"two certificates for topic {TOPIC}"):
        load_certificates(twice, NOW)


def test_a_ca_file_that_holds_none_is_refused(authority: PushAuthority, tmp_path: Path) -> None:
    loaded = load_certificates(pairs(authority.issue()), NOW)[TOPIC]
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_bytes(b"rubbish")

    with pytest.raises(Misconfigured, match="MDM_APNS_CA"):
        client_context(loaded, rubbish)


@pytest.mark.parametrize(("left", "warnings"), [(60 * DAY, 1), (61 * DAY, 0), (-DAY, 1)])
def test_a_certificate_is_warned_of_from_sixty_days_on(
    authority: PushAuthority, left: timedelta, warnings: int
) -> None:
    found = load_certificates(pairs(authority.issue(not_after=NOW + 90 * DAY)), NOW)

    with structlog.testing.capture_logs() as logged:
        warn_of_expiry(found.values(), NOW + 90 * DAY - left)

    assert [line["event"] for line in logged] == ["push_certificate_expires"] * warnings
