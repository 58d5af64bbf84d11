"""Messages of devices whose profile has one URL for both kinds, as NanoMDM's fleets have.

Promise: MessageType makes a message a check-in, Status a connect. One with both, or with neither, is a
BadRequest: nobody could say for sure what its device means.
"""

from shared.apple.messages.checkin import CheckinMessage, checkin_message
from shared.apple.messages.connect import Connect, connect_message
from shared.apple.messages.keys import read_message
from shared.domain.errors import BadRequest


def parse_either(body: bytes) -> CheckinMessage | Connect:
    """The check-in message or the connect in the body of a request, or BadRequest."""
    message = read_message(body)
    if ("MessageType" in message) == ("Status" in message):
        raise BadRequest("expected MessageType or Status, and not both")
    return checkin_message(message) if "MessageType" in message else connect_message(message)
