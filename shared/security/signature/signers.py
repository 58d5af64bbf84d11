"""Signers of a CMS: of a device message (Mdm-Signature, detached), and of content inside.

Promise: a returned Signer proves that exactly this content was signed with the key of that certificate, and
nothing about the certificate itself: its judges are `shared.security.identity` (ours) and
`shared.security.apple_device` (Apple's). Anything else is a BadRequest whose text holds no secret.

Accepted is what real devices and simulators send: DER, and BER with indefinite lengths; with signed
attributes or without; RSA (PKCS #1 v1.5 and PSS) and ECDSA; SHA-1 and SHA-2. One signer, whose
certificate is inside.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.errors import BadRequest
from shared.security.asn1.ber import Unreadable
from shared.security.certificates.public_keys import SignatureCheck, signature_check
from shared.security.signature.cms import content_of, is_bulky
from shared.security.signature.cms_forms import Attributes, NotAtOnce, read_signed_data
from shared.security.signature.embedded_certificates import (
    EmbeddedCertificate,
    embedded,
    remember,
    signer_among,
)

MAX_HEADER = 64 * 1024
MAX_CMS = MAX_HEADER * 3 // 4
"""Bytes of a CMS with its content; its attributes take a few hundred."""

_SIGNATURE_HEADERS = {b"\x04\x82" + n.to_bytes(2, "big"): n for n in (256, 384, 512)}
_MESSAGE_DIGEST = bytes.fromhex("06092a864886f70d010904")
_MAX_REMEMBERED = 4 * 1024
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer: the certificate (DER), and what else was embedded, for building its chain."""

    certificate: bytes
    others: tuple[bytes, ...] = ()
    signed_at: datetime | None = None
    """By the signer's clock, where the signature says so once."""


class Signed(NamedTuple):
    content: bytes
    signer: Signer


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A CMS that was read: all that is left to do is to compare and to verify."""

    signer: EmbeddedCertificate
    others: tuple[bytes, ...]
    digest: str
    verify: SignatureCheck
    signature: bytes
    content: bytes | None
    content_type: str
    attributes: Callable[[], Attributes] | None


# What was read is remembered once a signature was found good, so that a device costs little for years
# and what strangers send costs no memory. Nothing large is remembered.
_envelopes: BoundedCache[bytes, _Envelope] = BoundedCache(_REMEMBERED)


def signer_of(header: str | bytes | None, body: bytes, *, at_once: bool = False) -> Signer:
    """The signer of `body`, by the value of the Mdm-Signature header. `at_once`: raises NotAtOnce for one in
    an unusual form that may take more than some milliseconds to read."""
    return verify_cms(_decode(header), body, at_once=at_once)


def verify_cms(encoded: bytes, body: bytes, *, at_once: bool = False) -> Signer:
    """The same by a CMS (DER or BER) that is not bulky."""
    try:
        rest, signature = _split(encoded)
        envelope = (_envelopes.get(rest) if signature else None) or _read(rest, at_once=at_once)
        attributes = None if envelope.attributes is None else envelope.attributes()
        _check(envelope, attributes, signature or envelope.signature, body)
        if signature:
            _envelopes.put(rest, envelope)
        else:
            remember(envelope.signer)
        signed_at = _signing_time(attributes)
        return Signer(envelope.signer.der, envelope.others, signed_at)
    except (BadRequest, NotAtOnce):
        raise
    except InvalidSignature:
        raise BadRequest("Mdm-Signature: does not match the body") from None
    except UnsupportedAlgorithm:
        raise BadRequest("Mdm-Signature: unsupported algorithm") from None
    except Unreadable as exc:
        raise BadRequest(f"Mdm-Signature: a certificate cannot be read: {exc}") from None
    except Exception:  # noqa: BLE001 - bytes from outside
        raise BadRequest(
            "Mdm-Signature: cannot be read: it is damaged, or of an unknown form"
        ) from None


def open_signed(encoded: bytes) -> Signed:
    """Verify a CMS (DER or BER) that holds its content: a device's statement, or a signed profile."""
    if len(encoded) > MAX_CMS or is_bulky(encoded):
        raise BadRequest("CMS: too long")
    content = content_of(encoded)
    try:
        return Signed(content, verify_cms(encoded, content))
    except BadRequest as exc:
        why = str(exc).replace("Mdm-Signature", "CMS").replace("body", "content")
        raise BadRequest(why) from None


