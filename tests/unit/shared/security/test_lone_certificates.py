"""Certificates that come alone, which the library's verifier judges before our own check of the signature."""

from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.domain.errors import BadRequest
from shared.security.asn1 import der
from shared.security.certificates.lenient import AnyCertificate, load_certificate
from shared.security.chains import Chains, NotTrusted
from shared.security.identity import DeviceIdentities
from tests.support.fakes.clock import START, FakeClock
from tests.support.harness.odd_certificates import (
    CLIENT_AUTH,
    CLIENT_USAGE,
    CONSTRAINTS,
    FALSE,
    FOR_CLIENTS,
    KEY_USAGE,
    TRUE,
    Odd,
    OddAuthority,
    RsaKey,
    extension,
    long_form,
)
from tests.support.harness.strangers import (
    IS_AUTHORITY,
    CurveKey,
    OddRsa,
    SigningKey,
    certificate,
    name,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning",
    "ignore:Attribute's length:UserWarning",
)

KEYS: list[SigningKey] = [CurveKey(), RsaKey(), OddRsa.make(1024, 17)]
DEVICE = CurveKey()
UNRELATED = certificate(name("Unrelated"), name("Unrelated"), CurveKey(), CurveKey()).der
EMPTY_PART = der.sequence(der.element(der.SET))
IS_CRITICAL_AUTHORITY = extension(CONSTRAINTS, der.sequence(TRUE), TRUE)


def authority(key: SigningKey, odd: Odd) -> AnyCertificate:
    """A CA of that key and of the one name that all have."""
    own = OddAuthority(key)
    return load_certificate(own.issue(replace(odd, subject=own.name, key=key)).der)


AUTHORITIES = [
    Odd(extensions=(IS_AUTHORITY,)),
    Odd(extensions=(IS_CRITICAL_AUTHORITY, extension(KEY_USAGE, b"\x03\x02\x01\x06", TRUE))),
    Odd(extensions=(IS_CRITICAL_AUTHORITY, extension(KEY_USAGE, b"\x03\x02\x07\x80", TRUE))),
    Odd(extensions=(IS_AUTHORITY,), in_sequence=long_form),
    Odd(extensions=(IS_AUTHORITY,), serial=der.element(2, b"\1" * 25)),
    Odd(extensions=(IS_AUTHORITY, extension("2.5.29.30", der.sequence()))),
    Odd(extensions=(extension(CONSTRAINTS, der.sequence(FALSE)),)),
    Odd(version=b""),
    Odd(
        extensions=(IS_AUTHORITY,),
        validity=der.sequence(
            der.element(0x17, b"470101000000Z"), der.element(0x17, b"480101000000Z")
        ),
    ),
]
TRUSTED = [(key, authority(key, odd)) for odd in AUTHORITIES for key in KEYS]
LEAVES = [
    Odd(key=DEVICE),
    Odd(key=DEVICE, in_sequence=long_form),
    Odd(key=DEVICE, serial=der.element(2, b"\1" * 25)),
    Odd(key=DEVICE, issuer=name("ODD  ca")),
    Odd(key=DEVICE, subject=EMPTY_PART),
    Odd(key=DEVICE, version=b""),
    Odd(key=DEVICE, unused_bits=1),
    Odd(key=DEVICE, named=der.sequence(der.oid("1.2.840.10045.4.3.3"))),
    Odd(key=DEVICE, extensions=(FOR_CLIENTS, FOR_CLIENTS)),
    Odd(key=DEVICE, extensions=(FOR_CLIENTS, extension("1.2.3.4", b"x", TRUE))),
    Odd(key=DEVICE, extensions=(extension(CLIENT_USAGE, CLIENT_AUTH, FALSE),)),
    Odd(
        key=DEVICE,
        validity=der.sequence(
            der.element(0x17, b"200101000000Z"), der.element(0x17, b"240101000000Z")
        ),
    ),
]
changes = st.lists(st.tuples(st.integers(0, 600), st.integers(1, 255)), max_size=2)


def changed(encoded: bytes, made: list[tuple[int, int]]) -> bytes:
    altered = bytearray(encoded)
    for at, flip in made:
        altered[at % len(altered)] ^= flip
    return bytes(altered)


def outcome(trust: list[AnyCertificate], device: bytes, *others: bytes) -> object:
    try:
        return DeviceIdentities(trust, FakeClock()).examine(device, others)
    except BadRequest as refusal:
        return str(refusal)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    issuer=st.sampled_from(TRUSTED),
    beside=st.lists(st.sampled_from(TRUSTED), max_size=3),
    at=st.integers(0, 3),
    forger=st.none() | st.sampled_from(KEYS),
    odd=st.sampled_from(LEAVES),
    in_signed=changes,
    after=changes,
)
def test_one_that_came_alone_is_judged_as_beside_an_unrelated_one(
    issuer: tuple[SigningKey, AnyCertificate],
    beside: list[tuple[SigningKey, AnyCertificate]],
    at: int,
    forger: SigningKey | None,
    odd: Odd,
    in_signed: list[tuple[int, int]],
    after: list[tuple[int, int]],
) -> None:
    """Beside another one our own check comes first."""
    key, ours = issuer
    trust = [each for _, each in beside]
    trust.insert(at, ours)
    signed = replace(odd, signed_as=lambda content: odd.signed_as(changed(content, in_signed)))
    device = changed(OddAuthority(forger or key).issue(signed).der, after)

    assert outcome(trust, device) == outcome(trust, device, UNRELATED)


def test_a_refusal_that_the_library_cannot_word_keeps_its_true_reason() -> None:
    """It shows the subject in the refusal, and cannot read this one."""
    key, ours = TRUSTED[0]
    two = der.sequence(der.oid("1.2.840.10045.4.3.3"))
    device = OddAuthority(key).issue(Odd(subject=EMPTY_PART, named=two)).der

    assert "it names two signature algorithms" in str(outcome([ours], device))


def test_a_trusted_certificate_is_not_believed_without_a_signature() -> None:
    names = name("Own")
    forged = certificate(names, names, CurveKey(), CurveKey(), IS_AUTHORITY).der
    trusted = x509.load_der_x509_certificate(forged)

    with pytest.raises(NotTrusted):
        Chains([trusted]).build(trusted, (), START)
