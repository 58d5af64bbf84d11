"""Messages that are not served: UserAuthenticate, and all that we do not know."""

from services.checkin.answers import Answer, DeviceRefused
from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import Unsupported, UserAuthenticate
from shared.telemetry.metrics import Reason


class UserAuthenticateHandler(Handler[UserAuthenticate]):
    def at_once(self, message: UserAuthenticate) -> Answer:
        return Answer(status=410)


class UnsupportedHandler(Handler[Unsupported]):
    def at_once(self, message: Unsupported) -> DeviceRefused:
        return DeviceRefused(Reason.MESSAGE, f"{message.message_type} is not served")
