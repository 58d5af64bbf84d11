"""Signed profiles and signed answers of devices; openssl is the second opinion in both directions."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import BadRequest, Misconfigured
from shared.security.apple_device import AppleDevices
from shared.security.signature.cms import content_of
from shared.security.signature.profile_signing import ProfileSigner
from shared.security.signature.signers import open_signed
from tests.support.enrollment_rig import attached
from tests.support.harness.identities import FOR_EVER, DeviceIdentity, FleetAuthority, Profile

ROOT = FleetAuthority("Profiles Root")
ISSUING = FleetAuthority("Profiles Issuing", parent=ROOT)
PROFILE = b'<?xml version="1.0"?>\r\n<plist version="1.0"><dict/>\n</plist>\n'
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def files(folder: Path, identity: DeviceIdentity, chain: bytes = ISSUING.pem) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(identity.pem + chain)
    key.write_bytes(identity.key_pem)
    return certificate, key


def openssl(*arguments: str | Path) -> bytes:
    return subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, check=True, timeout=30
    ).stdout


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_openssl_verifies_what_we_sign_up_to_the_root(kind: str, tmp_path: Path) -> None:
    usage = Profile(usage=None)
    identity = ISSUING.issue("profiles", kind="rsa" if kind == "rsa" else "ec", profile=usage)
    signed, root = tmp_path / "signed", tmp_path / "root.pem"
    root.write_bytes(ROOT.pem)

    signed.write_bytes(ProfileSigner.load(*files(tmp_path, identity)).sign(PROFILE))

    verified = openssl(
        "cms", "-verify", "-binary", "-inform", "DER", "-in", signed, "-CAfile", root
    )
    assert verified == PROFILE


def test_a_signed_profile_holds_the_profile_unchanged_and_who_signed_it(tmp_path: Path) -> None:
    identity = ISSUING.issue("profiles")
    signed = ProfileSigner.load(*files(tmp_path, identity)).sign(PROFILE)

    opened = open_signed(signed)

    assert opened.content == PROFILE
    assert opened.signer.certificate == identity.der
    assert ISSUING.identity.der in opened.signer.others
    assert content_of(signed) == PROFILE


def test_one_file_may_hold_certificate_and_key(tmp_path: Path) -> None:
    identity = ISSUING.issue("profiles")
    both = tmp_path / "both.pem"
    both.write_bytes(identity.key_pem + identity.pem)

    assert open_signed(ProfileSigner.load(both, both).sign(PROFILE)).content == PROFILE


def test_an_expired_certificate_still_signs_and_the_log_says_so(tmp_path: Path) -> None:
    lapsed = Profile(not_after=datetime(2021, 1, 1, tzinfo=UTC))
    signer = ProfileSigner.load(*files(tmp_path, ISSUING.issue("profiles", profile=lapsed)))

    with structlog.testing.capture_logs() as logs:
        signer.warn_of_expiry(NOW)

    assert [each["event"] for each in logs] == ["profile_certificate_expired"]
    assert open_signed(signer.sign(PROFILE)).content == PROFILE


def test_a_certificate_that_is_good_is_not_talked_about(tmp_path: Path) -> None:
    signer = ProfileSigner.load(*files(tmp_path, ISSUING.issue("profiles")))

    with structlog.testing.capture_logs() as logs:
        signer.warn_of_expiry(NOW)

    assert FOR_EVER > NOW and logs == []


def refusal(certificate: Path, key: Path) -> str:
    with pytest.raises(Misconfigured) as refused:
        ProfileSigner.load(certificate, key)
    return str(refused.value)


def test_a_pair_that_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    certificate, key = files(tmp_path, ISSUING.issue("profiles", kind="ec"))
    key.write_bytes(ISSUING.issue("another", kind="ec").key_pem)

    assert "MDM_PROFILE_KEY" in refusal(certificate, key)


def test_files_that_hold_something_else_are_refused_by_the_name_of_their_setting(
    tmp_path: Path,
) -> None:
    certificate, key = files(tmp_path, ISSUING.issue("profiles"))
    nothing = tmp_path / "nothing.pem"
    nothing.write_bytes(b"nothing")

    assert "MDM_PROFILE_CERT" in refusal(nothing, key)
    assert "MDM_PROFILE_KEY" in refusal(certificate, nothing)
    assert "MDM_PROFILE_CERT" in refusal(tmp_path / "absent", key)


def test_an_encrypted_key_is_refused_with_advice(tmp_path: Path) -> None:
    certificate, key = files(tmp_path, ISSUING.issue("profiles"))
    openssl("pkcs8", "-topk8", "-in", key, "-out", tmp_path / "locked", "-passout", "pass:secret")

    assert "without a passphrase" in refusal(certificate, tmp_path / "locked")


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
@pytest.mark.parametrize("more", [[], ["-noattr"], ["-stream"], ["-keyid"]], ids=" ".join)
def test_what_openssl_signs_with_its_content_is_opened(
    digest: str, more: list[str], tmp_path: Path
) -> None:
    identity = ISSUING.issue("device")
    certificate, key = files(tmp_path, identity, b"")
    (tmp_path / "content").write_bytes(PROFILE)
    signed = openssl(
        *("cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-md", digest, *more),
        *("-in", tmp_path / "content", "-signer", certificate, "-inkey", key),
    )

    opened = open_signed(signed)

    assert (opened.content, opened.signer.certificate) == (PROFILE, identity.der)


def test_what_openssl_signs_without_its_content_is_refused(tmp_path: Path) -> None:
    certificate, key = files(tmp_path, ISSUING.issue("device"), b"")
    (tmp_path / "content").write_bytes(PROFILE)
    signed = openssl(
        *("cms", "-sign", "-binary", "-outform", "DER"),
        *("-in", tmp_path / "content", "-signer", certificate, "-inkey", key),
    )

    with pytest.raises(BadRequest, match="holds no content"):
        open_signed(signed)


SIGNED = [attached(ROOT.issue(), PROFILE, attributes=attributes) for attributes in (True, False)]


@given(st.sampled_from(SIGNED), st.data())
def test_whatever_is_altered_is_refused_or_changes_nothing(
    signed: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(signed) - 1))
    altered = signed[:at] + bytes([data.draw(st.integers(0, 255))]) + signed[at + 1 :]

    try:
        opened = open_signed(altered)
    except BadRequest:
        return
    assert opened.content == PROFILE


@given(st.binary(max_size=200), st.integers(0, 400))
def test_whatever_the_bytes_are_they_are_refused(noise: bytes, cut: int) -> None:
    for body in (noise, b"\x30" + noise, SIGNED[0][:cut] + noise):
        with pytest.raises(BadRequest):
            open_signed(body)


@pytest.mark.parametrize("digest", ["-sha1", "-sha256"])
def test_certificates_as_weak_as_apples_are_vouched_for(digest: str, tmp_path: Path) -> None:
    def pem(name: str) -> Path:
        return tmp_path / f"{name}.pem"

    for name in ("ca", "device", "stranger"):
        openssl("genrsa", "-out", pem(f"{name}-key"), "1024")
        request = ("req", "-new", "-key", pem(f"{name}-key"), "-subj", f"/CN={name}")
        if name == "device":
            openssl(*request, "-out", pem("request"))
        else:
            openssl(*request, "-x509", digest, "-days", "1", "-out", pem(name))
    openssl(
        *("x509", "-req", digest, "-in", pem("request"), "-out", pem("device"), "-days", "1"),
        *("-CA", pem("ca"), "-CAkey", pem("ca-key"), "-set_serial", "7"),
    )
    (tmp_path / "said").write_bytes(PROFILE)
    signed = openssl(
        *("cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-md", digest[1:]),
        *("-in", tmp_path / "said", "-signer", pem("device"), "-inkey", pem("device-key")),
    )
    device = open_signed(signed).signer.certificate

    assert AppleDevices.load(pem("ca").read_bytes()).vouches(device)
    assert not AppleDevices.load(pem("stranger").read_bytes()).vouches(device)
    assert not AppleDevices().vouches(device)
    assert not AppleDevices.load(pem("ca").read_bytes()).vouches(b"no certificate")


def test_a_ca_of_the_same_name_is_not_apples() -> None:
    twin = FleetAuthority("Profiles Root")

    assert AppleDevices([ROOT.certificate]).vouches(ROOT.issue().der)
    assert not AppleDevices([ROOT.certificate]).vouches(twin.issue().der)


def test_a_file_without_certificates_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(Misconfigured, match="MDM_OTA_DEVICE_CA"):
        AppleDevices.load(b"nothing")
