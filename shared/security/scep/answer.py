"""Signed answers (CertRep, RFC 8894 section 3.3.2), in SHA-256 and AES.

Promise: each repeats the transaction id and the nonce of its request, has a fresh nonce of its own, and
is signed by our CA. A failure says its failInfo and nothing more.
"""

import hashlib
import secrets
from typing import Any, Protocol

from asn1crypto import cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shared.security.scep.envelope import issuer_and_serial, seal
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


class Signer(Protocol):
    """Who answers: our CA."""

    @property
    def certificate(self) -> x509.Certificate: ...

    def sign(self, message: bytes) -> bytes:
        """RSA PKCS #1 v1.5 with SHA-256."""


def success(message: PkiMessage, certificate: bytes, to: x509.Certificate, signer: Signer) -> bytes:
    """The answer with a certificate (DER), sealed for the RSA key that signed the request."""
    content = seal(_certificates_only(certificate), to)
    return _signed(message, PkiStatus.SUCCESS, {}, content, signer)


def failure(message: PkiMessage, fail_info: FailInfo, signer: Signer) -> bytes:
    """The answer that there is no certificate."""
    more = {FAIL_INFO: core.PrintableString(fail_info.value)}
    return _signed(message, PkiStatus.FAILURE, more, None, signer)


def _certificates_only(certificate: bytes) -> bytes:
    """A degenerate SignedData (RFC 5652, 5.1 with no signers)."""
    signed = cms.SignedData(
        {
            "version": "v1",
            "digest_algorithms": [],
            "encap_content_info": {"content_type": "data"},
            "certificates": [_choice(certificate)],
            "signer_infos": [],
        }
    )
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump())


def _choice(certificate: bytes) -> cms.CertificateChoices:
    value = asn1_x509.Certificate.load(certificate)
    return cms.CertificateChoices(name="certificate", value=value)


def _signed(
    message: PkiMessage,
    status: PkiStatus,
    more: dict[str, Any],
    content: bytes | None,
    signer: Signer,
) -> bytes:
    attributes = cms.CMSAttributes(
        [
            cms.CMSAttribute({"type": "content_type", "values": ["data"]}),
            cms.CMSAttribute(
                {"type": "message_digest", "values": [hashlib.sha256(content or b"").digest()]}
            ),
            *(_attribute(*pair) for pair in _scep_attributes(message, status, more).items()),
        ]
    )
    signature = signer.sign(attributes.dump())
    signer_info = cms.SignerInfo(
        {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                name="issuer_and_serial_number", value=issuer_and_serial(signer.certificate)
            ),
            "digest_algorithm": {"algorithm": "sha256"},
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "rsassa_pkcs1v15"},
            "signature": signature,
        }
    )
    encapsulated: dict[str, Any] = {"content_type": "data"}
    if content is not None:
        encapsulated["content"] = content
    signed = cms.SignedData(
        {
            "version": "v1",
            "digest_algorithms": [{"algorithm": "sha256"}],
            "encap_content_info": encapsulated,
            "certificates": [_choice(signer.certificate.public_bytes(Encoding.DER))],
            "signer_infos": [signer_info],
        }
    )
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump())


def _scep_attributes(
    message: PkiMessage, status: PkiStatus, more: dict[str, Any]
) -> dict[str, Any]:
    return {
        MESSAGE_TYPE: core.PrintableString(MessageType.CERT_REP.value),
        PKI_STATUS: core.PrintableString(status.value),
        TRANSACTION_ID: core.Any.load(message.transaction_value),
        SENDER_NONCE: core.OctetString(secrets.token_bytes(NONCE_SIZE)),
        RECIPIENT_NONCE: core.OctetString(message.sender_nonce),
        **more,
    }


def _attribute(name: str, value: Any) -> cms.CMSAttribute:
    return cms.CMSAttribute({"type": name, "values": [value]})
