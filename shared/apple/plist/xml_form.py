"""The outermost keys of an XML property list, found without building what is behind the others.

Promise: `XmlOutline` takes every document that is put together as Apple's writers and MicroMDM expect,
with any values: control characters, bytes that are not UTF-8, dates of any year. Where plistlib
can read the document, both see the same outermost keys. It takes linear time.

What readers may understand differently is refused: elements between keys that are no value, text there,
a `>` inside a tag, a document type with declarations of its own.
"""

import re
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final

from shared.domain.errors import BadRequest

MAX_DEPTH = 64
MAX_TOKEN = 16 * 1024

OTHER: Final = object()
"""A value that is neither text, data nor a boolean. Nothing is built of it."""

_SPACE = rb"[ \t\r\n]*+"
_NAME = rb"[A-Za-z_][A-Za-z0-9_.:-]{0,63}+"
_VALUE = rb"(?:\"[^\"<>]{0,1024}+\"|'[^'<>]{0,1024}+')"
_ATTRIBUTES = rb"(?:[ \t\r\n]++%b%b=%b%b){0,15}+%b" % (_NAME, _SPACE, _SPACE, _VALUE, _SPACE)
_CDATA = rb"(?><!\[CDATA\[(?s:.*?)\]\]>)"
_ASIDE = rb"(?><!--(?s:.{0,%d}?)-->)|(?><\?(?s:.{0,%d}?)\?>)" % (MAX_TOKEN, MAX_TOKEN)
"""A comment or an instruction, which may be anywhere."""
_GAP = rb"(?:[ \t\r\n]++|%b)*+" % _ASIDE
_TEXT = rb"(?:[^<]++|%b|%b)*+" % (_CDATA, _ASIDE)
_LEAVES = (b"string", b"data", b"date", b"integer", b"real", b"true", b"false")


def _element(name: bytes) -> bytes:
    return rb"%b%b(?:/>|>%b</%b%b>)" % (name, _ATTRIBUTES, _TEXT, name, _SPACE)


_PASSED = rb"<(?:%b)" % b"|".join(_element(name) for name in (*_LEAVES, b"array", b"dict"))
APPLES_HEAD = b"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>"""
"""The head that Apple's writers make, up to the first key."""
_HEAD = re.compile(
    rb"(?:\xef\xbb\xbf)?+%b(?:<!DOCTYPE[^<>\[]{0,1024}+>%b)?+(?:<(plist)%b>)?+%b<dict%b(/?)>"
    % (_GAP, _GAP, _ATTRIBUTES, _GAP, _ATTRIBUTES)
)
_KEY = rb"<key%b(?:/>|>(%b)</key%b>)%b" % (_ATTRIBUTES, _TEXT, _SPACE, _GAP)
_VALUE_OF_KEY = re.compile(
    rb"<(?:(%b)%b(?:/>|>(%b)</(?:\1)%b>)|(dict|array)%b(/?)>)"
    % (b"|".join(_LEAVES), _ATTRIBUTES, _TEXT, _SPACE, _ATTRIBUTES)
)
_END_OF_PLIST = re.compile(rb"%b</plist%b>" % (_GAP, _SPACE))
_NESTED = re.compile(
    rb"(?:[^<]++|<(?:%b|%b%b/>)|%b|%b)*+(?:<(%b)%b>|</(%b)%b>)"
    % (
        b"|".join(_element(name) for name in (*_LEAVES, b"key", b"array", b"dict")),
        _NAME,
        _ATTRIBUTES,
        _CDATA,
        _ASIDE,
        _NAME,
        _ATTRIBUTES,
        _NAME,
        _SPACE,
    )
)
"""All that has nothing inside, up to the next tag around others: one match, however much it is."""
_PIECE = re.compile(rb"<!\[CDATA\[((?s:.*?))\]\]>|%b" % _ASIDE)
_REFERENCE = re.compile(r"&(?:(amp|lt|gt|quot|apos);|#([0-9]{1,7});|#x([0-9A-Fa-f]{1,6});)?")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class XmlOutline:
    """Reads the wanted of the outermost keys, and where the document ends."""

    def __init__(self, wanted: Collection[str]) -> None:
        self._wanted = frozenset(wanted)
        names = b"|".join(re.escape(name.encode()) for name in wanted)
        # Unwanted pairs are passed in one match.
        passed = rb"<key(?:/>|>(?!(?:%b)</)[^<&]*+</key>)%b%b" % (names or rb"<", _GAP, _PASSED)
        self._next = re.compile(
            rb"(?:[ \t\r\n]++|%b|%b)*+(?:%b|(</dict%b>))" % (_ASIDE, passed, _KEY, _SPACE)
        )
        # Wanted pairs as nearly all are: text that is built as it is, found in one match.
        self._plain = re.compile(
            rb"%b<key>(%b)</key>%b<string>([^<&\r]*+)</string>" % (_SPACE, names or rb"<", _SPACE)
        )

    def read(self, body: bytes) -> tuple[list[tuple[str, Any]], int]:
        """The wanted pairs in their order, doubled ones too, and the first byte behind the document.
        Raises BadRequest. `body` is in UTF-8, or nearly so."""
        at, has_plist, is_empty = _head(body)
        pairs = list[tuple[str, Any]]()
        while not is_empty:
            plain = self._plain.match(body, at)
            if plain is not None:
                pairs.append((plain[1].decode(), plain[2].decode("utf-8", "surrogateescape")))
                at = plain.end()
                continue
            found = self._next.match(body, at)
            if found is None:
                raise _broken(body, at)
            at = found.end()
            if found[2]:
                break
            key = _text(found[1] or b"", "replace")
            value, at = _value(body, at, key if key in self._wanted else None)
            if key in self._wanted:
                pairs.append((key, value))
        if has_plist:
            end = _END_OF_PLIST.match(body, at)
            if end is None:
                raise _broken(body, at)
            at = end.end()
        return pairs, at


