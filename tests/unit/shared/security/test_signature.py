"""The signature of a message. openssl is the oracle: we take what it signs, it takes what we sign."""

import base64
import gc
import hashlib
import subprocess
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from asn1crypto import cms, core
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.domain.errors import BadRequest
from shared.security.signature.cms_forms import MOST_ATTRIBUTES
from shared.security.signature.signers import MAX_HEADER, signer_of
from tests.support.harness.identities import (
    EPOCH,
    DeviceIdentity,
    FleetAuthority,
    Profile,
    envelope,
    indefinite,
    raw_signature,
    signed_attributes,
    signer_info,
)
from tests.support.signatures import verify

BODY = b"<plist><dict><key>UDID</key><string>A</string></dict></plist>\n"
AUTHORITY = FleetAuthority()
RSA = AUTHORITY.issue("rsa device")
EC = AUTHORITY.issue("ec device", kind="ec")
IDENTITIES = {"rsa": RSA, "ec": EC}


def header(envelope_der: bytes) -> str:
    return base64.b64encode(envelope_der).decode()


def openssl(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, check=False, timeout=30
    )


def openssl_signs(folder: Path, identity: DeviceIdentity, *options: str) -> bytes:
    (folder / "key.pem").write_bytes(identity.key_pem)
    (folder / "cert.pem").write_bytes(identity.pem)
    (folder / "body").write_bytes(BODY)
    done = openssl(
        *("cms", "-sign", "-binary", "-signer", "cert.pem", "-inkey", "key.pem", "-in", "body"),
        *("-outform", "DER", "-out", "signature", *options),
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "signature").read_bytes()


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES.keys())
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("attributes", [(), ("-noattr",)], ids=["attributes", "none"])
@pytest.mark.parametrize("form", [(), ("-indef",), ("-keyid",)], ids=["der", "indefinite", "keyid"])
def test_what_openssl_signs_is_accepted(
    tmp_path: Path,
    identity: DeviceIdentity,
    digest: str,
    attributes: tuple[str, ...],
    form: tuple[str, ...],
) -> None:
    signature = openssl_signs(tmp_path, identity, "-md", digest, *attributes, *form)

    assert verify(header(signature), BODY) == identity.der
    with pytest.raises(BadRequest):
        verify(header(signature), BODY + b" ")


@pytest.mark.parametrize("attributes", [(), ("-noattr",)], ids=["attributes", "none"])
@pytest.mark.parametrize("salt", ["digest", "max", "0"])
def test_pss_signatures_of_openssl_are_accepted(
    tmp_path: Path, attributes: tuple[str, ...], salt: str
) -> None:
    options = ("-keyopt", "rsa_padding_mode:pss", "-keyopt", f"rsa_pss_saltlen:{salt}")
    signature = openssl_signs(tmp_path, RSA, "-md", "sha256", *attributes, *options)

    assert verify(header(signature), BODY) == RSA.der
    with pytest.raises(BadRequest):
        verify(header(signature), BODY + b" ")


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES.keys())
@pytest.mark.parametrize("attributes", [True, False])
def test_openssl_accepts_what_the_simulators_sign(
    tmp_path: Path, identity: DeviceIdentity, attributes: bool
) -> None:
    (tmp_path / "body").write_bytes(BODY)
    (tmp_path / "signature").write_bytes(identity.cms(BODY, attributes=attributes))

    done = openssl(
        *("cms", "-verify", "-noverify", "-binary", "-inform", "DER", "-in", "signature"),
        *("-content", "body", "-out", "out"),
        folder=tmp_path,
    )

    assert done.returncode == 0, done.stderr
    assert verify(header((tmp_path / "signature").read_bytes()), BODY) == identity.der


def test_indefinite_lengths_without_content_are_accepted() -> None:
    signature = indefinite(RSA.cms(BODY, digest="sha1"))

    assert signature[1] == 0x80
    assert verify(header(signature), BODY) == RSA.der
    with pytest.raises(BadRequest, match="does not match"):
        verify(header(signature), BODY + b" ")


def test_attributes_in_another_order_are_verified_as_received() -> None:
    attributes = signed_attributes(hashes_of(BODY))
    swapped = bytes(attributes[1].dump() + attributes[0].dump())
    signature = raw_signature(RSA.key, b"\x31" + bytes([len(swapped)]) + swapped, "sha256")
    info = signer_info(RSA, BODY, "sha256", attributes=True)
    ordered = info["signed_attrs"].untag().dump()[2:]
    info["signature"] = signature
    der = envelope([info], [RSA]).replace(ordered, swapped)

    assert verify(header(der), BODY) == RSA.der


def test_attributes_in_another_order_are_verified_in_ders_order_too() -> None:
    info = signer_info(RSA, BODY, "sha256", attributes=True)
    ordered = info["signed_attrs"].untag().dump()[2:]
    first = info["signed_attrs"][0].dump()
    der = envelope([info], [RSA]).replace(ordered, ordered[len(first) :] + first)

    assert verify(header(der), BODY) == RSA.der


