"""Certificates as CAs of the field write them, which are not strict DER; and what OpenSSL says of them.

Promise: every signature is good over the very bytes that are written.
"""

import base64
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.security.asn1 import der
from tests.support.harness.identities import rsa_key
from tests.support.harness.strangers import (
    IS_AUTHORITY,
    CurveKey,
    SigningKey,
    Stranger,
    certificate,
    name,
)

Form = Callable[[bytes], bytes]
"""What is made of the content of a sequence."""

FALSE, TRUE, ALSO_TRUE = (der.element(0x01, bytes([value])) for value in (0, 0xFF, 1))
VALIDITY = der.sequence(der.element(0x17, b"250101000000Z"), der.element(0x17, b"480101000000Z"))
CONSTRAINTS, KEY_USAGE, CLIENT_USAGE = "2.5.29.19", "2.5.29.15", "2.5.29.37"
CLIENT_AUTH = der.sequence(der.oid("1.3.6.1.5.5.7.3.2"))


def extension(dotted: str, value: bytes, critical: bytes = b"") -> bytes:
    return der.sequence(der.oid(dotted), critical, der.octet_string(value))


FOR_CLIENTS = extension(CLIENT_USAGE, CLIENT_AUTH)


def long_form(content: bytes) -> bytes:
    """A sequence with a longer length than DER allows."""
    return b"\x30\x84" + len(content).to_bytes(4, "big") + content


def indefinite(content: bytes) -> bytes:
    return b"\x30\x80" + content + b"\0\0"


@dataclass
class RsaKey:
    """An ordinary RSA key."""

    algorithm: bytes = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    key: rsa.RSAPrivateKey = field(default_factory=rsa_key)

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message, padding.PKCS1v15(), self.digest)


@dataclass(frozen=True)
class Odd:
    """What is odd about a certificate; the defaults make an ordinary one."""

    version: bytes = der.element(der.CONTEXT_0, der.integer(2))
    serial: bytes = der.integer(77)
    validity: bytes = VALIDITY
    issuer: bytes | None = None
    subject: bytes = name("device")
    public: bytes | None = None
    unique: bytes = b""
    extensions: Sequence[bytes] = (FOR_CLIENTS,)
    in_sequence: Form = der.sequence
    signed_as: Form = der.sequence
    outer: Form = der.sequence
    named: bytes | None = None
    unused_bits: int = 0
    key: SigningKey = field(default_factory=CurveKey)


@dataclass(frozen=True)
class OddAuthority:
    """A CA whose certificate is strict DER, and whose key signs anything."""

    key: SigningKey = field(default_factory=RsaKey)
    common_name: str = "Odd CA"

    @property
    def name(self) -> bytes:
        return name(self.common_name)

    def certificate(self) -> x509.Certificate:
        made = certificate(self.name, self.name, self.key, self.key, IS_AUTHORITY)
        return x509.load_der_x509_certificate(made.der)

    def issue(self, odd: Odd) -> Stranger:
        issuer = odd.issuer or self.name
        fields = (
            odd.version,
            odd.serial,
            self.key.algorithm,
            issuer,
            odd.validity,
            odd.subject,
            odd.public or odd.key.public,
            odd.unique,
        )
        extensions = ()
        if odd.extensions is not None and odd.version:
            extensions = (der.element(0xA3, odd.in_sequence(b"".join(odd.extensions))),)
        signed = odd.signed_as(b"".join((*fields, *extensions)))
        signature = der.element(0x03, bytes([odd.unused_bits]), self.key.sign(signed))
        whole = odd.outer(signed + (odd.named or self.key.algorithm) + signature)
        serial = int.from_bytes(odd.serial[2:], "big", signed=True)
        return Stranger(whole, odd.key, issuer, serial)


def openssl_takes(
    folder: Path, trusted: x509.Certificate, encoded: bytes, moment: datetime
) -> bool:
    """Whether OpenSSL takes it for a client's certificate of that CA."""
    (folder / "ca.pem").write_bytes(trusted.public_bytes(Encoding.PEM))
    body = base64.encodebytes(encoded).decode()
    (folder / "leaf.pem").write_text(
        f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    )
    command = ["openssl", "verify", "-CAfile", "ca.pem", "-purpose", "sslclient"]
    command += ["-attime", str(int(moment.timestamp())), "leaf.pem"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=60)
    return done.returncode == 0
