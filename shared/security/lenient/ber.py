"""Values of BER (X.690) with the very bytes in which they came, as far as certificates need it.

Promise: what is read has bounds of its own, and what comes out is a part of what went in.
"""

import re
from typing import NamedTuple

from asn1crypto import core, parser

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OBJECT = (0, 1), (0, 2), (0, 3), (0, 4), (0, 6)
SEQUENCE, SET, UTC_TIME, GENERALIZED_TIME = (0, 16), (0, 17), (0, 23), (0, 24)
MOST_VALUES = 64
"""Values beside each other: certificates have ten fields, and up to twenty extensions."""

_PADDED = re.compile(rb"[\x00-\x7f]\x80")
"""An arc of an object identifier that begins with a zero."""

Kind = tuple[int, int]
"""Class and tag."""


class Unreadable(ValueError):
    """Bytes that are no certificate; the text says why, and holds nothing of them."""


class Value(NamedTuple):
    """One value: all its bytes, and those inside."""

    kind: Kind
    raw: bytes
    content: bytes


def values(encoded: bytes) -> list[Value]:
    """The values that stand one behind the other; raises ValueError."""
    found: list[Value] = []
    at = 0
    while at < len(encoded):
        if len(found) == MOST_VALUES:
            raise Unreadable(f"over {MOST_VALUES} values stand in a row")
        try:
            class_, is_constructed, tag, header, content, trailer = parser.parse(encoded[at:])
        except ValueError:
            raise Unreadable("a value has no end, or no beginning") from None
        if class_ == 0 and bool(is_constructed) != ((class_, tag) in {SEQUENCE, SET}):
            raise Unreadable("a value is in pieces, or should be")
        size = len(header) + len(content) + len(trailer)
        found.append(Value((class_, tag), encoded[at : at + size], content))
        at += size
    return found


def only(encoded: bytes, kind: Kind) -> Value:
    """The single value that these bytes are."""
    found = values(encoded)
    if len(found) != 1:
        raise Unreadable("bytes stand behind its end" if found else "a value is missing")
    return of_kind(found[0], kind)


def of_kind(value: Value, kind: Kind) -> Value:
    """The value, if it is of that kind."""
    if value.kind != kind:
        raise Unreadable("a value is of another type than it must be")
    return value


def inside(value: Value, kind: Kind = SEQUENCE) -> list[Value]:
    """The values inside one of that kind."""
    return values(of_kind(value, kind).content)


def integer(value: Value) -> int:
    """A number, which may be negative; as OpenSSL, without a padded one."""
    content = of_kind(value, INTEGER).content
    is_padded = len(content) > 1 and content[0] in (0, 0xFF) and content[0] ^ content[1] < 0x80
    if not content or is_padded:
        raise Unreadable("a number is empty or padded")
    return int.from_bytes(content, "big", signed=True)


def boolean(value: Value) -> bool:
    """Any bit makes it true (X.690, 8.2.2)."""
    content = of_kind(value, BOOLEAN).content
    if len(content) != 1:
        raise Unreadable("a boolean has not one byte")
    return content != b"\0"


def bits(value: Value) -> bytes:
    """The content of a string of whole bytes: more bits would be covered by nothing."""
    content = of_kind(value, BIT_STRING).content
    if content[:1] != b"\0":
        raise Unreadable("a string of bits has unused ones")
    return content[1:]


def identifier(value: Value) -> bytes:
    """An object identifier, by the bytes inside, of which there is one form for each."""
    content = of_kind(value, OBJECT).content
    if not content or content[-1] >= 0x80 or _PADDED.search(b"\0" + content):
        raise Unreadable("an object identifier is not well put together")
    return content


def dotted(identifier: bytes) -> str:
    """An object identifier as people write it, of the bytes inside."""
    return str(core.ObjectIdentifier(contents=identifier).dotted)
