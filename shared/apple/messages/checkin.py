"""Check-in messages: bytes in, frozen dataclasses out, and the one answer that has a body.

Promise: a message that comes out is complete and typed; any other body is a BadRequest.
`event` is the webhook topic of a message, None where it makes no event.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shared.apple.messages.keys import INVENTORY, enrollment_key, read_message
from shared.apple.plist import read as plist
from shared.domain.enrollment import EnrollmentKey, Inventory
from shared.domain.errors import BadRequest
from shared.domain.event import Topic

MAX_TOKEN = 4 * 1024
MAX_SECRET = 64 * 1024


@dataclass(frozen=True, slots=True)
class Authenticate:
    """An enrollment begins. `topic` is that of the push certificate; simulators leave it empty."""

    event: ClassVar[Topic] = Topic.AUTHENTICATE
    key: EnrollmentKey
    topic: str
    inventory: Inventory


@dataclass(frozen=True, slots=True)
class TokenUpdate:
    """All that a push needs. `unlock_token` is None where the device did not send one."""

    event: ClassVar[Topic] = Topic.TOKEN_UPDATE
    key: EnrollmentKey
    topic: str
    token: bytes = field(repr=False)
    push_magic: str = field(repr=False)
    unlock_token: bytes | None = field(default=None, repr=False)
    awaiting_configuration: bool = False


@dataclass(frozen=True, slots=True)
class CheckOut:
    """The MDM profile was removed."""

    event: ClassVar[Topic] = Topic.CHECK_OUT
    key: EnrollmentKey


@dataclass(frozen=True, slots=True)
class SetBootstrapToken:
    """Keep this token; an empty one means that there is none any more."""

    event: ClassVar[Topic] = Topic.SET_BOOTSTRAP_TOKEN
    key: EnrollmentKey
    bootstrap_token: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class GetBootstrapToken:
    event: ClassVar[Topic] = Topic.GET_BOOTSTRAP_TOKEN
    key: EnrollmentKey


@dataclass(frozen=True, slots=True)
class UserAuthenticate:
    """A network user logs in; answered 410: we manage no such users."""

    event: ClassVar[None] = None
    key: EnrollmentKey


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A message of Apple's that we do not serve yet; answered 400."""

    event: ClassVar[None] = None
    key: EnrollmentKey
    message_type: str


CheckinMessage = (
    Authenticate
    | TokenUpdate
    | CheckOut
    | SetBootstrapToken
    | GetBootstrapToken
    | UserAuthenticate
    | Unsupported
)


def parse_checkin(body: bytes) -> CheckinMessage:
    """The message in the body of a check-in request, or BadRequest."""
    return checkin_message(read_message(body))


def checkin_message(message: Mapping[str, Any]) -> CheckinMessage:
    """The check-in message that this property list is, or BadRequest."""
    message_type = plist.required_identifier(message, "MessageType")
    read = _READERS.get(message_type)
    if read is None:
        raise BadRequest("MessageType: unknown")
    return read(message, enrollment_key(message))


def bootstrap_token_answer(token: bytes | None) -> bytes:
    """The answer to GetBootstrapToken; empty data where none was ever set."""
    return plist.dump({"BootstrapToken": token or b""})


def _authenticate(message: Mapping[str, Any], key: EnrollmentKey) -> Authenticate:
    # A user channel begins with its TokenUpdate; its device has the certificate and the generation.
    if not key.is_device_channel:
        raise BadRequest("UserID: Authenticate belongs to the device channel")
    inventory = {name: plist.text(message, apple) for name, apple in INVENTORY.items()}
    inventory["serial_number"] = plist.identifier(message, "SerialNumber")
    topic = plist.identifier(message, "Topic") or ""
    return Authenticate(key=key, topic=topic, inventory=Inventory(**inventory))


def _token_update(message: Mapping[str, Any], key: EnrollmentKey) -> TokenUpdate:
    token = plist.octets(message, "Token", limit=MAX_TOKEN)
    if not token:
        raise BadRequest("Token: missing")
    return TokenUpdate(
        key=key,
        topic=plist.identifier(message, "Topic") or "",
        token=token,
        push_magic=plist.required_identifier(message, "PushMagic"),
        unlock_token=plist.octets(message, "UnlockToken", limit=MAX_SECRET) or None,
        awaiting_configuration=plist.boolean(message, "AwaitingConfiguration"),
    )


def _set_bootstrap_token(message: Mapping[str, Any], key: EnrollmentKey) -> SetBootstrapToken:
    token = plist.octets(message, "BootstrapToken", limit=MAX_SECRET)
    return SetBootstrapToken(key=key, bootstrap_token=token or b"")


_READERS: Mapping[str, Callable[[Mapping[str, Any], EnrollmentKey], CheckinMessage]] = {
    "Authenticate": _authenticate,
    "TokenUpdate": _token_update,
    "CheckOut": lambda _message, key: CheckOut(key),
    "SetBootstrapToken": _set_bootstrap_token,
    "GetBootstrapToken": lambda _message, key: GetBootstrapToken(key),
    "UserAuthenticate": lambda _message, key: UserAuthenticate(key),
    "DeclarativeManagement": lambda message, key: Unsupported(key, message["MessageType"]),
    "GetToken": lambda message, key: Unsupported(key, message["MessageType"]),
}
