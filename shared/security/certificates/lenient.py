"""Certificates that are not strict DER, read as OpenSSL reads them.

Promise: the signed part is the very bytes that came. Around it there is one form, however it came, so that
a seen certificate cannot be made into a second one. Oddities other than of encoding are refused.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from shared.security.asn1 import ber, der
from shared.security.asn1.ber import Element, Unreadable, bits_of, children, integer_of, only
from shared.security.certificates.names import rfc4514

LONGEST_SERIAL = 64
"""Bytes; RFC 5280 allows 20."""
_TIMES = {ber.UTC_TIME: re.compile(rb"\d{12}Z"), ber.GENERALIZED_TIME: re.compile(rb"\d{14}Z")}
_RSA, _EC = bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a8648ce3d0201")
_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("2b81040022"): ec.SECP384R1(),
    bytes.fromhex("2b81040023"): ec.SECP521R1(),
}

KEY_IDENTIFIER, KEY_USAGE = bytes.fromhex("551d0e"), bytes.fromhex("551d0f")
BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE = bytes.fromhex("551d13"), bytes.fromhex("551d25")
CLIENT_USES = {bytes.fromhex("2b06010505070302"), bytes.fromhex("551d2500")}
"""Client authentication, and any purpose."""
ALTERNATIVE_NAME = bytes.fromhex("551d11")
_GENERAL_NAMES = {0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88}
_UNIQUE_IDENTIFIERS, _EXTENSIONS = (0x81, 0x82), 0xA3
"""First bytes: of the kinds of alternative names, and of the fields that may follow the key."""
_MOST_UNUSED = 7
_KEY_CERT_SIGN = 0x04


class Extension(NamedTuple):
    is_critical: bool
    value: bytes


class LooseCertificate:
    """Its members are named as those of `x509.Certificate`; names are bytes. Raises ValueError."""

    def __init__(self, encoded: bytes) -> None:
        signed, named, signature = _exactly(children(only(encoded, ber.SEQUENCE)), 3)
        self.tbs_certificate_bytes = signed.raw
        self.signature = bits_of(signature)
        fields = children(signed)
        has_version = bool(fields) and fields[0].raw[0] == der.CONTEXT_0
        if has_version and integer_of(only(fields[0].content, ber.INTEGER)) not in range(3):
            raise Unreadable("its version does not exist")
        serial, algorithm, issuer, validity, subject, key, *rest = fields[has_version:]
        if len(serial.content) > LONGEST_SERIAL:
            raise Unreadable(f"its serial number has over {LONGEST_SERIAL} bytes")
        self.serial_number = integer_of(serial)
        if _algorithm(algorithm) != _algorithm(named):
            raise Unreadable("it names two signature algorithms")
        self.signature_algorithm_bytes = algorithm.raw
        self.issuer = ber.of_kind(issuer, ber.SEQUENCE).raw
        self.subject = ber.of_kind(subject, ber.SEQUENCE).raw
        begin, end = _exactly(children(validity), 2)
        self.not_valid_before_utc, self.not_valid_after_utc = _time(begin), _time(end)
        self._key = ber.of_kind(key, ber.SEQUENCE)
        self._extensions = _extensions_among(rest)

    def public_bytes(self, _encoding: Encoding = Encoding.DER) -> bytes:
        """The one form around what is signed."""
        signature = der.element(0x03, b"\0", self.signature)
        return der.sequence(self.tbs_certificate_bytes, self.signature_algorithm_bytes, signature)

    def public_key(self) -> object:
        with suppress(ValueError, UnsupportedAlgorithm):
            return load_der_public_key(self._key.raw)
        algorithm, encoded = _exactly(children(self._key), 2)
        name, *parameters = children(algorithm)
        kind = ber.oid_of(name)
        if kind == _RSA:
            numbers = _exactly(children(only(bits_of(encoded), ber.SEQUENCE)), 2)
            modulus, exponent = map(integer_of, numbers)
            if min(modulus, exponent) < 0:
                raise Unreadable("its key has a number below zero")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        curve = _CURVES.get(ber.oid_of(parameters[0])) if kind == _EC and parameters else None
        if curve is None:
            raise Unreadable("its key is of a kind that no device has")
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, bits_of(encoded))

    @cached_property
    def extensions(self) -> dict[bytes, Extension]:
        """By the bytes of their object identifiers."""
        found = dict[bytes, Extension]()
        for each in self._extensions:
            oid, *critical, value = children(each)
            name = ber.oid_of(oid)
            if name in found:
                raise Unreadable(f"it has the extension {ber.dotted(name)} twice")
            if len(critical) > 1:
                raise Unreadable("an extension has too many values")
            is_critical = bool(critical) and ber.boolean_of(critical[0])
            found[name] = Extension(is_critical, ber.of_kind(value, ber.OCTET_STRING).content)
        return found

    def read_whole(self) -> None:
        """Raises Unreadable for an ill-formed name, or an extension that OpenSSL reads too."""
        rfc4514(self.issuer)
        rfc4514(self.subject)
        names = self._values_of(ALTERNATIVE_NAME) or ()
        if any(name.raw[0] not in _GENERAL_NAMES for name in names):
            raise Unreadable("an alternative name is of no kind that there is")
        _ = self.key_identifier, self.authority, self.is_for_clients, self.may_sign_certificates

    @property
    def key_identifier(self) -> bytes | None:
        found = self._value_of(KEY_IDENTIFIER, ber.OCTET_STRING)
        return None if found is None else found.content

    @property
    def authority(self) -> tuple[bool, int | None]:
        """True if it is that of a CA, and how many more may be between it and a device."""
        values = self._values_of(BASIC_CONSTRAINTS) or []
        is_ca = bool(values) and values[0].kind == ber.BOOLEAN and ber.boolean_of(values.pop(0))
        if len(values) > 1:
            raise Unreadable("its basic constraints have too many values")
        return is_ca, integer_of(values[0]) if values else None

    @property
    def is_for_clients(self) -> bool:
        uses = self._values_of(EXTENDED_KEY_USAGE)
        return uses is None or not CLIENT_USES.isdisjoint(map(ber.oid_of, uses))

    @property
    def may_sign_certificates(self) -> bool:
        found = self._value_of(KEY_USAGE, ber.BIT_STRING)
        if found is None:
            return True
        usage = found.content
        if not usage or usage[0] > _MOST_UNUSED:
            raise Unreadable("its key usage is not well put together")
        return len(usage) > 1 and bool(usage[1] & _KEY_CERT_SIGN)

    def _values_of(self, extension: bytes) -> list[Element] | None:
        found = self._value_of(extension, ber.SEQUENCE)
        return None if found is None else children(found)

    def _value_of(self, extension: bytes, kind: ber.Kind) -> Element | None:
        found = self.extensions.get(extension)
        return None if found is None else only(found.value, kind)


UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""Exceptions of the library for a stranger's certificate, while reading it or later."""

