"""The message of a connecting device: that it is idle, or how a command went.

Promise: a Connect that comes out has a known status, and a CommandUUID unless it is Idle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from shared.apple.messages.checkin import CheckinMessage, checkin_message
from shared.apple.messages.keys import enrollment_key, read_message
from shared.apple.plist import read as plist
from shared.domain.enrollment import EnrollmentKey
from shared.domain.errors import BadRequest
from shared.domain.event import Topic


class Status(StrEnum):
    """Apple's words."""

    IDLE = "Idle"
    ACKNOWLEDGED = "Acknowledged"
    ERROR = "Error"
    COMMAND_FORMAT_ERROR = "CommandFormatError"
    NOT_NOW = "NotNow"


@dataclass(frozen=True, slots=True)
class Connect:
    """`command_uuid` is None exactly for Idle."""

    event: ClassVar[Topic] = Topic.CONNECT
    key: EnrollmentKey
    status: Status
    command_uuid: str | None = None


def parse_connect(body: bytes) -> Connect:
    """The message in the body of a connect request, or BadRequest."""
    return connect_message(read_message(body))


def connect_message(message: Mapping[str, Any]) -> Connect:
    """The connect that this property list is, or BadRequest."""
    word = plist.required_identifier(message, "Status")
    try:
        status = Status(word)
    except ValueError:
        raise BadRequest("Status: unknown") from None
    key = enrollment_key(message)
    if status is Status.IDLE:
        return Connect(key, status)
    return Connect(key, status, plist.required_identifier(message, "CommandUUID"))


def parse_either(body: bytes) -> CheckinMessage | Connect:
    """The message of a device whose profile has one URL for both kinds, as NanoMDM's fleets have.

    MessageType makes it a check-in, Status a connect. BadRequest for both or neither: it could mean either.
    """
    message = read_message(body)
    if ("MessageType" in message) == ("Status" in message):
        raise BadRequest("expected MessageType or Status, and not both")
    return checkin_message(message) if "MessageType" in message else connect_message(message)
