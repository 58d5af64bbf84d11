"""The sender of a message: the one place that turns Apple's identity keys into an EnrollmentKey.

Promise: two senders of one kind never get the same id. A UDID and an EnrollmentID of the same text do:
then the binding of the first one's certificate refuses the second. A device's id holds no colon, so
that the first colon of an id is where the user begins.
"""

from collections.abc import Mapping
from typing import Any

from shared.apple.plist.read import identifier
from shared.domain.enrollment import SHARED_IPAD_USER, EnrollmentKey
from shared.domain.errors import BadRequest


def enrollment_key(message: Mapping[str, Any]) -> EnrollmentKey:
    """The enrollment that a device message speaks for. A UDID goes before an EnrollmentID."""
    udid = identifier(message, "UDID")
    if udid is not None:
        return _key(udid, _user_of_device(message), udid=udid)
    enrollment_id = identifier(message, "EnrollmentID")
    if enrollment_id is not None:
        user = identifier(message, "EnrollmentUserID")
        return _key(enrollment_id, user, enrollment_id=enrollment_id)
    raise BadRequest("UDID: missing, and EnrollmentID too")


def _user_of_device(message: Mapping[str, Any]) -> str | None:
    user = identifier(message, "UserID")
    if user is None or user.upper() != SHARED_IPAD_USER:
        return user
    short_name = identifier(message, "UserShortName")
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
