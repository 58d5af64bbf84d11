"""Signed answers (CertRep, RFC 8894 section 3.3.2), in SHA-256 and AES.

Promise: each repeats the transaction id and the nonce of its request, has a fresh nonce of its own, and
is signed by our CA. A failure says its failInfo and nothing more.
"""

import hashlib
import secrets

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from shared.security.asn1 import der
from shared.security.authority import Authority
from shared.security.scep import words
from shared.security.scep.envelope import encrypt_for
from shared.security.scep.message import PkiMessage
from shared.security.scep.words import FailInfo, MessageType, PkiStatus

NONCE_SIZE = 16

_DATA = der.oid("1.2.840.113549.1.7.1")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SHA256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"), der.NULL)
_RSA = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
_VERSION = der.integer(1)


def success(
    message: PkiMessage, certificate: bytes, to: x509.Certificate, authority: Authority
) -> bytes:
    """The answer with a certificate (DER), encrypted for the RSA key that signed the request."""
    issued = x509.load_der_x509_certificate(certificate)
    content = encrypt_for(pkcs7.serialize_certificates([issued], Encoding.DER), to)
    return _answer(message, authority, {words.PKI_STATUS: PkiStatus.SUCCESS}, content)


def failure(message: PkiMessage, fail_info: FailInfo, authority: Authority) -> bytes:
    """The answer that there is no certificate; it has no content."""
    said: dict[str, str] = {words.PKI_STATUS: PkiStatus.FAILURE, words.FAIL_INFO: fail_info}
    return _answer(message, authority, said, None)


def _answer(
    message: PkiMessage, authority: Authority, said: dict[str, str], content: bytes | None
) -> bytes:
    """A SignedData (RFC 5652, section 5)."""
    said = {words.MESSAGE_TYPE: MessageType.CERT_REP, **said}
    values = {
        _CONTENT_TYPE: _DATA,
        _MESSAGE_DIGEST: der.octet_string(hashlib.sha256(content or b"").digest()),
        words.TRANSACTION_ID: message.transaction_value,
        words.SENDER_NONCE: der.octet_string(secrets.token_bytes(NONCE_SIZE)),
        words.RECIPIENT_NONCE: der.octet_string(message.sender_nonce),
        **{name: der.printable_string(text) for name, text in said.items()},
    }
    attributes = [der.sequence(der.oid(name), der.set_of(value)) for name, value in values.items()]
    certificate = authority.certificate
    signer_info = der.sequence(
        _VERSION,
        der.sequence(certificate.issuer.public_bytes(), der.integer(certificate.serial_number)),
        _SHA256,
        der.set_of(*attributes, tag=der.CONTEXT_0),
        _RSA,
        der.octet_string(authority.sign(der.set_of(*attributes))),
    )
    inside = () if content is None else (der.element(der.CONTEXT_0, der.octet_string(content)),)
    signed_data = der.sequence(
        _VERSION,
        der.set_of(_SHA256),
        der.sequence(_DATA, *inside),
        der.element(der.CONTEXT_0, certificate.public_bytes(Encoding.DER)),
        der.set_of(signer_info),
    )
    return der.sequence(_SIGNED_DATA, der.element(der.CONTEXT_0, signed_data))
