"""CMS with its content inside: what a device says of itself while it enrolls, and signed profiles.

Promise: `open_signed` gives content back only if exactly that content was signed by the certificate
that comes with it. Nothing is said about the certificate: its judges are `shared.security.identity`
(ours) and `shared.security.apple_device` (Apple's).
"""

import base64
from dataclasses import dataclass

from asn1crypto import cms

from shared.domain.errors import BadRequest
from shared.security.signature.detached import MAX_HEADER, Signer, signer_of
from shared.security.signature.lean_cms import is_bulky

MAX_CMS = MAX_HEADER * 3 // 4
"""Bytes of a CMS that a device may send; its attributes take a few hundred."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The signed content and its signer."""

    content: bytes
    signer: Signer


def open_signed(encoded: bytes) -> Signed:
    """Verify a CMS (DER or BER) of one signer; BadRequest for anything else."""
    if len(encoded) > MAX_CMS or is_bulky(encoded):
        raise BadRequest("CMS: too long")
    content = content_of(encoded)
    try:
        return Signed(content, signer_of(base64.b64encode(encoded), content))
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
    except Exception:  # noqa: BLE001 - bytes from outside: whatever the parser trips over
        raise BadRequest("CMS: cannot be read: it is damaged, or of an unknown form") from None
    if not isinstance(content, bytes) or not content:
        raise BadRequest("CMS: holds no content")
    return content
