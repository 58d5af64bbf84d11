"""Keys and certificates that no device has: what somebody sends who wants our arithmetic to be dear.

Promise: every signature is good, so that whoever checks one pays its full price.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from asn1crypto import keys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.security.asn1 import der

_SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")
_RSA_SHA256 = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
_ECDSA_SHA256 = der.sequence(der.oid("1.2.840.10045.4.3.2"))
_VALIDITY = der.sequence(der.element(0x17, b"200101000000Z"), der.element(0x17, b"480101000000Z"))
_serials = count(5000)


class SigningKey(Protocol):
    """Signs certificates; `algorithm` is how a certificate names that."""

    algorithm: bytes

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo (DER)."""

    def sign(self, message: bytes) -> bytes: ...


@dataclass
class OddRsa:
    """An RSA key of several primes, with any exponent."""

    primes: list[int] = field(repr=False)
    exponent: int
    algorithm: bytes = _RSA_SHA256

    @classmethod
    def make(cls, bits: int, exponent_bits: int) -> "OddRsa":
        """Of about so many bits: small primes are made quickly and sign quickly."""
        size = 512 if bits <= 4096 else 1024
        primes: list[int] = []
        while len(primes) < bits // size:
            pair = rsa.generate_private_key(65537, size * 2).private_numbers()
            primes += [pair.p, pair.q]
        order = math.prod(p - 1 for p in primes)
        while True:
            exponent = secrets.randbits(exponent_bits) | 1 | 1 << (exponent_bits - 1)
            if math.gcd(exponent, order) == 1:
                return cls(primes, exponent)

    @property
    def modulus(self) -> int:
        return math.prod(self.primes)

    @property
    def public(self) -> bytes:
        numbers = {"modulus": self.modulus, "public_exponent": self.exponent}
        info = keys.PublicKeyInfo.wrap(keys.RSAPublicKey(numbers), "rsa")
        return bytes(info.dump())

    def sign(self, message: bytes) -> bytes:
        size = (self.modulus.bit_length() + 7) // 8
        tail = b"\0" + _SHA256_PREFIX + hashlib.sha256(message).digest()
        padded = int.from_bytes(b"\0\1" + b"\xff" * (size - 2 - len(tail)) + tail, "big")
        return self._root(padded).to_bytes(size, "big")

    def _root(self, number: int) -> int:
        """By the Chinese remainder theorem, prime after prime."""
        found, product = 0, 1
        for prime in self.primes:
            part = pow(number % prime, pow(self.exponent, -1, prime - 1), prime)
            found += product * ((part - found) * pow(product, -1, prime) % prime)
            product *= prime
        return found


@dataclass
class CurveKey:
    """An ordinary EC key."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    algorithm: bytes = _ECDSA_SHA256

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True)
class Stranger:
    """A certificate (DER) with its key, as `Mdm-Signature` needs them."""

    der: bytes
    key: SigningKey
    issuer: bytes
    serial: int

    def cms(
        self,
        body: bytes,
        *others: bytes,
        content: bytes | None = None,
        by_key: bytes | None = None,
    ) -> bytes:
        """A CMS of this signer without attributes; detached, unless there is content. `by_key`: it names
        its certificate by this key identifier."""
        serial = self.serial.to_bytes(self.serial.bit_length() // 8 + 1, "big", signed=True)
        named = der.sequence(self.issuer, der.element(der.INTEGER, serial))
        sha256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
        signer = der.sequence(
            der.integer(1),
            named if by_key is None else der.element(0x80, by_key),
            sha256,
            self.key.algorithm,
            der.octet_string(self.key.sign(body)),
        )
        inside = () if content is None else (der.element(der.CONTEXT_0, der.octet_string(content)),)
        signed = der.sequence(
            der.integer(1),
            der.element(der.SET, sha256),
            der.sequence(der.oid("1.2.840.113549.1.7.1"), *inside),
            der.element(der.CONTEXT_0, self.der, *others),
            der.element(der.SET, signer),
        )
        signed_data = der.oid("1.2.840.113549.1.7.2")
        return der.sequence(signed_data, der.element(der.CONTEXT_0, signed))


def name(common_name: str) -> bytes:
    """A name (DER) of one part."""
    kind = der.sequence(der.oid("2.5.4.3"), der.element(0x0C, common_name.encode()))
    return der.sequence(der.element(der.SET, kind))


def certificate(
    subject: bytes, issuer: bytes, key: SigningKey, by: SigningKey, *extensions: bytes
) -> Stranger:
    """A certificate of version 3 that `by` signs; names are given in DER."""
    serial = next(_serials)
    fields = [
        der.element(der.CONTEXT_0, der.integer(2)),
        der.integer(serial),
        by.algorithm,
        issuer,
        _VALIDITY,
        subject,
        key.public,
    ]
    if extensions:
        fields.append(der.element(0xA3, der.sequence(*extensions)))
    signed = der.sequence(*fields)
    signature = der.element(0x03, b"\0", by.sign(signed))
    return Stranger(der.sequence(signed, by.algorithm, signature), key, issuer, serial)


def extension(dotted: str, value: bytes) -> bytes:
    """An extension that is not critical."""
    return der.sequence(der.oid(dotted), der.octet_string(value))


IS_AUTHORITY = extension("2.5.29.19", der.sequence(der.element(0x01, b"\xff")))


def chain_of(key: SigningKey, common_name: str, intermediates: int) -> tuple[Stranger, list[bytes]]:
    """A leaf on P-256, and so many certificates that all have one name, one key and each other as issuer."""
    issuer = name(common_name)
    leaf = certificate(name("device"), issuer, CurveKey(), key)
    others = [certificate(issuer, issuer, key, key, IS_AUTHORITY).der for _ in range(intermediates)]
    return leaf, others
