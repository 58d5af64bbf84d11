"""Read the keys of a device's message that the server needs, and no others.

Promise: a property list that Apple's writers make, or that MicroMDM takes, is read, in XML and in binary;
nothing is built but the values of the keys below, so the others have no limit in number and nothing in
them is refused. An answer that a device cannot send otherwise never keeps its queue from going on.

Two readers must not see two senders: a doubled key that says who or what is refused, and so is what is
not well put together. See `shared.apple.plist.xml_form` and `shared.apple.plist.binary_form`.
"""

import re
from collections.abc import Mapping
from typing import Any

from shared.apple.plist import binary_form as plist_binary
from shared.apple.plist import read as plist
from shared.apple.plist.xml_form import APPLES_HEAD, MAX_TOKEN, XmlOutline
from shared.domain.enrollment import SHARED_IPAD_USER, EnrollmentKey
from shared.domain.errors import BadRequest

INVENTORY = {
    "serial_number": "SerialNumber",
    "model": "Model",
    "model_name": "ModelName",
    "product_name": "ProductName",
    "device_name": "DeviceName",
    "os_version": "OSVersion",
    "build_version": "BuildVersion",
    "imei": "IMEI",
    "meid": "MEID",
}
"""Our names and Apple's."""
WANTED = (plist.UNIQUE_KEYS - {"RequestType"}) | {*INVENTORY.values(), "AwaitingConfiguration"}

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
    if body.startswith(APPLES_HEAD):
        return body
    if b"\0" in body[:4]:
        order = "utf-16-be" if body[:1] == b"\0" else "utf-16-le"
        encoding = "utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else order
        text = body[: len(body) // 2 * 2].decode(encoding, "surrogatepass")
        return text.encode("utf-8", "surrogatepass")
    declaration = _DECLARATION.match(body)
    if declaration is None or b"encoding" not in declaration[1]:
        return body
    return body if _AS_UTF8.search(declaration[1]) else None


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


def enrollment_key(message: Mapping[str, Any]) -> EnrollmentKey:
    """The sender of a message. A UDID goes before an EnrollmentID.

    Two senders of one kind never get the same id. A UDID and an EnrollmentID of the same text do: then the
    binding of the first one's certificate refuses the second. A device's id holds no colon, so that the
    first colon of an id is where the user begins.
    """
    udid = plist.identifier(message, "UDID")
    if udid is not None:
        return _key(udid, _user_of_device(message), udid=udid)
    enrollment_id = plist.identifier(message, "EnrollmentID")
    if enrollment_id is not None:
        user = plist.identifier(message, "EnrollmentUserID")
        return _key(enrollment_id, user, enrollment_id=enrollment_id)
    raise BadRequest("UDID: missing, and EnrollmentID too")


def _user_of_device(message: Mapping[str, Any]) -> str | None:
    user = plist.identifier(message, "UserID")
    if user is None or user.upper() != SHARED_IPAD_USER:
        return user
    short_name = plist.identifier(message, "UserShortName")
    if short_name is None:
        raise BadRequest("UserShortName: missing on the user channel of a Shared iPad")
    return short_name


def _key(
    device: str, user: str | None, *, udid: str | None = None, enrollment_id: str | None = None
) -> EnrollmentKey:
    if ":" in device:
        raise BadRequest(f"{'UDID' if udid else 'EnrollmentID'}: holds a colon")
    return EnrollmentKey(
        id=device if user is None else f"{device}:{user}",
        device=device,
        udid=udid,
        enrollment_id=enrollment_id,
        user=user,
    )
