"""CMS with its content inside: a device's statements while it enrolls, and signed profiles."""

from typing import NamedTuple

from asn1crypto import cms

from shared.domain.errors import BadRequest
from shared.security.signature.detached import MAX_HEADER, Signer, verify_cms
from shared.security.signature.lean_cms import is_bulky

MAX_CMS = MAX_HEADER * 3 // 4
"""Bytes of a CMS that a device may send; its attributes take a few hundred."""


class Signed(NamedTuple):
    content: bytes
    signer: Signer


def open_signed(encoded: bytes) -> Signed:
    """The content of a CMS (DER or BER) of one signer, proven to be signed by the certificate that comes with
    it; BadRequest for anything else. Nothing is said about the certificate: its judges are
    `shared.security.identity` (ours) and `shared.security.apple_device` (Apple's)."""
    if len(encoded) > MAX_CMS or is_bulky(encoded):
        raise BadRequest("CMS: too long")
    content = content_of(encoded)
    try:
        return Signed(content, verify_cms(encoded, content))
    except BadRequest as exc:
        raise BadRequest(
            str(exc).replace("Mdm-Signature", "CMS").replace("body", "content")
        ) from None


def content_of(encoded: bytes) -> bytes:
    """The content of a CMS, unverified. Raises BadRequest if there is none."""
    if encoded[:1] != b"\x30":  # asn1crypto would go into other types first and be slow to say no
        raise BadRequest("CMS: not a CMS message")
    try:
        whole = cms.ContentInfo.load(encoded)
        if whole["content_type"].native != "signed_data":
            raise BadRequest("CMS: not signed data")
        content = whole["content"]["encap_content_info"]["content"].native
    except BadRequest:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside
        raise BadRequest("CMS: cannot be read: it is damaged, or of an unknown form") from None
    if not isinstance(content, bytes) or not content:
        raise BadRequest("CMS: holds no content")
    return content
