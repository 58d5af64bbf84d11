"""The outside of a SCEP request: a CMS SignedData, signed by the key that asks (RFC 8894, 3.1).

Promise: `read` gives what an answer must repeat even if the request is refused, and trusts nothing;
`signer_certificate` says whose key signed exactly this message. DER, and BER with indefinite lengths.
"""

import base64
from dataclasses import dataclass, field
from typing import Any

from asn1crypto import cms, core

from shared.domain.errors import BadRequest
from shared.security.scep.words import (
    MESSAGE_TYPE,
    SENDER_NONCE,
    TRANSACTION_ID,
    MessageType,
    ScepRefused,
)
from shared.security.signature.detached import signer_of
from shared.security.signature.embedded_certificates import UnusualKey
from shared.security.signature.lean_cms import is_bulky
from shared.telemetry.metrics import ScepRefusal

LARGEST = 32 * 1024
"""Bytes of a message; real ones have 2 to 5 thousand."""
LONGEST_TRANSACTION_ID = 255
LONGEST_NONCE = 64

_STRINGS = (core.PrintableString, core.UTF8String, core.IA5String, core.TeletexString)
_MODERN_DIGESTS = frozenset({"sha256", "sha384", "sha512"})
_LEGACY_DIGESTS = frozenset({"sha1"})


@dataclass(frozen=True, slots=True)
class PkiMessage:
    """A message whose signature nobody has checked yet. `transaction_value` is the transaction id as
    the client encoded it."""

    kind: str
    transaction_id: str
    transaction_value: bytes
    sender_nonce: bytes
    digest: str
    content: bytes = field(repr=False)
    encoded: bytes = field(repr=False)


def read(encoded: bytes) -> PkiMessage:
    """Raises BadRequest where it is no SCEP message at all, so that no answer could name it."""
    if encoded[:1] != b"\x30" or len(encoded) > LARGEST or is_bulky(encoded):
        raise BadRequest("message: expected a SCEP message (CMS SignedData)")
    try:
        return _read(encoded)
    except BadRequest:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside: whatever the parser trips over
        raise BadRequest("message: cannot be read: it is damaged, or of an unknown form") from None


def signer_certificate(message: PkiMessage, *, allow_legacy: bool) -> bytes:
    """The certificate (DER) whose key signed this message; raises ScepRefused."""
    allowed = _MODERN_DIGESTS | _LEGACY_DIGESTS if allow_legacy else _MODERN_DIGESTS
    if message.digest not in allowed:
        raise ScepRefused(ScepRefusal.ALGORITHM, "the digest algorithm is not allowed")
    try:
        return signer_of(base64.b64encode(message.encoded), message.content).certificate
    except UnusualKey as exc:
        refusal = ScepRefusal.REQUEST if exc.is_rsa else ScepRefusal.ALGORITHM
        raise ScepRefused(refusal, str(exc)) from None
    except BadRequest as exc:
        raise ScepRefused(ScepRefusal.MESSAGE, str(exc)) from None


def _read(encoded: bytes) -> PkiMessage:
    info = cms.ContentInfo.load(encoded)
    if info["content_type"].native != "signed_data":
        raise BadRequest("message: not signed data")
    signed_data = info["content"]
    if len(signed_data["signer_infos"]) != 1:
        raise BadRequest("message: expected exactly one signer")
    signer = signed_data["signer_infos"][0]
    attributes = _attributes(signer["signed_attrs"])
    transaction = _one(attributes, TRANSACTION_ID, _STRINGS, LONGEST_TRANSACTION_ID)
    return PkiMessage(
        kind=str(_one(attributes, MESSAGE_TYPE, _STRINGS, 2).native),
        transaction_id=str(transaction.native),
        transaction_value=transaction.dump(force=True),
        sender_nonce=bytes(_one(attributes, SENDER_NONCE, core.OctetString, LONGEST_NONCE).native),
        digest=str(signer["digest_algorithm"]["algorithm"].native),
        content=signed_data["encap_content_info"]["content"].native or b"",
        encoded=encoded,
    )


def _attributes(signed: Any) -> dict[str, list[Any]]:
    """OID -> values, of the attributes that SCEP defines; one that comes twice has more values."""
    if isinstance(signed, core.Void):
        raise BadRequest("message: has no signed attributes")
    found: dict[str, list[Any]] = {MESSAGE_TYPE: [], TRANSACTION_ID: [], SENDER_NONCE: []}
    for attribute in signed:
        name = attribute["type"].dotted
        if name in found:
            found[name].extend(value.parsed for value in attribute["values"])
    return found


def _one(attributes: dict[str, list[Any]], name: str, kinds: Any, longest: int) -> Any:
    values = attributes[name]
    if len(values) != 1 or not isinstance(values[0], kinds):
        raise BadRequest(f"message: expected one attribute {name}")
    if not 1 <= len(values[0].native) <= longest:
        raise BadRequest(f"message: attribute {name} is empty or too long")
    return values[0]


def kind_of(message: PkiMessage) -> MessageType:
    """Raises ScepRefused where it is of a type that RFC 8894 does not know."""
    try:
        return MessageType(message.kind)
    except ValueError:
        raise ScepRefused(ScepRefusal.REQUEST, "unknown message type") from None
