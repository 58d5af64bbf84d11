"""Which certificates are device identities, and which are not."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from shared.domain.errors import BadRequest, Misconfigured
from shared.security.authority import Authority
from shared.security.identity import DeviceIdentities, load_trust
from tests.support.fakes.clock import START, FakeClock
from tests.support.harness.identities import (
    AUTHORITY,
    EPOCH,
    FOR_EVER,
    FleetAuthority,
    Profile,
    ec_key,
    valid_for,
)

CA = FleetAuthority()
STRANGER = FleetAuthority()
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


def identities(*trust: FleetAuthority, clock: FakeClock | None = None) -> DeviceIdentities:
    return DeviceIdentities([ca.certificate for ca in trust], clock or FakeClock())


def refusal(judge: DeviceIdentities, certificate: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        judge.identify(certificate)
    return str(caught.value)


@pytest.mark.parametrize("name", ["", "a device"])
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_certificate_of_a_trusted_ca_is_an_identity(name: str, kind: str) -> None:
    device = CA.issue(name, kind="rsa" if kind == "rsa" else "ec")

    assert identities(CA).identify(device.der) == device.fingerprint


@pytest.mark.parametrize(
    "usage",
    [
        None,
        (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,),
    ],
)
def test_a_key_usage_that_covers_clients_is_enough(
    usage: tuple[x509.ObjectIdentifier, ...] | None,
) -> None:
    device = CA.issue(profile=Profile(usage=usage))

    assert identities(CA).identify(device.der) == device.fingerprint


def test_a_certificate_made_for_servers_is_refused() -> None:
    device = CA.issue(profile=Profile(usage=(ExtendedKeyUsageOID.SERVER_AUTH,)))

    assert "not made for clients" in refusal(identities(CA), device.der)


def test_an_expired_certificate_is_refused() -> None:
    device = CA.issue(profile=valid_for(timedelta(days=1), start=START - timedelta(days=2)))

    assert "expired" in refusal(identities(CA), device.der)


def test_an_expired_certificate_of_a_trusted_ca_is_known_for_one() -> None:
    clock = FakeClock()
    device = CA.issue("a device", profile=valid_for(timedelta(days=1), start=START))
    judge = identities(CA, clock=clock)
    good = judge.examine(device.der)
    clock.advance(timedelta(days=2))

    expired = judge.examine(device.der)

    assert (good.is_expired, expired.is_expired) == (False, True)
    assert expired.fingerprint == good.fingerprint == device.fingerprint
    assert (expired.subject, expired.not_after) == ("CN=a device", START + timedelta(days=1))
    assert judge.examine(device.der) is expired  # remembered


def test_a_certificate_that_is_expired_by_a_clock_that_was_wrong_is_good_again() -> None:
    clock = FakeClock()
    device = CA.issue(profile=valid_for(timedelta(days=1), start=START))
    judge = identities(CA, clock=clock)
    clock.advance(timedelta(days=2))
    assert judge.examine(device.der).is_expired

    clock.set_back(timedelta(days=2))

    assert not judge.examine(device.der).is_expired


def test_an_expired_certificate_of_a_stranger_is_nobodys() -> None:
    profile = valid_for(timedelta(days=1), start=START - timedelta(days=9))

    with pytest.raises(BadRequest, match="trusted CA"):
        identities(CA).examine(STRANGER.issue(profile=profile).der)


def test_an_expired_certificate_for_another_use_is_no_devices() -> None:
    profile = Profile(
        not_before=START - timedelta(days=9),
        not_after=START - timedelta(days=8),
        usage=[ExtendedKeyUsageOID.SERVER_AUTH],
    )

    with pytest.raises(BadRequest, match="clients"):
        identities(CA).examine(CA.issue(profile=profile).der)


def test_a_certificate_that_is_not_valid_yet_is_refused() -> None:
    device = CA.issue(profile=valid_for(timedelta(days=1), start=START + timedelta(days=1)))

    assert "not valid yet" in refusal(identities(CA), device.der)


def test_a_certificate_of_another_ca_is_refused_even_of_the_same_name() -> None:
    assert "not one of a trusted CA" in refusal(identities(CA), STRANGER.issue().der)


@pytest.mark.parametrize("ca", [CA, STRANGER])
def test_a_ca_itself_is_refused(ca: FleetAuthority) -> None:
    refusal(identities(CA), ca.identity.der)


def test_a_ca_under_the_trusted_one_is_no_device() -> None:
    below = FleetAuthority("Below", parent=CA)

    assert "is a CA" in refusal(identities(CA), below.identity.der)


def test_a_device_cannot_issue_identities() -> None:
    device = CA.issue("device", kind="ec")
    forger = FleetAuthority("Forger")
    forger.identity = device
    forged = forger.issue("forged")

    with pytest.raises(BadRequest):
        identities(CA).identify(forged.der, [device.der])


def test_nobody_is_trusted_where_no_ca_is_given() -> None:
    assert "not one of a trusted CA" in refusal(identities(), CA.issue().der)


@pytest.mark.parametrize("garbage", [b"", b"\x30\x00", b"garbage", CA.issue().der[:-1]])
def test_what_is_no_certificate_is_refused(garbage: bytes) -> None:
    assert "cannot be read" in refusal(identities(CA), garbage)


def test_a_certificate_of_a_version_that_does_not_exist_is_refused() -> None:
    der = CA.issue().der
    version = der.index(bytes.fromhex("a003020102")) + 4

    odd = der[:version] + b"\x05" + der[version + 1 :]

    assert "cannot be read" in refusal(identities(CA), odd)


def test_a_certificate_with_a_name_of_a_strange_kind_is_an_identity() -> None:
    x400_address = bytes.fromhex("3004a3023000")
    name = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, x400_address)
    builder = x509.CertificateBuilder(
        CA.subject, CA.subject, ec_key().public_key(), 7, EPOCH, FOR_EVER
    ).add_extension(name, critical=False)
    odd = builder.sign(CA.identity.key, hashes.SHA256()).public_bytes(Encoding.DER)

    assert identities(CA).identify(odd)


def test_an_intermediate_of_the_bundle_makes_the_chain() -> None:
    root = FleetAuthority("Root")
    below = FleetAuthority("Below", parent=root)
    device = below.issue()

    assert identities(root, below).identify(device.der) == device.fingerprint
    assert identities(below).identify(device.der) == device.fingerprint


def test_an_intermediate_of_the_message_makes_the_chain() -> None:
    root = FleetAuthority("Root")
    below = FleetAuthority("Below", parent=root)
    device = below.issue()
    judge = identities(root)

    refusal(judge, device.der)
    assert judge.identify(device.der, [STRANGER.identity.der, below.identity.der]) == (
        device.fingerprint
    )


def openssl_authority(folder: Path, config: str) -> x509.Certificate:
    """A CA as an operator's shell makes it, and a device's certificate request signed by it."""
    (folder / "ca.cnf").write_text(f"[req]\ndistinguished_name=n\n[n]\n[v3]\n{config}\n")
    (folder / "device.cnf").write_text("extendedKeyUsage=clientAuth\n")
    for command in (
        f"req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -subj /CN=CA -days 30"
        " -config ca.cnf -extensions v3",
        f"req {NEW_KEY} -keyout d.key -out d.csr -subj /CN=d -config ca.cnf",
        "x509 -req -in d.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out d.pem -days 10"
        " -extfile device.cnf",
    ):
        arguments = ["openssl", *command.split()]
        subprocess.run(arguments, cwd=folder, capture_output=True, check=True, timeout=60)
    return x509.load_pem_x509_certificate((folder / "d.pem").read_bytes())


def judge_of_today(folder: Path, device: x509.Certificate) -> DeviceIdentities:
    clock = FakeClock(device.not_valid_before_utc + timedelta(hours=1))
    return DeviceIdentities(load_trust((folder / "ca.pem").read_bytes()), clock)


@pytest.mark.parametrize(
    "config",
    [
        "basicConstraints=critical,CA:TRUE",
        "basicConstraints=CA:TRUE",
        "basicConstraints=CA:TRUE\nsubjectKeyIdentifier=hash\n"
        "authorityKeyIdentifier=keyid:always,issuer:always",
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign",
    ],
)
def test_the_cas_that_openssl_makes_can_be_trusted(tmp_path: Path, config: str) -> None:
    device = openssl_authority(tmp_path, config)

    assert judge_of_today(tmp_path, device).identify(device.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    "config",
    [
        "basicConstraints=critical,CA:FALSE",
        "subjectKeyIdentifier=hash",
        "basicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature",
    ],
)
def test_what_is_not_marked_as_a_ca_issues_no_identities(tmp_path: Path, config: str) -> None:
    device = openssl_authority(tmp_path, config)

    refusal(judge_of_today(tmp_path, device), device.public_bytes(Encoding.DER))


def test_the_second_form_of_an_ecdsa_signature_makes_no_second_certificate() -> None:
    """From (r, s) anybody makes (r, n - s), which is as good."""
    device = CA.issue("device")
    r, s = decode_dss_signature(device.certificate.signature)
    other = encode_dss_signature(r, P256_ORDER - s)
    form = asn1_x509.Certificate.load(device.der)
    form["signature_value"] = other

    assert form.dump(force=True) != device.der
    assert identities(CA).identify(form.dump()) == device.fingerprint


def test_bits_behind_the_signature_make_no_second_certificate() -> None:
    device = CA.issue("device")
    signature = device.certificate.signature
    altered = bytearray(device.der)
    altered[-len(signature) - 1] = 1 if signature[-1] & 1 == 0 else 0x80

    assert refusal(identities(CA), bytes(altered)).startswith("device certificate: ")


def test_no_byte_of_a_certificate_of_an_rsa_key_can_be_another() -> None:
    clock = FakeClock()
    authority = Authority.create(clock)
    device = authority.issue("sim-1", clock).certificate.public_bytes(Encoding.DER)
    judge = DeviceIdentities([authority.certificate], clock)

    for at in range(len(device)):
        altered = bytearray(device)
        altered[at] ^= 1
        with pytest.raises(BadRequest):
            judge.examine(bytes(altered))


def test_a_remembered_certificate_expires_all_the_same() -> None:
    clock = FakeClock()
    device = CA.issue(profile=valid_for(timedelta(hours=1), start=START))
    judge = identities(CA, clock=clock)
    assert judge.identify(device.der) == device.fingerprint

    clock.advance(timedelta(hours=2))

    assert "expired" in refusal(judge, device.der)


def test_a_remembered_certificate_falls_with_its_ca() -> None:
    clock = FakeClock()
    ca = FleetAuthority(
        profile=Profile(
            not_after=START + timedelta(hours=1), usage=None, is_authority=AUTHORITY.is_authority
        )
    )
    device = ca.issue()
    judge = identities(ca, clock=clock)
    assert judge.identify(device.der) == device.fingerprint

    clock.advance(timedelta(hours=2))

    assert refusal(judge, device.der)


def test_a_certificate_becomes_an_identity_when_its_time_comes() -> None:
    clock = FakeClock()
    device = CA.issue(profile=valid_for(timedelta(days=1), start=START + timedelta(hours=1)))
    judge = identities(CA, clock=clock)
    refusal(judge, device.der)

    clock.advance(timedelta(hours=2))

    assert judge.identify(device.der) == device.fingerprint


def test_our_own_ca_issues_identities() -> None:
    clock = FakeClock()
    authority = Authority.create(clock)
    issued = authority.issue("sim-1", clock)
    judge = DeviceIdentities([authority.certificate, CA.certificate], clock)

    assert judge.identify(issued.certificate.public_bytes(Encoding.DER))


def test_a_bundle_holds_several_cas() -> None:
    assert load_trust(CA.pem + STRANGER.pem) == [CA.certificate, STRANGER.certificate]


@pytest.mark.parametrize("pem", [b"", b"no PEM", CA.identity.key_pem])
def test_a_bundle_without_certificates_is_misconfigured(pem: bytes) -> None:
    with pytest.raises(Misconfigured, match="MDM_DEVICE_CA"):
        load_trust(pem)


def test_the_fakes_time_is_within_the_fleets() -> None:
    assert CA.certificate.not_valid_before_utc < START < datetime(2049, 1, 1, tzinfo=UTC)
