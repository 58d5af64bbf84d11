"""Describe the payload of an InstallProfile that no device will take.

Promise: a payload that may be a profile is never doubted; for any bytes, nothing is raised and the time is
bounded.
"""

import binascii
import re
from base64 import b64decode
from xml.parsers import expat

from shared.apple.plist import read as plist
from shared.apple.profiles.read import (
    KEY,
    MAX_BYTES,
    MAX_OBJECTS,
    payload_identifier,
    signed_content,
)
from shared.domain.errors import BadRequest

_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")
_BEGINNINGS = (b"<", b"bplist00", b"0", b"\xef\xbb\xbf<")
"""The possible beginnings of a profile: XML, a binary property list, DER."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def payload_doubt(payload: bytes) -> str | None:
    """The kind of a payload that is no profile; None if it may be one."""
    if len(payload) > MAX_BYTES or payload_identifier(payload) is not None:
        return None
    start = payload.lstrip()
    if not start:
        return "is empty"
    if start.startswith(b"-----BEGIN"):
        return "is PEM, not a profile: send what is in it, as DER"
    if _is_base64_of_a_profile(payload):
        return "is base64 twice: encode the profile once"
    return _of_form(payload, start)


def _of_form(payload: bytes, start: bytes) -> str | None:
    if payload[:1] == b"0":
        return _of_signed(payload)
    if payload.startswith(b"bplist00"):
        return _of_binary(payload)
    if start.startswith((b"<", b"\xef\xbb\xbf<")):
        return _of_xml(start)
    is_utf_16 = payload.startswith(_UTF_16)
    return None if is_utf_16 else "is no profile: neither XML, nor binary, nor signed"


def _is_base64_of_a_profile(payload: bytes) -> bool:
    if not _BASE64.fullmatch(payload[:64]):
        return False
    try:
        decoded = b64decode(b"".join(payload[:64].split())[:40])
    except (binascii.Error, ValueError):
        return False
    return decoded.lstrip().startswith(_BEGINNINGS)


def _of_signed(payload: bytes) -> str | None:
    content = signed_content(payload)
    if content is None:
        return "is DER, but no signed profile"
    doubt = None if content[:1] == b"0" else payload_doubt(content)
    return f"is signed, but what was signed {doubt}" if doubt else None


def _of_binary(payload: bytes) -> str | None:
    if MAX_OBJECTS < int.from_bytes(payload[-24:-16], "big") <= len(payload):
        return None  # too many to look at, and there may be so many
    try:
        found = plist.parse(payload)
    except BadRequest as exc:
        return f"cannot be read ({exc})"
    return None if KEY in found else "has no PayloadIdentifier"


def _of_xml(text: bytes) -> str | None:
    parser, roots = expat.ParserCreate(), list[str]()

    def begin(tag: str, _attributes: object) -> None:
        roots.append(tag)
        parser.StartElementHandler = None

    parser.StartElementHandler = begin
    try:
        parser.Parse(text, True)
    except expat.ExpatError as exc:
        return f"is broken XML (line {exc.lineno}, column {exc.offset})"
    except (ValueError, LookupError):  # an encoding that expat, or Python, does not know
        return None
    return None if roots == ["plist"] else "is XML, but no property list"
