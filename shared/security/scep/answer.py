"""Signed answers (CertRep, RFC 8894 section 3.3.2), in SHA-256 and AES.

Promise: each repeats the transaction id and the nonce of its request, has a fresh nonce of its own, and
is signed by our CA. A failure says its failInfo and nothing more.
"""

import hashlib
import secrets
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from shared.security.scep import der
from shared.security.scep.envelope import encrypt_for
from shared.security.scep.message import PkiMessage
from shared.security.scep.words import (
    FAIL_INFO,
    MESSAGE_TYPE,
    PKI_STATUS,
    RECIPIENT_NONCE,
    SENDER_NONCE,
    TRANSACTION_ID,
    FailInfo,
    MessageType,
    PkiStatus,
)

NONCE_SIZE = 16

_DATA = der.oid("1.2.840.113549.1.7.1")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_CONTENT_TYPE = der.oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = der.oid("1.2.840.113549.1.9.4")
_SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL)
_RSA = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
_VERSION = der.integer(1)


class Signer(Protocol):
    """The signer of answers: our CA."""

    @property
    def certificate(self) -> x509.Certificate: ...

    def sign(self, message: bytes) -> bytes:
        """RSA PKCS #1 v1.5 with SHA-256."""


def success(message: PkiMessage, certificate: bytes, to: x509.Certificate, signer: Signer) -> bytes:
    """The answer with a certificate (DER), encrypted for the RSA key that signed the request."""
    issued = x509.load_der_x509_certificate(certificate)
    content = encrypt_for(pkcs7.serialize_certificates([issued], Encoding.DER), to)
    return _signed(_attributes(message, PkiStatus.SUCCESS), content, signer)


def failure(message: PkiMessage, fail_info: FailInfo, signer: Signer) -> bytes:
    """The answer that there is no certificate."""
    said = _attribute(der.oid(FAIL_INFO), der.printable(fail_info.value))
    return _signed([*_attributes(message, PkiStatus.FAILURE), said], None, signer)


def _attributes(message: PkiMessage, status: PkiStatus) -> list[bytes]:
    values = {
        MESSAGE_TYPE: der.printable(MessageType.CERT_REP.value),
        PKI_STATUS: der.printable(status.value),
        TRANSACTION_ID: message.transaction_value,
        SENDER_NONCE: der.octets(secrets.token_bytes(NONCE_SIZE)),
        RECIPIENT_NONCE: der.octets(message.sender_nonce),
    }
    return [_attribute(der.oid(name), value) for name, value in values.items()]


def _attribute(name: bytes, value: bytes) -> bytes:
    return der.sequence(name, der.set_of(value))


def _signed(said: list[bytes], content: bytes | None, signer: Signer) -> bytes:
    """A SignedData (RFC 5652, section 5) with these attributes; a failure has no content."""
    digest = hashlib.sha256(content or b"").digest()
    attributes = [
        _attribute(_CONTENT_TYPE, _DATA),
        _attribute(_MESSAGE_DIGEST, der.octets(digest)),
        *said,
    ]
    certificate = signer.certificate
    signer_info = der.sequence(
        _VERSION,
        der.sequence(certificate.issuer.public_bytes(), der.integer(certificate.serial_number)),
        _SHA256,
        der.set_of(*attributes, tag=der.CONTEXT_0),
        _RSA,
        der.octets(signer.sign(der.set_of(*attributes))),
    )
    encapsulated = () if content is None else (der.element(der.CONTEXT_0, der.octets(content)),)
    signed_data = der.sequence(
        _VERSION,
        der.set_of(_SHA256),
        der.sequence(_DATA, *encapsulated),
        der.element(der.CONTEXT_0, certificate.public_bytes(Encoding.DER)),
        der.set_of(signer_info),
    )
    return der.sequence(_SIGNED_DATA, der.element(der.CONTEXT_0, signed_data))
