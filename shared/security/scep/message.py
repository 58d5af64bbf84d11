"""The outside of a SCEP request: a CMS SignedData, signed by the key that asks (RFC 8894, 3.1).

Promise: `read_pki_message` trusts nothing, and gives what an answer must repeat even to a refused request;
`signer_certificate` says whose key signed exactly this message. DER, and BER with indefinite lengths.
"""

from dataclasses import dataclass, field
from typing import Any

from asn1crypto import core

from shared.domain.errors import BadRequest
from shared.security.scep import words
from shared.security.scep.words import MessageType, ScepRefused, allowed_digests
from shared.security.signature.cms import is_bulky, only_signer, signed_data_of
from shared.security.signature.embedded_certificates import UnusualKey
from shared.security.signature.signers import verify_cms
from shared.telemetry.metrics import ScepRefusal

LARGEST = 32 * 1024
"""Bytes of a message; real ones have 2 to 5 thousand."""
LONGEST_TRANSACTION_ID = 255
LONGEST_NONCE = 64

_STRINGS = (core.PrintableString, core.UTF8String, core.IA5String, core.TeletexString)


@dataclass(frozen=True, slots=True)
class PkiMessage:
    """A message whose signature is not checked yet. `transaction_value` is the transaction id as the client
    encoded it."""

    kind: str
    transaction_id: str
    transaction_value: bytes
    sender_nonce: bytes
    digest: str
    content: bytes = field(repr=False)
    encoded: bytes = field(repr=False)


def read_pki_message(encoded: bytes) -> PkiMessage:
    """Raises BadRequest where it is no SCEP message at all, so that no answer could name it."""
    if encoded[:1] != b"\x30" or len(encoded) > LARGEST or is_bulky(encoded):
        raise BadRequest("message: expected a SCEP message (CMS SignedData)")
    try:
        return _read(encoded)
    except BadRequest:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside
        raise BadRequest("message: cannot be read: it is damaged, or of an unknown form") from None


def signer_certificate(message: PkiMessage, *, allow_legacy: bool) -> bytes:
    """The certificate (DER) whose key signed this message; raises ScepRefused."""
    if message.digest not in allowed_digests(allow_legacy=allow_legacy):
        raise ScepRefused(ScepRefusal.ALGORITHM, "the digest algorithm is not allowed")
    try:
        return verify_cms(message.encoded, message.content).certificate
    except UnusualKey as exc:
        refusal = ScepRefusal.REQUEST if exc.is_rsa else ScepRefusal.ALGORITHM
        raise ScepRefused(refusal, str(exc)) from None
    except BadRequest as exc:
        raise ScepRefused(ScepRefusal.MESSAGE, str(exc)) from None


def _read(encoded: bytes) -> PkiMessage:
    signed_data = signed_data_of(encoded, "message")
    signer = only_signer(signed_data, "message")
    attributes = signer["signed_attrs"]
    if isinstance(attributes, core.Void):
        raise BadRequest("message: has no signed attributes")
    transaction = _one(attributes, words.TRANSACTION_ID, _STRINGS, LONGEST_TRANSACTION_ID)
    nonce = _one(attributes, words.SENDER_NONCE, core.OctetString, LONGEST_NONCE)
    return PkiMessage(
        kind=str(_one(attributes, words.MESSAGE_TYPE, _STRINGS, 2).native),
        transaction_id=str(transaction.native),
        transaction_value=transaction.dump(force=True),
        sender_nonce=bytes(nonce.native),
        digest=str(signer["digest_algorithm"]["algorithm"].native),
        content=signed_data["encap_content_info"]["content"].native or b"",
        encoded=encoded,
    )


def _one(attributes: Any, name: str, kinds: Any, longest: int) -> Any:
    values = [
        value.parsed
        for attribute in attributes
        if attribute["type"].dotted == name
        for value in attribute["values"]
    ]
    if len(values) != 1 or not isinstance(values[0], kinds):
        raise BadRequest(f"message: expected one attribute {name}")
    if not 1 <= len(values[0].native) <= longest:
        raise BadRequest(f"message: attribute {name} is empty or too long")
    return values[0]


def kind_of(message: PkiMessage) -> MessageType:
    """Raises ScepRefused for a type that RFC 8894 does not know."""
    try:
        return MessageType(message.kind)
    except ValueError:
        raise ScepRefused(ScepRefusal.REQUEST, "unknown message type") from None
