"""Property lists from outside, made safe; and the few that we answer with.

`parse` promises, for any bytes: a dict of bounded size and depth or BadRequest, in bounded time and memory.
plistlib alone does not: shared references can make 10^30 nodes, objects of a binary plist may overlap, one
long XML token costs quadratic time, and a doubled key is silently overwritten, so that two readers may
see two different senders.

The typed readers promise: a value is of its type and within its limit, or BadRequest names the key.
"""

import plistlib
from collections.abc import Mapping
from typing import Any
from xml.parsers import expat

from shared.apple.plist.binary_form import refuse_hostile
from shared.apple.plist.faults import unreadable
from shared.apple.plist.xml_form import MAX_DEPTH, MAX_TOKEN, without_surroundings
from shared.domain.errors import BadRequest

MAX_BYTES = 64 * 1024 * 1024
"""A second fence: the caller's own limit (MDM_MAX_BODY) is the real one."""
MAX_NODES = 100_000
MOST_PIECES = 5 * MAX_NODES
"""Line ends and references (`&amp;`) in a large message: five for each value that it may have."""
_AROUND_VALUES = 1000
"""Declarations and comments, which are no values."""
SMALL = 64 * 1024
"""Up to this size no token can be long enough to hurt, so nothing looks for long ones."""
MAX_IDENTIFIER = 256

UNIQUE_KEYS = frozenset(
    {
        "MessageType",
        "UDID",
        "EnrollmentID",
        "UserID",
        "EnrollmentUserID",
        "UserShortName",
        "Status",
        "CommandUUID",
        "RequestType",
        "Topic",
        "Token",
        "PushMagic",
        "UnlockToken",
        "BootstrapToken",
    }
)
"""Keys that decide who is meant, or what: given twice in one dictionary, the message is refused."""


class _Dictionary(dict[str, Any]):
    """The dictionary that plistlib fills; it refuses keys that are no text, and doubled keys that matter."""

    def __setitem__(self, key: str, value: Any) -> None:
        if type(key) is not str:
            raise BadRequest("plist: a key is not text")
        if key in UNIQUE_KEYS and key in self:
            raise BadRequest(f"plist: {key} is there twice")
        super().__setitem__(key, value)


def parse(body: bytes) -> dict[str, Any]:
    """The dictionary in a property list (XML or binary), or BadRequest."""
    if len(body) > MAX_BYTES:
        raise BadRequest("plist: too large")
    document = body
    try:
        if body[:8] == b"bplist00":
            refuse_hostile(body, MAX_NODES)
        else:
            document = without_surroundings(body)
            if len(document) > SMALL:
                _refuse_long_tokens(document)
        form = plistlib.FMT_XML if document[:1] == b"<" else None
        root = plistlib.loads(document, fmt=form, dict_type=_Dictionary)
    except BadRequest:
        raise
    except Exception as exc:  # noqa: BLE001 - bytes from outside: plistlib raises nine kinds and more
        # No cause: a traceback would show pieces of the message.
        raise unreadable(body, exc) from None
    if not isinstance(root, _Dictionary):
        reason = "is no property list" if root is None else "the root is not a dictionary"
        raise BadRequest(f"plist: {reason}")
    _walk(root)
    return root


def parse_stored(body: bytes) -> dict[str, Any]:
    """The dictionary in a property list that we have stored; BadRequest where it is none. The
    limits of the version that took it were applied then: none counts here."""
    try:
        root = plistlib.loads(body)
    except Exception as exc:  # noqa: BLE001 - as above; what is stored came from outside once
        raise unreadable(body, exc) from None
    if not isinstance(root, dict):
        raise BadRequest("plist: the root is not a dictionary")
    return root


def pieces(body: bytes) -> int:
    """Line ends and references: expat hands over text in a new piece after each of them."""
    return sum(map(body.count, (b"\n", b"\r", b"&")))


def _refuse_long_tokens(body: bytes) -> None:
    """Refuse tags, comments and the like of excessive length, too many values, and text in too many pieces.

    plistlib feeds expat 2 KiB at a time, and older expat starts a token again with every piece.
    Fed in one go, as here, expat takes linear time. Text is no token: it has a handler of its own,
    and all that has none comes to the default handler whole. Large bodies must be UTF-8, because
    expat cuts tokens of other encodings into pieces before the handler sees them.
    """
    if b"\0" in body[:16]:  # plistlib takes UTF-16 and UTF-32 with a mark only
        raise BadRequest("plist: large, and not in UTF-8")
    values = body.count(b"<") - body.count(b"</") - body.count(b"<key")
    if values > MAX_NODES + _AROUND_VALUES:
        raise BadRequest("plist: too many values")
    if pieces(body) > MOST_PIECES:
        raise BadRequest("plist: too many lines")

    def check(token: str) -> None:
        if len(token) > MAX_TOKEN:
            raise BadRequest("plist: a tag or comment is too long")

    parser = expat.ParserCreate("utf-8")
    parser.DefaultHandler = check
    parser.CharacterDataHandler = lambda _text: None
    parser.Parse(body, True)


def _walk(root: _Dictionary) -> None:
    """Count nodes and levels; a shared reference counts each time."""
    budget = MAX_NODES
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            budget -= len(node)
            if budget < 0:
                raise BadRequest("plist: too many values")
            values = node.values() if isinstance(node, dict) else node
            below.extend(value for value in values if isinstance(value, dict | list))
        if not below:
            return
        level = below
    raise BadRequest("plist: nested too deep")


# --- typed readers ----------------------------------------------------------------------------------


def text(message: Mapping[str, Any], key: str, *, limit: int = 1024) -> str | None:
    """Text as it was sent, None where it is absent."""
    value = message.get(key)
    if value is None:
        return None
    if type(value) is not str:
        raise BadRequest(f"{key}: expected text")
    if len(value) > limit:
        raise BadRequest(f"{key}: longer than {limit} characters")
    return value


def identifier(message: Mapping[str, Any], key: str) -> str | None:
    """An id: short and printable. Absent and empty are the same, as simulators send empty ones."""
    value = text(message, key, limit=MAX_IDENTIFIER)
    if not value:
        return None
    if not value.isprintable():
        raise BadRequest(f"{key}: holds a control character")
    return value


def required_identifier(message: Mapping[str, Any], key: str) -> str:
    value = identifier(message, key)
    if value is None:
        raise BadRequest(f"{key}: missing")
    return value


def octets(message: Mapping[str, Any], key: str, *, limit: int) -> bytes | None:
    """Data, None where it is absent."""
    value = message.get(key)
    if value is None:
        return None
    if type(value) is not bytes:
        raise BadRequest(f"{key}: expected data")
    if len(value) > limit:
        raise BadRequest(f"{key}: longer than {limit} bytes")
    return value


def boolean(message: Mapping[str, Any], key: str) -> bool:
    """True or false; absent is false."""
    value = message.get(key, False)
    if type(value) is not bool:
        raise BadRequest(f"{key}: expected true or false")
    return value


def dump(message: Mapping[str, Any]) -> bytes:
    """An XML property list, for answers to devices."""
    return plistlib.dumps(dict(message), sort_keys=False)