AnyCertificate = x509.Certificate | LooseCertificate


def load_certificate(encoded: bytes) -> AnyCertificate:
    """Reads the outline only; strict DER wherever one can make it so. Raises an exception of UNREADABLE."""
    try:
        return x509.load_der_x509_certificate(encoded)
    except UNREADABLE:
        loose = LooseCertificate(encoded)
    try:
        return x509.load_der_x509_certificate(loose.public_bytes())
    except UNREADABLE:
        return loose


def load_whole(encoded: bytes) -> AnyCertificate:
    """The same with its key and extensions: strict only where the library reads those as well."""
    found = load_certificate(encoded)
    if isinstance(found, x509.Certificate):
        with suppress(*UNREADABLE):
            found.public_key()
            found.extensions  # noqa: B018 - reading them is what may fail
            return found
    loose = loosely(found)
    loose.read_whole()
    return loose


def loosely(certificate: AnyCertificate) -> LooseCertificate:
    """The same certificate, read as OpenSSL reads it."""
    if isinstance(certificate, LooseCertificate):
        return certificate
    return LooseCertificate(certificate.public_bytes(Encoding.DER))


def subject_of(certificate: AnyCertificate) -> bytes:
    """Its subject, which the library reads with rules of its own for what may be in it."""
    with suppress(*UNREADABLE):
        if isinstance(certificate, x509.Certificate):
            return certificate.subject.public_bytes()
    return loosely(certificate).subject


def issuer_of(certificate: AnyCertificate) -> bytes:
    with suppress(*UNREADABLE):
        if isinstance(certificate, x509.Certificate):
            return certificate.issuer.public_bytes()
    return loosely(certificate).issuer


def public_key_of(certificate: AnyCertificate) -> object:
    """Raises ValueError."""
    try:
        return certificate.public_key()
    except UNREADABLE:
        return loosely(certificate).public_key()


def _exactly(found: list[Element], count: int) -> list[Element]:
    if len(found) != count:
        raise Unreadable("values are missing, or there are too many")
    return found


def _algorithm(named: Element) -> list[tuple[ber.Kind, bytes]]:
    return [(each.kind, each.content) for each in children(named)]


def _time(value: Element) -> datetime:
    """In the two forms of RFC 5280, either of them for any year."""
    form = _TIMES.get(value.kind)
    if form is None or not form.fullmatch(value.content):
        raise Unreadable("a time in it is in no form of RFC 5280")
    digits = value.content.decode("ascii")
    if value.kind == ber.UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _extensions_among(rest: list[Element]) -> list[Element]:
    """Read the fields after the key: unique identifiers, which are not used, and extensions."""
    kinds = [each.raw[0] for each in rest]
    if kinds != sorted(set(kinds)) or not {*_UNIQUE_IDENTIFIERS, _EXTENSIONS}.issuperset(kinds):
        raise Unreadable("it has values that a certificate has not")
    if _EXTENSIONS not in kinds:
        return []
    return children(only(rest[-1].content, ber.SEQUENCE))
