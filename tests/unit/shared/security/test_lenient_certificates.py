"""Certificates of other CAs that are not strict DER: what OpenSSL takes is taken, and by one name only."""

import base64
import hashlib
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from shared.domain.errors import BadRequest
from shared.security.asn1 import der
from shared.security.certificates.lenient import LooseCertificate
from shared.security.client_certificate import ClientCertificateHeader
from shared.security.identity import DeviceIdentities, fingerprint_of
from shared.security.signature.signers import signer_of
from tests.support.fakes.clock import START, FakeClock
from tests.support.harness.odd_certificates import (
    ALSO_TRUE,
    CLIENT_AUTH,
    CLIENT_USAGE,
    CONSTRAINTS,
    FALSE,
    FOR_CLIENTS,
    KEY_USAGE,
    VALIDITY,
    Odd,
    OddAuthority,
    RsaKey,
    extension,
    indefinite,
    long_form,
    openssl_takes,
)
from tests.support.harness.strangers import CurveKey, OddRsa, name

KEY = RsaKey()
CA = OddAuthority(KEY)
TRUSTED = CA.certificate()
NAMES = "2.5.29.17"
BODY = b"a message"

pytestmark = pytest.mark.filterwarnings(
    "ignore::cryptography.utils.CryptographyDeprecationWarning",
    "ignore:Attribute's length:UserWarning",
)


def attribute(dotted: str, text: bytes, tag: int = 0x0C) -> bytes:
    return der.sequence(der.oid(dotted), der.element(tag, text))


def named(*attributes: bytes) -> bytes:
    """A name of one part, with its attributes as they are given."""
    return der.sequence(der.element(der.SET, *attributes))


UNSORTED = named(attribute("2.5.4.11", b"zz"), attribute("2.5.4.3", b"aa"))
LATE = der.sequence(der.element(0x18, b"20250101000000Z"), der.element(0x18, b"20480101000000Z"))
WITHOUT_NULL = KEY.public.replace(
    bytes.fromhex("300d06092a864886f70d0101010500"), bytes.fromhex("300b06092a864886f70d010101")
).replace(b"\x30\x82\x01\x22", b"\x30\x82\x01\x20", 1)
TAKEN: dict[str, Odd] = {
    "critical FALSE": Odd(extensions=(extension(CONSTRAINTS, der.sequence(), FALSE), FOR_CLIENTS)),
    "cA FALSE": Odd(extensions=(extension(CONSTRAINTS, der.sequence(FALSE)), FOR_CLIENTS)),
    "TRUE of one bit": Odd(extensions=(extension(CLIENT_USAGE, CLIENT_AUTH, ALSO_TRUE),)),
    "a serial of 25 bytes": Odd(serial=der.element(2, b"\x01" * 25)),
    "a negative serial": Odd(serial=der.element(2, b"\xf1\x02")),
    "no serial to speak of": Odd(serial=der.integer(0)),
    "unsorted attributes": Odd(subject=UNSORTED),
    "a printable string with other characters": Odd(
        subject=named(attribute("2.5.4.3", b"a@b_c*", 0x13))
    ),
    "a country of five letters": Odd(subject=named(attribute("2.5.4.6", b"Spain", 0x13))),
    "an empty part of the subject": Odd(subject=der.sequence(named()[2:])),
    "version 1": Odd(version=b""),
    "version 1, written out": Odd(version=der.element(der.CONTEXT_0, der.integer(0))),
    "general times": Odd(validity=LATE),
    "no extension in the list": Odd(extensions=()),
    "unique identifiers": Odd(unique=der.element(0x81, b"\0u") + der.element(0x82, b"\0v")),
    "its issuer in other letters": Odd(issuer=named(attribute("2.5.4.3", b"ODD  ca", 0x13))),
    "a long length of the extensions": Odd(in_sequence=long_form),
    "a long length of the signed part": Odd(signed_as=long_form),
    "an indefinite length of the signed part": Odd(signed_as=indefinite),
    "a long length around it": Odd(outer=long_form),
    "an indefinite length around it": Odd(outer=indefinite),
    "a constraint on a name of a strange kind": Odd(
        extensions=(extension(NAMES, bytes.fromhex("3004a3023000")), FOR_CLIENTS)
    ),
    "an RSA key without NULL": Odd(public=WITHOUT_NULL, key=CA.key),
}