def _head(body: bytes) -> tuple[int, bool, bool]:
    """The end of the dictionary's opening tag; whether that is inside `plist`, and is the closing one too."""
    if body.startswith(APPLES_HEAD):
        return len(APPLES_HEAD), True, False
    head = _HEAD.match(body)
    if head is None:
        raise BadRequest("plist: is no property list with a dictionary")
    return head.end(), bool(head[1]), bool(head[2])


_BLANK = re.compile(rb"(?:\xef\xbb\xbf)?+[ \t\r\n]*+")
_ANY = XmlOutline(())


def without_surroundings(body: bytes) -> bytes:
    """A document without what no XML parser takes: blank lines before it, and all that is behind it."""
    start = _BLANK.match(body)
    assert start is not None
    document = body[start.end() :]
    is_whole = document.count(b"</plist") == 1 and document.rstrip().endswith(b"</plist>")
    if not is_whole and document[:1] == b"<":
        with suppress(BadRequest):  # its reader says what is wrong
            document = document[: _ANY.read(document)[1]]
    return document


def _value(body: bytes, at: int, key: str | None) -> tuple[Any, int]:
    """The value of a key (None if it is not needed), and its end."""
    found = _VALUE_OF_KEY.match(body, at)
    if found is None:
        raise _broken(body, at)
    kind, content, container, is_empty = found.groups()
    if container is not None:
        return OTHER, found.end() if is_empty else _end_of(body, found.end(), container)
    return (None if key is None else _built(kind, content or b"", key)), found.end()


def _end_of(body: bytes, at: int, name: bytes) -> int:
    """The first byte behind the element whose inside begins at `at`."""
    around, following = [name], _NESTED.match
    while around:
        found = following(body, at)
        if found is None:
            raise _broken(body, at)
        at = found.end()
        if found.lastindex == 1:
            around.append(found[1])
            if len(around) >= MAX_DEPTH:
                raise BadRequest("plist: nested too deep")
        elif around.pop() != found[2]:
            raise _broken(body, found.start(2))
    return at


def _built(kind: bytes, content: bytes, key: str) -> Any:
    if kind == b"string":
        return _text(content, "surrogateescape")
    if kind == b"data":
        try:
            return a2b_base64(_text(content, "replace").encode())
        except NotBase64:
            raise BadRequest(f"{key}: expected base64") from None
    return {b"true": True, b"false": False}.get(kind, OTHER)


def _text(content: bytes, errors: str) -> str:
    """The text between two tags, without comments and instructions."""
    if b"&" not in content and b"<" not in content:
        return _decoded(content, errors)
    at, text = 0, ""
    for piece in _PIECE.finditer(content):
        text += _expanded(_decoded(content[at : piece.start()], errors))
        text += _decoded(piece[1] or b"", errors)
        at = piece.end()
    return text + _expanded(_decoded(content[at:], errors))


def _decoded(raw: bytes, errors: str) -> str:
    text = raw.decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _expanded(text: str) -> str:
    return _REFERENCE.sub(_character, text) if "&" in text else text


def _character(found: re.Match[str]) -> str:
    name, decimal, hexadecimal = found.groups()
    if name is not None:
        return _NAMED[name]
    number = int(decimal) if decimal else int(hexadecimal or "ffffff", 16)
    if number > 0x10FFFF:
        raise BadRequest("plist: a reference that is none of XML's")
    return chr(number)


def _broken(body: bytes, at: int) -> BadRequest:
    line = body.count(b"\n", 0, at) + 1
    return BadRequest(f"plist: line {line}: broken off, or tags that do not match")
