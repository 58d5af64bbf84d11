"""CheckOut: the device leaves."""

from services.checkin.messages.handler import Handler
from shared.apple.messages.checkin import CheckOut


class CheckOutHandler(Handler[CheckOut]):
    changes_enrollment = True
    is_never_repeated = True
