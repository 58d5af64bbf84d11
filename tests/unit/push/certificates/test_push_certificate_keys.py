"""Certificates and keys as openssl writes them: what is read, and what each refusal names."""

import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from services.push.certificates.tls import client_context
from shared.domain.errors import BadRequest
from shared.security.push_certificate import read_pair
from tests.support.harness.push_certificates import TOPIC, PushAuthority

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
RSA = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"
EC = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
SECRET = ["-passout", "pass:a pass phrase"]

FORMS: dict[str, list[str]] = {
    "PKCS#1": ["rsa", "-traditional"],
    "PKCS#1, AES": ["rsa", "-traditional", "-aes256", *SECRET],
    "PKCS#1, 3DES": ["rsa", "-traditional", "-des3", *SECRET],
    "PKCS#8": ["pkcs8", "-topk8", "-nocrypt"],
    "PKCS#8, AES": ["pkcs8", "-topk8", "-v2", "aes-256-cbc", *SECRET],
    "PKCS#8, 3DES": ["pkcs8", "-topk8", "-v2", "des3", *SECRET],
    "PKCS#8, PBES1": ["pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", *SECRET],
    "PKCS#8, scrypt": ["pkcs8", "-topk8", "-scrypt", *SECRET],
}
ENCRYPTED = [form for form, arguments in FORMS.items() if SECRET[0] in arguments]


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True)
    return done.stdout


@cache
def made(kind: str = RSA) -> tuple[bytes, bytes]:
    """A certificate of our topic and its key, both openssl's."""
    key = openssl(*kind.split())
    subject = f"/UID={TOPIC}/CN=APSP:test/C=US"
    request = ["req", "-x509", "-new", "-days", "365", "-subj", subject, "-key", "/dev/stdin"]
    return openssl(*request, given=key), key


def refused(certificate: bytes, key: bytes, password: bytes | None = None) -> str:
    """The field that is named, of a refusal that shows nothing of the key."""
    with pytest.raises(BadRequest) as caught:
        read_pair(certificate, key, password)
    [fault] = caught.value.faults
    assert str(caught.value).startswith(f"{fault.path}: ")
    assert caught.value.__cause__ is None
    return fault.path


@pytest.mark.parametrize("form", FORMS)
def test_a_key_in_any_form_of_openssl_is_read_and_serves_for_tls(form: str) -> None:
    certificate, key = made()
    written = openssl(*FORMS[form], given=key)

    pair = read_pair(certificate, written, b"a pass phrase" if form in ENCRYPTED else None)

    assert pair.topic == TOPIC
    assert openssl("pkey", given=pair.key_pem) == openssl("pkey", given=key)
    client_context(pair, None)


def test_a_key_on_a_curve_in_openssls_own_form_is_read() -> None:
    certificate, key = made(EC)
    written = openssl("ec", given=key)

    assert b"BEGIN EC PRIVATE KEY" in written
    assert read_pair(certificate, written).topic == TOPIC


def test_what_openssl_says_of_the_certificate_is_what_we_say() -> None:
    certificate, key = made()

    pair = read_pair(certificate, key)

    shown = openssl("x509", "-noout", "-serial", "-enddate", given=certificate).decode().split("\n")
    assert shown[0].removeprefix("serial=").lstrip("0") == pair.serial_number
    end = datetime.strptime(shown[1], "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert end == pair.not_after
    assert pair.der == openssl("x509", "-outform", "DER", given=certificate)


@pytest.mark.parametrize("form", ENCRYPTED)
def test_an_encrypted_key_without_its_password_is_refused(form: str) -> None:
    certificate, key = made()
    written = openssl(*FORMS[form], given=key)

    assert refused(certificate, written) == "key"
    assert refused(certificate, written, b"another") == "password"


def test_a_password_for_a_key_that_needs_none_is_not_looked_at() -> None:
    certificate, key = made()

    assert read_pair(certificate, key, b"needless").topic == TOPIC


def test_the_chain_of_a_certificate_is_kept_and_a_key_beside_it_is_not(tmp_path: Path) -> None:
    authority = PushAuthority(tmp_path)
    pair = authority.issue()
    certificate, key = pair.certificate.read_bytes(), pair.key.read_bytes()

    found = read_pair(certificate + key + authority.ca_file.read_bytes(), key)

    assert found.certificate_pem == certificate + authority.ca_file.read_bytes()


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_or_key_is_refused_by_its_name(rubbish: bytes) -> None:
    certificate, key = made()

    assert refused(rubbish, key) == "cert"
    assert refused(certificate, rubbish) == "key"
    assert refused(certificate, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA", b"x") == "password"


def test_another_certificates_key_is_refused() -> None:
    assert refused(made()[0], made(EC)[1]) == "key"


@pytest.mark.parametrize("topic", [None, "com.example.app", "com.apple.mgmt." + "x." * 100])
def test_a_certificate_without_an_mdm_topic_is_refused(tmp_path: Path, topic: str | None) -> None:
    pair = PushAuthority(tmp_path).issue(topic, name="pair")

    assert refused(pair.certificate.read_bytes(), pair.key.read_bytes()) == "cert"


@pytest.mark.parametrize(
    ("begins", "ends"), [(-2 * DAY, timedelta()), (DAY, 2 * DAY)], ids=["expired", "not yet"]
)
def test_outside_its_time_a_certificate_is_refused(
    tmp_path: Path, begins: timedelta, ends: timedelta
) -> None:
    files = PushAuthority(tmp_path).issue(not_before=NOW + begins, not_after=NOW + ends)
    pair = read_pair(files.certificate.read_bytes(), files.key.read_bytes())

    with pytest.raises(BadRequest, match=r"^cert: "):
        pair.must_be_valid(NOW)
