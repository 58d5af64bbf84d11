"""DER (X.690) of what SCEP's answers and certificates hold.

Written by hand because asn1crypto takes a millisecond and a half to build what this builds in twenty
microseconds, and an answer has one fixed form. openssl reads it in the tests.
"""

from functools import cache

from asn1crypto import core

SEQUENCE, SET, OCTET_STRING, INTEGER, OBJECT, PRINTABLE = 0x30, 0x31, 0x04, 0x02, 0x06, 0x13
CONTEXT_0 = 0xA0
NULL = b"\x05\x00"


def element(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def sequence(*values: bytes) -> bytes:
    return element(SEQUENCE, *values)


def set_of(*values: bytes, tag: int = SET) -> bytes:
    """In the order that DER demands."""
    return element(tag, *sorted(values))


def octet_string(content: bytes) -> bytes:
    return element(OCTET_STRING, content)


def printable_string(text: str) -> bytes:
    return element(PRINTABLE, text.encode("ascii"))


def integer(value: int) -> bytes:
    """The DER of a number that is not negative."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


@cache
def oid(dotted: str) -> bytes:
    """For constants only: all are kept."""
    return bytes(core.ObjectIdentifier(dotted).dump())
