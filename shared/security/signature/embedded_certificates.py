"""The certificates inside a CMS, and the one that signed it.

Promise: only the signer's is read beyond its outline, and its key is one that devices have. Remembered are
signers whose signature was good, and none that is large.
"""

from collections.abc import Sequence
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import rsa

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.errors import BadRequest
from shared.security.asn1.der import SEQUENCE
from shared.security.certificates.lenient import (
    issuer_of,
    load_certificate,
    loosely,
    public_key_of,
)
from shared.security.certificates.public_keys import LARGEST_CERTIFICATE, objection
from shared.security.signature.cms_forms import SignerId

LONGEST_KEY = 64
"""Bytes of a key identifier; ordinary ones have 20 or 32."""
_KEY_IDENTIFIER = bytes.fromhex("0603551d0e")
_CRITICAL = bytes.fromhex("0101ff")
REMEMBERED = 4096
LARGEST_REMEMBERED = 4 * 1024


class UnusualKey(BadRequest):
    """The signer's key is none that a device has."""

    def __init__(self, why: str, key: object) -> None:
        super().__init__(f"Mdm-Signature: the signer has {why}")
        self.is_rsa = isinstance(key, rsa.RSAPublicKey)


class EmbeddedCertificate:
    """A certificate of a CMS; each part is read at its first use, and kept."""

    def __init__(self, der: bytes) -> None:
        self.der = der
        self.certificate = load_certificate(der)

    @cached_property
    def issuer(self) -> bytes:
        return issuer_of(self.certificate)

    @cached_property
    def key_identifier(self) -> bytes | None:
        return loosely(self.certificate).key_identifier

    @cached_property
    def public_key(self) -> object:
        """Raises UnusualKey."""
        key = public_key_of(self.certificate)
        if (why := objection(key)) is not None:
            raise UnusualKey(why, key)
        return key


_signers: BoundedCache[bytes, EmbeddedCertificate] = BoundedCache(REMEMBERED)


def embedded(encoded: Sequence[bytes]) -> list[EmbeddedCertificate]:
    """The certificates among the encoded ones of a SignedData, which may be of other kinds too."""
    return [_signers.get(der) or EmbeddedCertificate(der) for der in encoded if der[0] == SEQUENCE]


def signer_among(inside: Sequence[EmbeddedCertificate], named: SignerId) -> EmbeddedCertificate:
    """The one that is named; raises BadRequest."""
    certificates = [each for each in inside if len(each.der) <= LARGEST_CERTIFICATE]
    if named.key is None:
        found = [c for c in certificates if c.certificate.serial_number == named.serial]
        found = [c for c in found if c.issuer == named.issuer]
    else:
        found = _of_key(certificates, named.key)
    if len({c.der for c in found}) != 1:
        raise BadRequest("Mdm-Signature: the signer's certificate is not inside")
    return found[0]


def _of_key(certificates: Sequence[EmbeddedCertificate], key: bytes) -> list[EmbeddedCertificate]:
    """The certificates that may have this key identifier, by their bytes alone: reading the extensions of ten
    would be dear. A single one is read to make sure; no honest message has two such."""
    inside = bytes((0x04, len(key) + 2, 0x04, len(key))) + key if len(key) <= LONGEST_KEY else b""
    extensions = [_KEY_IDENTIFIER + inside, _KEY_IDENTIFIER + _CRITICAL + inside]
    found = [c for c in certificates if inside and any(each in c.der for each in extensions)]
    return found if len(found) != 1 else [c for c in found if c.key_identifier == key]


def remember(signer: EmbeddedCertificate) -> None:
    """For good signatures only, so that strangers cost no memory."""
    if len(signer.der) <= LARGEST_REMEMBERED:
        _signers.put(signer.der, signer)
