"""The bytes of a CMS that are neither content nor certificates: what a signer says about itself.

Promise: reading what passes takes milliseconds. A kilobyte of attributes is plenty for a device; forty of
them, made of tiny values or of one endless name, would keep the event loop from everybody else for half a
second, before any signature is looked at.
"""

from asn1crypto import parser

ALWAYS_LEAN = 4 * 1024
"""Bytes of a whole message that need no look: what a device sends is about half of it."""
MOST_BESIDES = 4 * 1024
"""Bytes besides content and certificates: a signature of RSA-16384 has 2 KiB of them."""
MOST_PARTS = 16
"""Values that stand beside each other, certificates among them."""

_CONTEXT, _ZERO = 2, 0
_SEQUENCE = (0, 16)

Part = tuple[tuple[int, int], bytes]
"""Class and tag, and what stands inside."""


def is_bulky(encoded: bytes) -> bool:
    """True if it is too bulky to read on."""
    return len(encoded) > ALWAYS_LEAN and _besides(encoded) > MOST_BESIDES


def is_bulky_envelope(encoded: bytes) -> bool:
    """The same of an envelope (RFC 5652, section 6.1), where what is encrypted does not count."""
    return len(encoded) > ALWAYS_LEAN and len(encoded) - _encrypted(encoded) > MOST_BESIDES


def _encrypted(encoded: bytes) -> int:
    """Bytes of `encryptedContent`; 0 where there is none to be found."""
    try:
        enveloped = _inside(_inside(_parts(encoded)[0])[1])[0]
        [content_info] = [part for part in _inside(enveloped) if part[0] == _SEQUENCE]
        return len(_inside(content_info)[2][1])
    except (ValueError, IndexError):
        return 0


def _besides(encoded: bytes) -> int:
    """The parts of a CMS (RFC 5652, section 5.1): all but the content of `encapContentInfo` and
    `certificates`."""
    try:
        signed_data = _inside(_inside(_parts(encoded)[0])[1])[0]
        parts = _inside(signed_data)
        encapsulated = _inside(parts[2])
        certificates = parts[3] if parts[3][0] == (_CONTEXT, _ZERO) else ((0, 0), b"")
        _inside(certificates)
    except (ValueError, IndexError):
        return len(encoded)
    content = encapsulated[1][1] if len(encapsulated) > 1 else b""
    return len(encoded) - len(content) - len(certificates[1])


def _inside(part: Part) -> list[Part]:
    return _parts(part[1])


def _parts(encoded: bytes) -> list[Part]:
    """The values that stand one behind the other; raises ValueError for too many."""
    found: list[Part] = []
    at = 0
    while at < len(encoded):
        class_, _, tag, header, content, trailer = parser.parse(encoded[at:])
        found.append(((class_, tag), content))
        if len(found) > MOST_PARTS:
            raise ValueError("too many parts")
        at += len(header) + len(content) + len(trailer)
    return found
