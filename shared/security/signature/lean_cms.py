"""The bytes of a CMS that are neither content nor certificates: what a signer says about itself.

Promise: reading what passes takes milliseconds. A kilobyte of attributes is plenty for a device; forty of
them, made of tiny values or of one endless name, would block the event loop for half a second, before any
signature is checked.
"""

from collections.abc import Callable

from shared.security.asn1.ber import SEQUENCE, Element, split

ALWAYS_LEAN = 4 * 1024
"""Bytes of a whole message that need no look: what a device sends is about half of it."""
MOST_BESIDES = 4 * 1024
"""Bytes besides content and certificates: a signature of RSA-16384 has 2 KiB of them."""
MOST_PARTS = 16
"""Values beside each other, certificates among them."""

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
