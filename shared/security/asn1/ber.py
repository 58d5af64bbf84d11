"""Values of BER (X.690), read within bounds, each with the very bytes in which it came."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from asn1crypto import core, parser

Kind = tuple[int, int]
"""Class and tag."""

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OBJECT = (0, 1), (0, 2), (0, 3), (0, 4), (0, 6)
SEQUENCE, SET, UTC_TIME, GENERALIZED_TIME = (0, 16), (0, 17), (0, 23), (0, 24)
MOST_CHILDREN = 64
"""Values in one of a certificate, which has ten fields and up to twenty extensions."""

_CONSTRUCTED, _TAG = 0x20, 0x1F
_INDEFINITE = 0x80
_KINDS = {class_ << 6 | tag: (class_, tag) for class_ in range(4) for tag in range(_TAG)}
"""By the first byte of a value, without the bit that says whether it is constructed."""
_COPIED = frozenset((0x02, 0x04, 0x05, 0x0C, *range(0x12, 0x1F)))
"""First bytes of numbers, strings and times in one piece: they are read about as fast as copied."""
_PADDED = re.compile(rb"[\x00-\x7f]\x80")
"""An arc of an object identifier that begins with a zero."""


class Unreadable(ValueError):
    """Bytes that are no certificate; the text says why, and holds nothing of them."""


class Element(NamedTuple):
    """One value: all its bytes, and those inside."""

    kind: Kind
    is_constructed: bool
    raw: bytes
    content: bytes


def split(encoded: bytes, most: int) -> Iterator[Element]:
    """Consecutive values of any form; raises Unreadable, also for more than `most` of them."""
    at, size = 0, len(encoded)
    for _ in range(most):
        if at == size:
            return
        first, inside = encoded[at], at + 2
        end = inside + encoded[at + 1] if inside <= size else size + 1
        if end > inside + _INDEFINITE:  # the length of the length
            end -= _INDEFINITE
            inside, end = end, end + int.from_bytes(encoded[inside:end], "big")
        elif end == inside + _INDEFINITE:
            end = size + 1
        if end > size or first & _TAG == _TAG:
            yield (element := _unusual(encoded[at:]))
            at += len(element.raw)
            continue
        kind = _KINDS[first & ~_CONSTRUCTED]
        yield Element(kind, bool(first & _CONSTRUCTED), encoded[at:end], encoded[inside:end])
        at = end
    if at < size:
        raise Unreadable(f"over {most} values stand in a row")


def check_values(encoded: bytes, most: int, longest: int) -> None:
    """Raises Unreadable for more than `most` values, those inside others too, or for one over `longest` bytes
    that takes longer to read than to copy. Each byte is passed once, also where lengths are indefinite."""
    at, around = 0, [(len(encoded), False)]
    while around:
        end, is_indefinite = around[-1]
        if at == end and not is_indefinite:
            around.pop()
            continue
        first, at, after = _header(encoded, at, end)
        if is_indefinite and first == 0 and after == at:
            around.pop()
            continue
        most -= 1
        if most < 0 or first & _TAG == _TAG:
            raise Unreadable("there are too many values, or one of an unknown kind")
        if first & _CONSTRUCTED:
            around.append((end, True) if after is None else (after, False))
            continue
        if after is None or (after - at > longest and first not in _COPIED):
            raise Unreadable(f"a value has over {longest} bytes, or no end")
        at = after


def _header(encoded: bytes, at: int, end: int) -> tuple[int, int, int | None]:
    """The first byte of a value, and where its content begins and ends; None: at a mark."""
    if at + 2 > end:
        raise Unreadable("a value has no end, or no beginning")
    first, length, at = encoded[at], encoded[at + 1], at + 2
    if length == _INDEFINITE:
        return first, at, None
    if length > _INDEFINITE:
        inside = at + length - _INDEFINITE
        length, at = int.from_bytes(encoded[at:inside], "big"), inside
    if at + length > end:
        raise Unreadable("a value has no end")
    return first, at, at + length


def _unusual(encoded: bytes) -> Element:
    """The first of these values: of a large tag, of an indefinite length, or broken."""
    try:
        class_, is_constructed, tag, header, content, trailer = parser.parse(encoded)
    except ValueError:
        raise Unreadable("a value has no end, or no beginning") from None
    end = len(header) + len(content) + len(trailer)
    return Element((class_, tag), bool(is_constructed), encoded[:end], content)


def elements(encoded: bytes) -> list[Element]:
    """The consecutive values of a certificate, where no string may be in pieces; raises Unreadable."""
    found: list[Element] = []
    for each in split(encoded, MOST_CHILDREN):
        if each.kind[0] == 0 and each.is_constructed != (each.kind in {SEQUENCE, SET}):
            raise Unreadable("a value is in pieces, or should be")
        found.append(each)
    return found


def only(encoded: bytes, kind: Kind) -> Element:
    """The single value that these bytes are."""
    found = elements(encoded)
    if len(found) != 1:
        raise Unreadable("bytes stand behind its end" if found else "a value is missing")
    return of_kind(found[0], kind)


def of_kind(element: Element, kind: Kind) -> Element:
    if element.kind != kind:
        raise Unreadable("a value is of another type than it must be")
    return element


def children(element: Element, kind: Kind = SEQUENCE) -> list[Element]:
    return elements(of_kind(element, kind).content)


def integer_of(element: Element) -> int:
    """May be negative; as OpenSSL, without a padded one."""
    content = of_kind(element, INTEGER).content
    is_padded = len(content) > 1 and content[0] in (0, 0xFF) and content[0] ^ content[1] < 0x80
    if not content or is_padded:
        raise Unreadable("a number is empty or padded")
    return int.from_bytes(content, "big", signed=True)


def boolean_of(element: Element) -> bool:
    """Any bit makes it true (X.690, 8.2.2)."""
    content = of_kind(element, BOOLEAN).content
    if len(content) != 1:
        raise Unreadable("a boolean has not one byte")
    return content != b"\0"


def bits_of(element: Element) -> bytes:
    """The content of a string of whole bytes: more bits would be covered by nothing."""
    content = of_kind(element, BIT_STRING).content
    if content[:1] != b"\0":
        raise Unreadable("a string of bits has unused ones")
    return content[1:]


def oid_of(element: Element) -> bytes:
    """The content of an object identifier, which has one form for each."""
    content = of_kind(element, OBJECT).content
    if not content or content[-1] >= 0x80 or _PADDED.search(b"\0" + content):
        raise Unreadable("an object identifier is not well put together")
    return content


def dotted(oid: bytes) -> str:
    """The usual text of an object identifier, by its content."""
    return str(core.ObjectIdentifier(contents=oid).dotted)