def hashes_of(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def test_the_signer_is_found_among_other_certificates() -> None:
    der = envelope([signer_info(RSA, BODY, "sha256")], [AUTHORITY.identity, EC, RSA])

    signer = signer_of(header(der), BODY)

    assert signer.certificate == RSA.der
    assert set(signer.others) == {AUTHORITY.identity.der, EC.der}


def test_a_header_of_bytes_is_as_good_as_text() -> None:
    assert verify(RSA.sign(BODY).encode(), BODY) == RSA.der


def with_digest(digest: str) -> bytes:
    """A signature whose digest algorithm says something else than what was used."""
    info = signer_info(RSA, BODY, "sha256")
    info["digest_algorithm"] = {"algorithm": digest}
    return envelope([info], [RSA])


def with_attributes(attributes: cms.CMSAttributes) -> bytes:
    info = signer_info(RSA, BODY, "sha256")
    info["signed_attrs"] = attributes
    info["signature"] = raw_signature(RSA.key, attributes.dump(), "sha256")
    return envelope([info], [RSA])


def empty_attributes() -> bytes:
    """An empty set of attributes, and a signature over the body as if there were no set."""
    info = signer_info(RSA, BODY, "sha256")
    info["signed_attrs"] = cms.CMSAttributes([])
    der = envelope([info], [RSA])
    assert b"\xa0\x00" in der
    return der


def test_a_signature_with_more_attributes_than_anybody_sends_is_refused_unread() -> None:
    most = [*signed_attributes(DIGEST), *[{"type": "1.2.3", "values": []}] * (MOST_ATTRIBUTES - 2)]
    more = [*most, {"type": "1.2.3", "values": []}]

    assert verify(header(with_attributes(cms.CMSAttributes(most))), BODY) == RSA.der
    with pytest.raises(BadRequest, match="too many signed attributes"):
        verify(header(with_attributes(cms.CMSAttributes(more))), BODY)


@pytest.mark.parametrize(
    ("times", "found"),
    [((), None), ((EPOCH,), EPOCH), ((EPOCH, EPOCH + timedelta(days=1)), None)],
    ids=["none", "one", "two"],
)
def test_the_time_of_signing_is_told_where_it_is_clear(
    times: tuple[datetime, ...], found: datetime | None
) -> None:
    attributes = signed_attributes(DIGEST, "data", *times)

    assert signer_of(header(with_attributes(attributes)), BODY).signed_at == found


def test_a_time_of_signing_that_nobody_can_read_is_none() -> None:
    attributes = signed_attributes(DIGEST, "data", EPOCH)
    odd = cms.CMSAttributes.load(attributes.dump().replace(b"200101000000Z", b"209901000000Z"))

    assert signer_of(header(with_attributes(odd)), BODY).signed_at is None


def with_algorithm(name: str) -> bytes:
    info = signer_info(RSA, BODY, "sha256")
    info["signature_algorithm"] = {"algorithm": name}
    return envelope([info], [RSA])


DIGEST = hashes_of(BODY)
OTHER_INFO = signer_info(EC, BODY, "sha256")
REFUSED = {
    "another body": RSA.cms(BODY + b"x"),
    "another body, attributes": RSA.cms(BODY + b"x", attributes=True),
    "another body, EC": EC.cms(BODY + b"x"),
    "another digest": with_digest("sha1"),
    "MD5": with_digest("md5"),
    "SHA-224": RSA.cms(BODY, digest="sha224"),
    "an algorithm of another digest": with_algorithm("sha1_rsa"),
    "an algorithm of another key": with_algorithm("sha256_ecdsa"),
    "MD5 with RSA": with_algorithm("md5_rsa"),
    "no signer": envelope([], [RSA]),
    "two signers": envelope([signer_info(RSA, BODY, "sha256"), OTHER_INFO], [RSA, EC]),
    "the same signer twice": envelope([signer_info(RSA, BODY, "sha256")] * 2, [RSA]),
    "no certificate": envelope([signer_info(RSA, BODY, "sha256")], []),
    "another certificate": envelope([signer_info(RSA, BODY, "sha256")], [EC]),
    "eleven certificates": envelope([signer_info(RSA, BODY, "sha256")], [RSA] * 11),
    "another content inside": envelope([signer_info(RSA, BODY, "sha256")], [RSA], content=b"x"),
    "a digest that is not the body's": with_attributes(signed_attributes(hashes_of(b"x"))),
    "another content type": with_attributes(signed_attributes(DIGEST, "signed_data")),
    "no digest attribute": with_attributes(cms.CMSAttributes(signed_attributes(DIGEST)[:1])),
    "no content type attribute": with_attributes(cms.CMSAttributes(signed_attributes(DIGEST)[1:])),
    "no attributes where there should be some": empty_attributes(),
    "two digests": with_attributes(
        cms.CMSAttributes([*signed_attributes(DIGEST), signed_attributes(hashes_of(b"x"))[1]])
    ),
    "a certificate": RSA.der,
    "data instead of signed data": cms.ContentInfo(
        {"content_type": "data", "content": BODY}
    ).dump(),
    "not ASN.1": b"garbage",
    "a sequence of nothing": b"\x30\x00",
    "cut short": RSA.cms(BODY)[:-1],
    "a length beyond the end": b"\x30\x84\xff\xff\xff\xff" + RSA.cms(BODY)[4:],
    "deep nesting": b"\x30\x80" * 20_000,
}


@pytest.mark.parametrize("signature", REFUSED.values(), ids=REFUSED.keys())
def test_a_signature_that_proves_nothing_is_refused(signature: bytes) -> None:
    with pytest.raises(BadRequest, match=r"^Mdm-Signature: "):
        verify(header(signature), BODY)


@pytest.mark.parametrize(
    "value", [None, "", b"", "%%%", "A", "ünïcode", "AAAA AAAA", ":" + RSA.sign(BODY) + ":"]
)
def test_a_header_that_is_not_base64_is_refused(value: str | bytes | None) -> None:
    with pytest.raises(BadRequest, match=r"^Mdm-Signature: "):
        verify(value, BODY)


def test_a_header_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(BadRequest, match="too long"):
        verify("A" * 1_000_000, BODY)
    with pytest.raises(BadRequest, match="too long"):
        verify(RSA.sign(BODY) + " " * MAX_HEADER, BODY)


def test_the_signature_of_one_device_does_not_pass_with_the_certificate_of_another() -> None:
    other = AUTHORITY.issue("rsa device 2")
    forged = signer_info(RSA, BODY, "sha256")
    forged["sid"] = signer_info(other, BODY, "sha256")["sid"]
    assert isinstance(other.key, rsa.RSAPrivateKey)
    assert other.key is not RSA.key

    with pytest.raises(BadRequest, match="does not match"):
        verify(header(envelope([forged], [RSA, other])), BODY)


def test_a_remembered_device_is_still_checked_every_time() -> None:
    good = RSA.sign(BODY)
    assert verify(good, BODY) == RSA.der

    with pytest.raises(BadRequest, match="does not match"):
        verify(good, BODY + b" ")
    with pytest.raises(BadRequest, match="does not match"):
        verify(header(RSA.cms(BODY)[:-1] + b"\x00"), BODY)


@pytest.mark.parametrize("size", [1024, 3072, 4096])
def test_keys_of_other_sizes_are_verified(size: int) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=size)
    device = AUTHORITY.certify(key)
    signature = device.cms(BODY)

    assert verify(header(signature), BODY) == device.der
    with pytest.raises(BadRequest, match="does not match"):
        verify(header(signature), BODY + b" ")


