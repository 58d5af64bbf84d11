"""A CMS from outside before its signature is checked: its bounds, its SignedData, its content.

Promise: reading what is not bulky takes milliseconds. A kilobyte of attributes is plenty for a device; forty
of them, made of tiny values or of one endless name, would block the event loop for half a second.
"""

from collections.abc import Callable
from typing import Any

from asn1crypto import cms

from shared.domain.errors import BadRequest
from shared.security.asn1.ber import SEQUENCE, Element, split

ALWAYS_LEAN = 4 * 1024
"""Bytes of a whole message that need no look: what a device sends is about half of it."""
MOST_BESIDES = 4 * 1024
"""Bytes besides content and certificates, with which a signer describes itself; RSA-16384 takes 2 KiB."""
MOST_PARTS = 16
"""Values beside each other, certificates among them."""

MOST_SIGNED = 128
"""Values in signed attributes, those inside others too; devices send up to forty. asn1crypto takes some 10 µs
for each, to write them in DER's order."""
LONGEST_SIGNED = 64
"""Bytes of one of them, where asn1crypto takes milliseconds for thousands."""
MOST_AT_ONCE = 256
"""Values of a CMS in an unusual form that is read at once, those of certificates too. asn1crypto goes over
what is inside an indefinite length again for each one around it."""
LONGEST_AT_ONCE = 1100
"""Bytes of an object identifier in it, or of a string of bits, of which certificates have long ones."""

_CONTEXT_0 = (2, 0)


def is_bulky(encoded: bytes) -> bool:
    """True for a SignedData (RFC 5652, section 5.1) that is too bulky to read on."""
    return _is_bulky(encoded, _content_and_certificates)


def is_bulky_envelope(encoded: bytes) -> bool:
    """The same of an EnvelopedData (section 6.1), where what is encrypted does not count."""
    return _is_bulky(encoded, _encrypted_content)


def _is_bulky(encoded: bytes, payload: Callable[[list[Element]], int]) -> bool:
    if len(encoded) <= ALWAYS_LEAN:
        return False
    try:
        [_, content, *_] = _parts(_parts(encoded)[0].content)
        return len(encoded) - payload(_parts(_parts(content.content)[0].content)) > MOST_BESIDES
    except (ValueError, IndexError):
        return True


def _content_and_certificates(signed_data: list[Element]) -> int:
    encapsulated = _parts(signed_data[2].content)
    certificates = signed_data[3].content if signed_data[3].kind == _CONTEXT_0 else b""
    _parts(certificates)
    return len(certificates) + (len(encapsulated[1].content) if len(encapsulated) > 1 else 0)


def _encrypted_content(enveloped_data: list[Element]) -> int:
    [content_info] = [part for part in enveloped_data if part.kind == SEQUENCE]
    return len(_parts(content_info.content)[2].content)


def _parts(encoded: bytes) -> list[Element]:
    return list(split(encoded, MOST_PARTS))


def signed_data_of(encoded: bytes, name: str) -> Any:
    """Raises BadRequest with this name for a CMS of another type; asn1crypto may raise others."""
    info = cms.ContentInfo.load(encoded)
    if info["content_type"].native != "signed_data":
        raise BadRequest(f"{name}: not signed data")
    return info["content"]


def only_signer(signed_data: Any, name: str) -> Any:
    if len(signed_data["signer_infos"]) != 1:
        raise BadRequest(f"{name}: expected exactly one signer")
    return signed_data["signer_infos"][0]


def content_of(encoded: bytes) -> bytes:
    """The content of a CMS, unverified. Raises BadRequest if there is none."""
    if encoded[:1] != b"\x30":  # asn1crypto would go into other types first and be slow to say no
        raise BadRequest("CMS: not a CMS message")
    try:
        content = signed_data_of(encoded, "CMS")["encap_content_info"]["content"].native
    except BadRequest:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside
        raise BadRequest("CMS: cannot be read: it is damaged, or of an unknown form") from None
    if not isinstance(content, bytes) or not content:
        raise BadRequest("CMS: holds no content")
    return content
