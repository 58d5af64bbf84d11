"""The signature of a device message: Mdm-Signature, a detached CMS over the exact body.

Promise: whoever gets a Signer back knows that exactly this body was signed with the key of that
certificate. Nothing is said about the certificate itself: `shared.security.identity` judges it.
Everything else is a BadRequest whose text holds no secret.

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
from functools import partial
from typing import Any

from asn1crypto import cms, core
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.errors import BadRequest
from shared.security.lenient.ber import Unreadable
from shared.security.signature.embedded_certificates import (
    EmbeddedCertificate,
    embedded,
    remember,
    signer_among,
)
from shared.security.signature.lean_cms import is_bulky

MAX_HEADER = 64 * 1024
MOST_ATTRIBUTES = 32
"""Signed attributes; devices send three to five, SCEP clients up to nine."""

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),  # noqa: S303 - devices in the field still sign with it
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
# Signature algorithms as asn1crypto names them, and the digest that each fixes (None: it does not).
_RSA_ALGORITHMS: dict[str, str | None] = {
    "rsassa_pkcs1v15": None,
    "sha1_rsa": "sha1",
    "sha256_rsa": "sha256",
    "sha384_rsa": "sha384",
    "sha512_rsa": "sha512",
}
_EC_ALGORITHMS: dict[str, str | None] = {
    "ec_public_key": None,
    "1.2.840.10045.2.1": None,
    "sha1_ecdsa": "sha1",
    "sha256_ecdsa": "sha256",
    "sha384_ecdsa": "sha384",
    "sha512_ecdsa": "sha512",
}

Verify = Callable[[bytes, bytes], object]
"""Checks (signature, message) with one key and one scheme; raises InvalidSignature."""
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


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A CMS that was read: all that is left to do is to compare and to verify."""

    signer: EmbeddedCertificate
    others: tuple[bytes, ...]
    digest: str
    verify: Verify
    signature: bytes
    content: bytes | None
    content_type: str
    attributes: Any


# What was read is remembered once a signature was found good, so that a device costs little for years
# and what strangers send costs no memory. Nothing large is remembered.
_envelopes: BoundedCache[bytes, _Envelope] = BoundedCache(_REMEMBERED)


def verify(header: str | bytes | None, body: bytes) -> bytes:
    """The certificate (DER) that signed `body`, by the value of the Mdm-Signature header."""
    return signer_of(header, body).certificate


def signer_of(header: str | bytes | None, body: bytes) -> Signer:
    """As `verify`, with the other certificates that the signature carries."""
    encoded = _decode(header)
    try:
        rest, signature = _split(encoded)
        envelope = (_envelopes.get(rest) if signature else None) or _read(rest)
        _check(envelope, signature or envelope.signature, body)
        if signature:
            _envelopes.put(rest, envelope)
        else:
            remember(envelope.signer)
        signed_at = _signing_time(envelope.attributes)
        return Signer(envelope.signer.der, envelope.others, signed_at)
    except BadRequest:
        raise
    except InvalidSignature:
        raise BadRequest("Mdm-Signature: does not match the body") from None
    except UnsupportedAlgorithm:
        raise BadRequest("Mdm-Signature: unsupported algorithm") from None
    except Unreadable as exc:
        raise BadRequest(f"Mdm-Signature: a certificate cannot be read: {exc}") from None
    except Exception:  # noqa: BLE001 - bytes from outside: whatever the parser trips over
        raise BadRequest(
            "Mdm-Signature: cannot be read: it is damaged, or of an unknown form"
        ) from None