def claimed_signer(header: str) -> bytes:
    """The certificate (DER) that a signature claims as its signer's, unproven. Raises BadRequest, also where
    it cannot be read at once."""
    try:
        return _read(_decode(header), at_once=True).signer.der
    except Exception as exc:
        raise BadRequest("Mdm-Signature: cannot be read") from exc


def _decode(header: str | bytes | None) -> bytes:
    if not header:
        raise BadRequest("Mdm-Signature: missing")
    if len(header) > MAX_HEADER:
        raise BadRequest("Mdm-Signature: too long")
    try:
        envelope = base64.b64decode(header.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("Mdm-Signature: not base64") from None
    # 0x30: asn1crypto would go into other types first and be slow to say no.
    if envelope[:1] != b"\x30":
        raise BadRequest("Mdm-Signature: not a CMS message")
    if is_bulky(envelope):
        raise BadRequest("Mdm-Signature: too much besides content and certificates")
    return envelope


def _split(encoded: bytes) -> tuple[bytes, bytes]:
    """An envelope with zeros in the place of its signature, and the signature; empty if unsure.

    Messages of a device without signed attributes differ in nothing but the RSA signature at the end, so the
    rest needs to be read only once. A wrong split is safe: these bytes prove the body under the signer's key,
    or not."""
    if len(encoded) <= _MAX_REMEMBERED and _MESSAGE_DIGEST not in encoded:
        for tail in (0, 6):  # three indefinite lengths end with two zeros each
            end = len(encoded) - tail
            for header, size in _SIGNATURE_HEADERS.items():
                if encoded[end - size - 4 : end - size] == header:
                    rest = encoded[: end - size] + bytes(size) + encoded[end:]
                    return rest, encoded[end - size : end]
    return encoded, b""


def _check(
    envelope: _Envelope, attributes: Attributes | None, signature: bytes, body: bytes
) -> None:
    # Detached means none inside. Streaming signers (openssl's -indef) leave a copy: harmless.
    if envelope.content and envelope.content != body:
        raise BadRequest("Mdm-Signature: holds another content than the body")
    if attributes is None:
        envelope.verify(signature, body)
        return
    # The signature covers the attributes; two of them tie the attributes to the body.
    if attributes.digests != [hashlib.new(envelope.digest, body).digest()]:
        raise BadRequest("Mdm-Signature: the digest is not that of the body")
    if attributes.types != [envelope.content_type]:
        raise BadRequest("Mdm-Signature: the content type is not the one that was signed")
    if attributes.received is not None:
        with suppress(InvalidSignature):
            envelope.verify(signature, attributes.received)  # as openssl does
            return
    in_order = attributes.in_order()
    if in_order == attributes.received:
        raise InvalidSignature
    envelope.verify(signature, in_order)


def _signing_time(attributes: Attributes | None) -> datetime | None:
    """Read after the signature was found good; an unreadable time is none."""
    try:
        times = [] if attributes is None else attributes.times()
    except ValueError:
        return None
    is_clear = len(times) == 1 and isinstance(times[0], datetime) and times[0].tzinfo is not None
    return times[0].astimezone(UTC) if is_clear else None


def _read(encoded: bytes, *, at_once: bool) -> _Envelope:
    data = read_signed_data(encoded, at_once=at_once)
    certificates = embedded(data.certificates)
    signer = signer_among(certificates, data.signer)
    return _Envelope(
        signer=signer,
        others=tuple(c.der for c in certificates if c is not signer),
        digest=data.digest,
        verify=signature_check(signer.public_key, data.algorithm, data.digest),
        signature=data.signature,
        content=data.content,
        content_type=data.content_type,
        attributes=data.attributes,
    )
