"""Names in certificates (RFC 5280, section 4.1.2.4), compared as OpenSSL does.

Promise: an unreadable name equals none but itself. Names only lead to the CAs to be tried; the proof is
the signature.
"""

from shared.security.asn1.ber import (
    BIT_STRING,
    SEQUENCE,
    SET,
    Element,
    Unreadable,
    children,
    dotted,
    oid_of,
    only,
)

_ENCODINGS = {12: "utf-8", 28: "utf-32-be", 30: "utf-16-be"}
_ENCODINGS |= dict.fromkeys((18, 19, 20, 22, 26), "latin-1")
"""By the tag of a string. As OpenSSL: the sets of PrintableString and IA5String are not enforced."""
_NO_TEXT = {BIT_STRING, SEQUENCE}
_SHORT = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}


def rfc4514(raw: bytes) -> str:
    """The text of a name. Raises Unreadable for a value that is not in the encoding that it says."""
    return ",".join("+".join(map(_shown, rdn)) for rdn in reversed(_attributes(raw)))


def comparable(raw: bytes) -> object:
    """Equal for names that differ only in case, blanks, kinds of string or the order within a part."""
    try:
        return tuple(frozenset(map(_compared, rdn)) for rdn in _attributes(raw))
    except ValueError:
        return raw


def _attributes(name: bytes) -> list[list[Element]]:
    """The attributes of each part of a name."""
    return [children(rdn, SET) for rdn in children(only(name, SEQUENCE))]


def _text(attribute: Element) -> tuple[bytes, str | None, bytes]:
    """The type of an attribute, its text, and all its bytes where it is none."""
    kind, value = children(attribute)
    encoding = _ENCODINGS.get(value.kind[1]) if value.kind[0] == 0 else None
    if encoding is None and value.kind not in _NO_TEXT:
        raise Unreadable("a name has a value that is of no type of names")
    try:
        text = None if encoding is None else value.content.decode(encoding)
    except UnicodeDecodeError:
        raise Unreadable("a name is not in the encoding that it says") from None
    return oid_of(kind), text, value.raw


def _compared(attribute: Element) -> tuple[bytes, bytes]:
    kind, text, raw = _text(attribute)
    if text is None:
        return kind, raw
    return kind, b" ".join(text.encode("utf-8", "surrogatepass").lower().split())


def _shown(attribute: Element) -> str:
    """RFC 4514, section 2.4."""
    kind, text, raw = _text(attribute)
    if text is None:
        shown = "#" + raw.hex()
    else:
        shown = "".join("\\" + each if each in '\\"+,;<>' else each for each in text)
        shown = shown.replace("\0", "\\00")
        shown = "\\" + shown if shown.startswith(("#", " ")) else shown
        if len(shown) > 1 and shown.endswith(" "):
            shown = shown[:-1] + "\\ "
    return f"{_SHORT.get(oid := dotted(kind), oid)}={shown}"