def claimed_signer(header: str) -> bytes:
    """The certificate (DER) that a signature says is its signer's: nothing is proven. Raises BadRequest."""
    try:
        return _read(_decode(header)).signer.der
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

    What a device sends without signed attributes differs from one message to the next in nothing
    but the RSA signature at its end, so all the rest needs to be read only once. Whether the split
    was right does not matter for safety: these bytes prove the body under the signer's key, or not.
    """
    if len(encoded) <= _MAX_REMEMBERED and _MESSAGE_DIGEST not in encoded:
        for tail in (0, 6):  # three indefinite lengths end with two zeros each
            end = len(encoded) - tail
            for header, size in _SIGNATURE_HEADERS.items():
                if encoded[end - size - 4 : end - size] == header:
                    rest = encoded[: end - size] + bytes(size) + encoded[end:]
                    return rest, encoded[end - size : end]
    return encoded, b""


def _check(envelope: _Envelope, signature: bytes, body: bytes) -> None:
    # Detached means none inside. Streaming signers (openssl's -indef) leave a copy: harmless.
    if envelope.content and envelope.content != body:
        raise BadRequest("Mdm-Signature: holds another content than the body")
    attributes = envelope.attributes
    if attributes is None:
        envelope.verify(signature, body)
        return
    digest = hashlib.new(envelope.digest, body).digest()
    _check_attributes(attributes, digest, envelope.content_type)
    received = attributes.dump()
    if received[1] != 0x80:  # an indefinite length is never what was signed
        with suppress(InvalidSignature):
            envelope.verify(signature, b"\x31" + received[1:])  # in the order received, as openssl
            return
    envelope.verify(signature, attributes.untag().dump(force=True))  # in DER's order


def _read(encoded: bytes) -> _Envelope:
    content_info = cms.ContentInfo.load(encoded)
    if content_info["content_type"].native != "signed_data":
        raise BadRequest("Mdm-Signature: not signed data")
    signed_data = content_info["content"]
    if len(signed_data["signer_infos"]) != 1:
        raise BadRequest("Mdm-Signature: expected exactly one signer")
    signer_info = signed_data["signer_infos"][0]
    certificates = embedded(signed_data)
    signer = signer_among(certificates, signer_info["sid"])
    digest = signer_info["digest_algorithm"]["algorithm"].native
    encapsulated = signed_data["encap_content_info"]
    attributes = signer_info["signed_attrs"]
    return _Envelope(
        signer=signer,
        others=tuple(c.der for c in certificates if c is not signer),
        digest=digest,
        verify=scheme(signer.public_key, signer_info["signature_algorithm"], digest),
        signature=signer_info["signature"].native,
        content=encapsulated["content"].native,
        content_type=encapsulated["content_type"].native,
        attributes=None if isinstance(attributes, core.Void) else attributes,
    )


def _check_attributes(attributes: Any, body_digest: bytes, content_type: str) -> None:
    """The signature covers the attributes; these two tie the attributes to the body."""
    if len(attributes) > MOST_ATTRIBUTES:
        raise BadRequest("Mdm-Signature: too many signed attributes")
    values: dict[str, list[Any]] = {"message_digest": [], "content_type": []}
    for attribute in attributes:
        name = attribute["type"].native
        if name in values:
            values[name].extend(attribute["values"].native)
    if values["message_digest"] != [body_digest]:
        raise BadRequest("Mdm-Signature: the digest is not that of the body")
    if values["content_type"] != [content_type]:
        raise BadRequest("Mdm-Signature: the content type is not the one that was signed")


def _signing_time(attributes: Any) -> datetime | None:
    """Read after the signature was found good; a time that nobody can read is none."""
    try:
        times = [
            value
            for attribute in attributes or ()
            if attribute["type"].native == "signing_time"
            for value in attribute["values"].native
        ]
    except ValueError:
        return None
    is_clear = len(times) == 1 and isinstance(times[0], datetime) and times[0].tzinfo is not None
    return times[0].astimezone(UTC) if is_clear else None


def scheme(key: object, algorithm: Any, digest: str) -> Verify:
    """The verification for this key: by its kind, if the algorithm named fits it and the digest."""
    name = algorithm["algorithm"].native
    if digest not in _HASHES:
        raise BadRequest("Mdm-Signature: digest algorithm not allowed")
    hash_ = _HASHES[digest]
    if isinstance(key, rsa.RSAPublicKey):
        if name == "rsassa_pss":
            return partial(_verify_rsa, key, _pss(algorithm["parameters"], digest), hash_)
        if _RSA_ALGORITHMS.get(name, "") in {None, digest}:
            return partial(_verify_rsa, key, padding.PKCS1v15(), hash_)
    elif isinstance(key, ec.EllipticCurvePublicKey) and (
        _EC_ALGORITHMS.get(name, "") in {None, digest}
    ):
        return partial(_verify_ec, key, hash_)
    raise BadRequest("Mdm-Signature: signature algorithm not allowed")


def _verify_rsa(
    key: rsa.RSAPublicKey,
    scheme: padding.AsymmetricPadding,
    hash_: hashes.HashAlgorithm,
    signature: bytes,
    message: bytes,
) -> None:
    key.verify(signature, _digest(hash_, message), scheme, Prehashed(hash_))


def _verify_ec(
    key: ec.EllipticCurvePublicKey,
    hash_: hashes.HashAlgorithm,
    signature: bytes,
    message: bytes,
) -> None:
    key.verify(signature, _digest(hash_, message), ec.ECDSA(Prehashed(hash_)))


def _digest(hash_: hashes.HashAlgorithm, message: bytes) -> bytes:
    # hashlib lets other threads work meanwhile; the library that verifies does not.
    return hashlib.new(hash_.name, message).digest()


def _pss(parameters: Any, digest: str) -> padding.PSS:
    mask = parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native
    if parameters["hash_algorithm"]["algorithm"].native != digest or mask not in _HASHES:
        raise BadRequest("Mdm-Signature: signature algorithm not allowed")
    salt_length = parameters["salt_length"].native
    return padding.PSS(mgf=padding.MGF1(_HASHES[mask]), salt_length=salt_length)
