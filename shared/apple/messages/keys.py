"""Read the keys of a device\'s message that the server needs, and no others.

Promise: a property list that Apple's writers make, or that MicroMDM takes, is read, in XML and in binary;
nothing is built but the values of the keys below, so the others have no limit in number and nothing in
them is refused. An answer that a device cannot send otherwise never keeps its queue from going on.

Two readers must not see two senders: a doubled key that says who or what is refused, and so is what is
not well put together. See `shared.apple.plist.xml_form` and `shared.apple.plist.binary_form`.
"""

import re
from typing import Any

from shared.apple.plist import binary_form as plist_binary
from shared.apple.plist import read as plist
from shared.apple.plist.xml_form import MAX_TOKEN, XmlOutline
from shared.domain.errors import BadRequest

_INVENTORY = (
    "SerialNumber",
    "Model",
    "ModelName",
    "ProductName",
    "DeviceName",
    "OSVersion",
    "BuildVersion",
    "IMEI",
    "MEID",
)
WANTED = (plist.UNIQUE_KEYS - {"RequestType"}) | {*_INVENTORY, "AwaitingConfiguration"}

_XML = XmlOutline(WANTED)
_DECLARATION = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*<\?xml(?s:(.{0,%d}?))\?>" % MAX_TOKEN)
_AS_UTF8 = re.compile(
    rb"encoding[ \t\r\n]*=[ \t\r\n]*[\"'](?:utf-?8|(?:us-)?ascii)[\"']", re.IGNORECASE
)


def read_message(body: bytes) -> dict[str, Any]:
    """The outermost keys that we know, those that are there. A value that is neither text, data nor a
    boolean is `shared.apple.plist.xml_form.OTHER`. Raises BadRequest."""
    if len(body) > plist.MAX_BYTES:
        raise BadRequest("plist: too large")
    if body.startswith(b"bplist0"):
        return _message(plist_binary.outermost(body, WANTED))
    text = _in_utf8(body)
    return plist.parse(body) if text is None else _message(_XML.read(text)[0])


def _in_utf8(body: bytes) -> bytes | None:
    """The text of an XML property list; None where it is in an encoding that no device writes."""
    if b"\0" in body[:4]:
        body = body[: len(body) // 2 * 2]
        return body.decode(_sixteen_bits(body), "surrogatepass").encode("utf-8", "surrogatepass")
    declaration = _DECLARATION.match(body)
    if declaration is None or b"encoding" not in declaration[1]:
        return body
    return body if _AS_UTF8.search(declaration[1]) else None


def _sixteen_bits(body: bytes) -> str:
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "utf-16-be" if body[:1] == b"\0" else "utf-16-le"


def _message(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    message = dict[str, Any]()
    for key, value in pairs:
        if key in plist.UNIQUE_KEYS and key in message:
            raise BadRequest(f"plist: {key} is there twice")
        message[key] = _clean(key, value) if isinstance(value, str) else value
    return message


def _clean(key: str, text: str) -> str:
    """Text that any store can keep. What says who or what must be text as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        if key in plist.UNIQUE_KEYS:
            raise BadRequest(f"{key}: holds bytes that are no text") from None
        return text.encode("utf-8", "replace").decode()
    return text
