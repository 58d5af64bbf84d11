"""DER (X.690), as far as SCEP needs it: values to bytes, and the values that stand in a row.

Written by hand because asn1crypto takes a millisecond and a half to build what this builds in twenty
microseconds, and an answer has one fixed form. openssl reads it in the tests.
"""

from asn1crypto import parser

SEQUENCE, SET, OCTET_STRING, INTEGER, OBJECT, PRINTABLE = 0x30, 0x31, 0x04, 0x02, 0x06, 0x13
CONTEXT_0 = 0xA0
NULL = b"\x05\x00"

MOST_ELEMENTS = 256
"""Values in a row: more than the pieces in which anybody sends a message of 32 KiB."""


def element(tag: int, *contents: bytes) -> bytes:
    """One value of any tag."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def elements(encoded: bytes) -> list[bytes]:
    """The values that stand one behind the other; raises ValueError, for too many as well."""
    found: list[bytes] = []
    at = 0
    while at < len(encoded):
        if len(found) == MOST_ELEMENTS:
            raise ValueError("too many values")
        size = parser.peek(encoded[at:])
        found.append(encoded[at : at + size])
        at += size
    return found


def sequence(*values: bytes) -> bytes:
    return element(SEQUENCE, *values)


def set_of(*values: bytes, tag: int = SET) -> bytes:
    """In the order that DER demands."""
    return element(tag, *sorted(values))


def octets(content: bytes) -> bytes:
    return element(OCTET_STRING, content)


def printable(text: str) -> bytes:
    return element(PRINTABLE, text.encode("ascii"))


def integer(value: int) -> bytes:
    """The DER of a number that is not negative."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    first, second, *others = map(int, dotted.split("."))
    return element(OBJECT, *(_base_128(number) for number in (first * 40 + second, *others)))


def _base_128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))
