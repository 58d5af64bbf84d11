"""The PayloadIdentifier of a profile in the payload of InstallProfile.

Promise, for any bytes: the identifier that a device will read, or None; nothing is raised and the time is
bounded. A profile is a property list (XML or binary), bare or inside a CMS signature
(RFC 5652); the signature is the device's to check, here only what is inside counts.
"""

from typing import NoReturn
from xml.parsers import expat

from shared.apple.plist import read as plist
from shared.domain.errors import BadRequest

KEY = "PayloadIdentifier"
MAX_BYTES = 16 * 1024**2
MAX_ELEMENTS = 10_000
MAX_OBJECTS = 20_000
MAX_LENGTH = 256

_SEQUENCE, _SET, _TAGGED, _INTEGER, _OCTETS, _OID = 0x30, 0x31, 0xA0, 0x02, 0x04, 0x06
_IN_PIECES = 0x20
_LONG_FORM = 0x80
_WAY_TO_CONTENT = (
    (_SEQUENCE, True),  # ContentInfo
    (_OID, False),
    (_TAGGED, True),
    (_SEQUENCE, True),  # SignedData
    (_INTEGER, False),
    (_SET, False),
    (_SEQUENCE, True),  # EncapsulatedContentInfo
    (_OID, False),
    (_TAGGED, True),
)
"""Tag of each element, and whether what we look for is inside it or behind it."""

_DATA = b"<data>"
_NO_TAGS = (b"<!--", b"<![", b"<?")
_TOP = 2
"""Depth of the elements inside the outermost dictionary: plist, dict."""


def payload_identifier(payload: bytes) -> str | None:
    """The PayloadIdentifier of a profile, None where there is none for sure."""
    if not payload or len(payload) > MAX_BYTES:
        return None
    content = signed_content(payload) if payload[0] == _SEQUENCE else payload
    if content is None:
        return None
    found = _in_binary(content) if content[:8] == b"bplist00" else _in_xml(content)
    if not found or len(found) > MAX_LENGTH or not found.isprintable():
        return None
    return found


def signed_content(payload: bytes) -> bytes | None:
    """The eContent of a SignedData, by hand: readers of any ASN.1 take a tenth of a second for five
    megabytes in the pieces that OpenSSL makes."""
    at = 0
    try:
        for tag, is_entered in _WAY_TO_CONTENT:
            start, end = _header(payload, at, tag)
            at = start if is_entered else _known(end)
        return _octets(payload, at)
    except (IndexError, ValueError):
        return None


def _header(payload: bytes, at: int, tag: int) -> tuple[int, int | None]:
    """Start and end of the contents of the element here; no end where its length is indefinite."""
    if payload[at] != tag:
        raise ValueError("another element")
    length = payload[at + 1]
    if length < _LONG_FORM:
        return at + 2, at + 2 + length
    if length == _LONG_FORM:
        return at + 2, None
    start = at + 2 + (length - _LONG_FORM)
    end = start + int.from_bytes(payload[at + 2 : start], "big")
    if end > len(payload):
        raise ValueError("cut off")
    return start, end


def _known(end: int | None) -> int:
    if end is None:
        raise ValueError("an indefinite length where no writer has one")
    return end


def _octets(payload: bytes, at: int) -> bytes:
    """An OCTET STRING, whole or in pieces."""
    if payload[at] == _OCTETS:
        start, end = _header(payload, at, _OCTETS)
        return payload[start : _known(end)]
    at, end = _header(payload, at, _OCTETS | _IN_PIECES)
    pieces = []
    while payload[at] == _OCTETS if end is None else at < end:
        start, piece_end = _header(payload, at, _OCTETS)
        at = _known(piece_end)
        pieces.append(payload[start:at])
    return b"".join(pieces)


def _in_binary(content: bytes) -> str | None:
    # The trailer has the number of objects; reading costs about two microseconds for each.
    if int.from_bytes(content[-24:-16], "big") > MAX_OBJECTS:
        return None
    try:
        found = plist.parse(content).get(KEY)
    except BadRequest:
        return None
    return found if isinstance(found, str) else None


def _in_xml(content: bytes) -> str | None:
    search = _Search()
    try:
        search.parser.Parse(_without_data(content), True)
    except (_Hopeless, expat.ExpatError, ValueError, LookupError):  # an unknown encoding
        return None
    return search.found[0] if len(search.found) == 1 else None


def _without_data(content: bytes) -> bytes:
    """The document without the content of its <data>: five megabytes of that take expat 12 ms.

    As it is where a tag may be something else than a tag, because it is in a comment or the like."""
    kept: list[bytes] = []
    done = at = tags = 0
    while (tag := content.find(b"<", at)) >= 0 and tags < 2 * MAX_ELEMENTS:
        tags += 1
        if content.startswith(_DATA, tag):
            kept.append(content[done : tag + len(_DATA)])
            done = at = max(content.find(b"<", tag + len(_DATA)), tag + len(_DATA))
        elif tag and content.startswith(_NO_TAGS, tag):
            return content
        else:
            at = tag + 1
    return b"".join((*kept, content[done:]))


class _Hopeless(Exception):
    """Not a profile that can be read in a reasonable time."""


def _give_up(*_declaration: object) -> NoReturn:
    raise _Hopeless


class _Search:
    """Goes once over the document and looks at the outermost dictionary only.

    The text between is skipped without a call into Python, except for keys and values up there.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._depth = 0
        self._elements = 0
        self._text: list[str] = []
        self._is_value = False
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.EntityDeclHandler = _give_up

    def _start(self, tag: str, _attributes: object) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            _give_up()
        if self._depth == _TOP and (tag == "key" or (self._is_value and tag == "string")):
            self._text = []
            self.parser.CharacterDataHandler = self._text.append
        self._depth += 1

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth != _TOP:
            return
        self.parser.CharacterDataHandler = None
        text, self._text = "".join(self._text), []
        if tag == "key":
            self._is_value = text == KEY
        elif self._is_value:
            self._is_value = False
            self.found.append(text if tag == "string" else "")
