"""Certificates that Apple's CA for devices vouches for."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shared.security.apple_device import AppleDevices

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Apple iPhone Device CA")])
DEVICE = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
KEY, DEVICE_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
MGF1, FOREIGN = (bytes.fromhex("06092a864886f70d0101") + last for last in (b"\x08", b"\x09"))


def certificate(
    subject: x509.Name, key: rsa.RSAPrivateKey, scheme: padding.AsymmetricPadding
) -> x509.Certificate:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        x509.CertificateBuilder(NAME, subject, key.public_key(), 1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(KEY, SHA256(), rsa_padding=scheme)  # type: ignore[arg-type]
    )


APPLE = AppleDevices([certificate(NAME, KEY, padding.PKCS1v15())])


def device(scheme: padding.AsymmetricPadding) -> bytes:
    return certificate(DEVICE, DEVICE_KEY, scheme).public_bytes(Encoding.DER)


def test_a_certificate_that_apples_ca_signed_is_vouched_for() -> None:
    assert APPLE.vouches(device(padding.PKCS1v15()))


def test_a_scheme_that_apple_does_not_sign_with_is_not_even_if_nobody_can_read_it() -> None:
    pss = device(padding.PSS(padding.MGF1(SHA256()), 32))
    unreadable = pss.replace(MGF1, FOREIGN)

    assert MGF1 in pss
    assert not APPLE.vouches(pss)
    assert not APPLE.vouches(unreadable)