def judge() -> DeviceIdentities:
    return DeviceIdentities([TRUSTED], FakeClock())


@pytest.mark.parametrize("odd", TAKEN.values(), ids=TAKEN)
def test_what_openssl_takes_is_an_identity_by_signature_and_by_header(
    odd: Odd, tmp_path: Path
) -> None:
    device = CA.issue(odd)

    assert openssl_takes(tmp_path, TRUSTED, device.der, START)
    signer = signer_of(base64.b64encode(device.cms(BODY)), BODY)
    header = ClientCertificateHeader([ip_network("127.0.0.1")])
    read = header.read([f":{base64.b64encode(device.der).decode()}:"], "127.0.0.1")
    found = {judge().identify(each) for each in (device.der, signer.certificate, *read)}
    assert found == {fingerprint_of(device.der)}


@pytest.mark.parametrize("odd", TAKEN.values(), ids=TAKEN)
def test_every_form_around_the_signed_part_is_the_same_identity(odd: Odd, tmp_path: Path) -> None:
    key, forms = CurveKey(), (der.sequence, long_form, indefinite)
    device = [CA.issue(replace(odd, key=key, public=None, outer=form)).der for form in forms]

    assert len(set(device)) == 3
    assert len({judge().identify(each) for each in device}) == 1


def test_what_is_not_strict_within_is_known_by_its_signed_part() -> None:
    device = CA.issue(TAKEN["critical FALSE"]).der

    signed = LooseCertificate(device).tbs_certificate_bytes
    assert signed in device
    assert judge().identify(device) == hashlib.sha256(signed).hexdigest()


def test_a_strict_one_keeps_its_name_in_every_form() -> None:
    strict = CA.issue(Odd())

    assert strict.der == LooseCertificate(strict.der).public_bytes()
    assert judge().identify(strict.der) == hashlib.sha256(strict.der).hexdigest()


