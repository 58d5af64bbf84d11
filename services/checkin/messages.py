"""The effect of each kind of device message on the steps that all messages take; `HANDLERS` lists them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

from services.checkin.answers import Answer, DeviceRefused
from shared.apple.messages.checkin import (
    Authenticate,
    CheckOut,
    GetBootstrapToken,
    SetBootstrapToken,
    TokenUpdate,
    Unsupported,
    UserAuthenticate,
    bootstrap_token_answer,
)
from shared.apple.messages.connect import Connect
from shared.domain.enrollment import Enrollment, PushTarget
from shared.domain.errors import CannotDecrypt, MdmError
from shared.ports.enrollments import Change
from shared.telemetry.metrics import Reason

M = TypeVar("M")


class Handler(Generic[M]):
    """The defaults are those of a message that becomes an event and changes nothing."""

    changes_enrollment: ClassVar[bool] = False
    """Its device must still be connected when its change is written (rule 1)."""
    begins_enrollment: ClassVar[bool] = False
    """It binds its certificate, and begins a generation unless it renews (rules 4 and 16)."""
    completes_enrollment: ClassVar[bool] = False
    """The device can be pushed from now on, and a renewal under way has ended (rule 16)."""
    is_never_repeated: ClassVar[bool] = False
    """A device sends it once: it counts although another message of the device was applied first."""
    asks_for_command: ClassVar[bool] = False
    """A blocked device gets 401 for it."""
    has_answer: ClassVar[bool] = False
    """The answer depends on the record of the device."""

    def at_once(self, message: M) -> Answer | MdmError:
        """The answer to a message that makes no event."""
        raise NotImplementedError

    def serial_number(self, message: M) -> str | None:
        """The serial number that the device gives."""
        return None

    def result(self, message: M) -> tuple[str | None, str | None]:
        """The status and the CommandUUID that its event shows."""
        return None, None

    def change(self, message: M, change: Change) -> Change:
        """The change with what this message sets."""
        return change

    def answer(self, message: M, device: Enrollment) -> Answer | MdmError:
        """The answer to a journaled message, where `has_answer`."""
        raise NotImplementedError


class AuthenticateHandler(Handler[Authenticate]):
    changes_enrollment = True
    begins_enrollment = True

    def serial_number(self, message: Authenticate) -> str | None:
        return message.inventory.serial_number

    def change(self, message: Authenticate, change: Change) -> Change:
        return replace(change, inventory=message.inventory)


class TokenUpdateHandler(Handler[TokenUpdate]):
    changes_enrollment = True
    completes_enrollment = True

    def change(self, message: TokenUpdate, change: Change) -> Change:
        push = PushTarget(topic=message.topic, token=message.token, magic=message.push_magic)
        return replace(change, push=push, unlock_token=message.unlock_token)


class CheckOutHandler(Handler[CheckOut]):
    changes_enrollment = True
    is_never_repeated = True


class SetBootstrapTokenHandler(Handler[SetBootstrapToken]):
    changes_enrollment = True

    def change(self, message: SetBootstrapToken, change: Change) -> Change:
        return replace(change, bootstrap_token=message.bootstrap_token)


class GetBootstrapTokenHandler(Handler[GetBootstrapToken]):
    has_answer = True

    def answer(self, message: GetBootstrapToken, device: Enrollment) -> Answer | MdmError:
        if device.unreadable is not None:  # an empty answer would mean that there is no token
            return CannotDecrypt(device.unreadable)
        return Answer(bootstrap_token_answer(device.bootstrap_token))


class UserAuthenticateHandler(Handler[UserAuthenticate]):
    def at_once(self, message: UserAuthenticate) -> Answer:
        return Answer(status=410)


class UnsupportedHandler(Handler[Unsupported]):
    def at_once(self, message: Unsupported) -> DeviceRefused:
        return DeviceRefused(Reason.MESSAGE, f"{message.message_type} is not served")


class ConnectHandler(Handler[Connect]):
    asks_for_command = True

    def result(self, message: Connect) -> tuple[str | None, str | None]:
        return message.status.value, message.command_uuid


HANDLERS: Mapping[type, Handler[Any]] = {
    Authenticate: AuthenticateHandler(),
    TokenUpdate: TokenUpdateHandler(),
    CheckOut: CheckOutHandler(),
    SetBootstrapToken: SetBootstrapTokenHandler(),
    GetBootstrapToken: GetBootstrapTokenHandler(),
    UserAuthenticate: UserAuthenticateHandler(),
    Unsupported: UnsupportedHandler(),
    Connect: ConnectHandler(),
}
