"""Chains with certificates that are not strict DER, and those for which the library is too strict."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from shared.domain.errors import BadRequest, Misconfigured
from shared.security.asn1 import der
from shared.security.certificates.lenient import LooseCertificate
from shared.security.identity import DeviceIdentities, load_trust
from shared.security.signature.signers import signer_of
from tests.support.fakes.clock import START, FakeClock
from tests.support.harness.odd_certificates import (
    CLIENT_USAGE,
    CONSTRAINTS,
    FALSE,
    KEY_USAGE,
    TRUE,
    Odd,
    OddAuthority,
    RsaKey,
    extension,
    long_form,
    openssl_takes,
)
from tests.support.harness.strangers import CurveKey, OddRsa, SigningKey, Stranger, certificate

KEY = RsaKey()
CA = OddAuthority(KEY)
BODY = b"a message"
SHA1_RSA = der.sequence(der.oid("1.2.840.113549.1.1.5"), der.NULL)


def judge() -> DeviceIdentities:
    return DeviceIdentities([CA.certificate()], FakeClock())


class Sha384Curve(CurveKey):
    """P-256 that signs with SHA-384."""

    def __init__(self) -> None:
        super().__init__(algorithm=der.sequence(der.oid("1.2.840.10045.4.3.3")))

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, ec.ECDSA(hashes.SHA384()))


def test_a_signature_by_sha1_is_said_to_prove_nothing() -> None:
    old = OddAuthority(RsaKey(SHA1_RSA, hashes.SHA1(), KEY.key))

    with pytest.raises(BadRequest, match="signed with sha1_rsa, which proves nothing here"):
        judge().examine(old.issue(Odd()).der)


def test_a_curve_may_sign_with_another_hash_than_its_own(tmp_path: Path) -> None:
    authority = OddAuthority(key=Sha384Curve())
    trusted, device = authority.certificate(), authority.issue(Odd()).der

    assert openssl_takes(tmp_path, trusted, device, START)
    assert DeviceIdentities([trusted], FakeClock()).identify(device)


def below(*extensions: bytes, key: SigningKey | None = None) -> tuple[Stranger, bytes]:
    """A device of a CA below ours, and that CA, which is not strict DER."""
    between = OddAuthority(common_name="Between", key=key or CurveKey())
    above = CA.issue(Odd(subject=between.name, key=between.key, extensions=extensions))
    return between.issue(Odd(in_sequence=long_form)), above.der


AUTHORITY = extension(CONSTRAINTS, der.sequence(TRUE), FALSE)
NOT_FOR_SIGNING = extension(KEY_USAGE, der.element(3, b"\x07\x80"))


def test_an_intermediate_of_the_message_may_be_not_strict_too() -> None:
    device, above = below(AUTHORITY)

    signer = signer_of(base64.b64encode(device.cms(BODY, above)), BODY)
    assert judge().identify(signer.certificate, signer.others)


@pytest.mark.parametrize(
    ("extensions", "key", "why"),
    [
        ((), None, "a CA above it is not marked as a CA"),
        ((extension(CONSTRAINTS, der.sequence(FALSE)),), None, "not marked as a CA"),
        ((AUTHORITY, NOT_FOR_SIGNING), None, "may not sign certificates"),
        (
            (AUTHORITY, extension(CLIENT_USAGE, der.sequence(der.oid("1.3.6.1.5.5.7.3.1")))),
            None,
            "not made for certificates of clients",
        ),
        (
            (AUTHORITY, extension("2.5.29.30", der.sequence())),
            None,
            "has name constraints",
        ),
        ((AUTHORITY, extension("1.2.3.4", b"\x05\0", TRUE)), None, "critical extension 1.2.3.4"),
        ((AUTHORITY,), OddRsa.make(1024, 17), "not one of a trusted CA"),
    ],
)
def test_a_ca_of_a_message_is_judged_by_all_that_it_says(
    extensions: tuple[bytes, ...], key: SigningKey | None, why: str
) -> None:
    device, above = below(*extensions, key=key)

    with pytest.raises(BadRequest, match=why):
        judge().examine(device.der, [above])


def test_a_ca_that_may_have_none_below_it_has_none() -> None:
    top = OddAuthority(common_name="Top")
    constraint = extension(CONSTRAINTS, der.sequence(TRUE, der.integer(0)))
    made = certificate(top.name, top.name, top.key, top.key, constraint).der
    between = OddAuthority(common_name="Between", key=CurveKey())
    above = top.issue(Odd(subject=between.name, key=between.key, extensions=(AUTHORITY,))).der
    judging = DeviceIdentities(load_trust(pem(made)), FakeClock())

    assert judging.identify(top.issue(Odd(in_sequence=long_form)).der)
    with pytest.raises(BadRequest, match="may have 0 more CAs below it, and has 1"):
        judging.examine(between.issue(Odd(in_sequence=long_form)).der, [above])


def pem(encoded: bytes) -> bytes:
    body = base64.encodebytes(encoded)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def test_the_operators_own_ca_may_be_not_strict() -> None:
    own = OddAuthority(common_name="Own")
    trusted = own.issue(Odd(subject=own.name, key=own.key, extensions=(AUTHORITY,))).der

    judging = DeviceIdentities(load_trust(pem(trusted)), FakeClock())

    assert judging.identify(own.issue(Odd()).der)
    with pytest.raises(BadRequest, match="not one of a trusted CA"):
        judging.identify(trusted)
    with pytest.raises(BadRequest, match="not one of a trusted CA"):
        judging.identify(LooseCertificate(trusted).public_bytes())
    with pytest.raises(Misconfigured, match="MDM_DEVICE_CA"):
        load_trust(pem(trusted[:-1]))