REFUSED: dict[str, tuple[Odd, str]] = {
    "a version that does not exist": (
        Odd(version=der.element(der.CONTEXT_0, der.integer(5))),
        "cannot be read: its version does not exist",
    ),
    "unused bits": (Odd(unused_bits=1, in_sequence=long_form), "a string of bits has unused ones"),
    "two algorithms": (
        Odd(named=CurveKey.algorithm),
        "it names two signature algorithms",
    ),
    "an extension twice": (
        Odd(extensions=(FOR_CLIENTS, extension(CLIENT_USAGE, CLIENT_AUTH, FALSE))),
        "it has the extension 2.5.29.37 twice",
    ),
    "an unknown critical extension": (
        Odd(extensions=(FOR_CLIENTS, extension("1.2.3.4", b"\x05\0", ALSO_TRUE))),
        "has the critical extension 1.2.3.4, which is not known here",
    ),
    "a CA": (Odd(extensions=(extension(CONSTRAINTS, der.sequence(ALSO_TRUE)),)), "is a CA"),
    "a server": (
        Odd(
            extensions=(extension(CLIENT_USAGE, der.sequence(der.oid("1.3.6.1.5.5.7.3.1")), FALSE),)
        ),
        "not made for clients",
    ),
    "a local time": (
        Odd(validity=VALIDITY.replace(b"480101000000Z", b"480101000000+")),
        "a time in it is in no form of RFC 5280",
    ),
    "a subject that is no UTF-8": (
        Odd(subject=named(attribute("2.5.4.3", b"M\xfcller")), in_sequence=long_form),
        "a name is not in the encoding that it says",
    ),
    "an unreadable key usage": (
        Odd(extensions=(extension(KEY_USAGE, der.element(4, b"\x07\x80")), FOR_CLIENTS)),
        "a value is of another type than it must be",
    ),
    "a key usage with more unused bits than a byte has": (
        Odd(extensions=(extension(KEY_USAGE, der.element(3, b"\x87\x80"), FALSE), FOR_CLIENTS)),
        "its key usage is not well put together",
    ),
    "an alternative name of no kind": (
        Odd(extensions=(extension(NAMES, der.sequence(der.element(0x0C, b"a"))), FOR_CLIENTS)),
        "an alternative name is of no kind that there is",
    ),
    "an object identifier without an end": (
        Odd(extensions=(extension(CLIENT_USAGE, der.sequence(b"\x06\x02\x55\x9d")),)),
        "an object identifier is not well put together",
    ),
    "a subject that is a number": (
        Odd(subject=named(attribute("2.5.4.3", b"\x07", 2)), in_sequence=long_form),
        "a name has a value that is of no type of names",
    ),
    "a value behind the extensions": (
        Odd(unique=der.element(0xA4, b""), in_sequence=long_form),
        "it has values that a certificate has not",
    ),
    "a serial of 65 bytes": (
        Odd(serial=der.element(2, b"\x01" * 65), in_sequence=long_form),
        "its serial number has over 64 bytes",
    ),
    "a padded serial": (Odd(serial=b"\x02\x02\0\x01"), "a number is empty or padded"),
    "an RSA exponent below zero": (
        Odd(public=KEY.public.replace(b"\x02\x03\1\0\1", b"\x02\x03\x81\0\1"), key=KEY),
        "its key has a number below zero",
    ),
    "over 64 extensions": (
        Odd(extensions=[extension(f"1.2.3.{n}", b"", FALSE) for n in range(65)]),
        "over 64 values stand in a row",
    ),
    "another key": (Odd(in_sequence=long_form, issuer=name("Nobody")), "not one of a trusted CA"),
}
ON_PURPOSE = {
    "a CA",
    "a version that does not exist",
    "a serial of 65 bytes",
    "an RSA exponent below zero",
    "over 64 extensions",
}
"""What OpenSSL takes all the same."""


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_refused_under_its_true_reason(what: str, tmp_path: Path) -> None:
    odd, why = REFUSED[what]
    device = CA.issue(odd).der

    with pytest.raises(BadRequest) as caught:
        judge().identify(device)

    assert str(caught.value).startswith("device certificate: ")
    assert why in str(caught.value)
    assert openssl_takes(tmp_path, TRUSTED, device, START) == (what in ON_PURPOSE)


def test_bytes_behind_a_certificate_make_no_second_one() -> None:
    device = CA.issue(TAKEN["critical FALSE"]).der

    with pytest.raises(BadRequest, match="bytes stand behind its end"):
        judge().examine(device + b"\x05\0")


def test_no_bit_of_one_that_is_read_leniently_can_be_another() -> None:
    """Where a form around the signed part is read all the same, it is the same identity."""
    device = CA.issue(replace(TAKEN["critical FALSE"], outer=long_form)).der
    judging, known = judge(), judge().identify(device)

    others = set()
    for at in range(len(device) * 8):
        altered = bytearray(device)
        altered[at // 8] ^= 1 << at % 8
        try:
            others.add(judging.identify(bytes(altered)))
        except BadRequest:
            continue

    assert others <= {known}


def test_the_key_of_one_that_is_not_strict_is_judged_before_any_use() -> None:
    key = OddRsa.make(3072, 3060)
    device = CA.issue(Odd(in_sequence=long_form, key=key))

    with pytest.raises(BadRequest, match="exponent is over 32 bits"):
        judge().examine(device.der)
    with pytest.raises(BadRequest, match="exponent is over 32 bits"):
        signer_of(base64.b64encode(device.cms(BODY)), b"another")