def test_devices_of_one_key_keep_their_own_certificates() -> None:
    first, second = AUTHORITY.certify(RSA.key), AUTHORITY.certify(RSA.key)

    for _ in range(2):
        assert verify(first.sign(BODY), BODY) == first.der
        assert verify(second.sign(BODY), BODY) == second.der


def kept_after(messages: list[str]) -> int:
    """Bytes that stay in memory after messages whose signatures were all bad."""
    verify(RSA.sign(BODY), BODY)
    tracemalloc.start()
    try:
        for message in messages:
            with pytest.raises(BadRequest):
                verify(message, BODY + b" ")
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_what_strangers_send_is_not_remembered(kind: Literal["rsa", "ec"]) -> None:
    strangers = [FleetAuthority().issue(kind=kind) for _ in range(100)]

    assert kept_after([stranger.sign(BODY) for stranger in strangers]) < 50_000


def test_large_certificates_are_not_remembered_even_where_the_signature_is_good() -> None:
    usage = [x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{number}") for number in range(500)]
    large = [AUTHORITY.certify(EC.key, profile=Profile(usage=usage)) for _ in range(80)]
    messages = [device.sign(BODY) for device in large]
    tracemalloc.start()
    for message in messages:
        verify(message, BODY)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert min(len(device.der) for device in large) > 4 * 1024
    assert kept < 100_000


def test_a_message_that_only_ends_like_a_signature_is_refused() -> None:
    info = signer_info(RSA, BODY, "sha256")
    trap = b"\x04\x82\x01\x00" + bytes(256)
    info["unsigned_attrs"] = [{"type": "1.2.3.4", "values": [core.OctetString(trap)]}]
    der = envelope([info], [RSA])

    with pytest.raises(BadRequest, match="does not match"):
        verify(header(der), BODY + b" ")
    with pytest.raises(BadRequest):
        verify(header(der), BODY)  # no device sends this; refused is as good as found
