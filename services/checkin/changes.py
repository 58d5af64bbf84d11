"""What each message changes in its enrollment."""

from datetime import datetime

from services.checkin.turns import Turn
from shared.apple.checkin import Authenticate, CheckOut, SetBootstrapToken, TokenUpdate
from shared.domain.enrollment import EnrollmentStatus, PushTarget
from shared.domain.event import Topic
from shared.ports import Change


def change_of(turn: Turn, at: datetime) -> Change | None:
    """The change of a journaled request, None if it changes nothing."""
    if turn.event is None:
        return None
    message = turn.request.message
    change = Change(
        key=message.key,
        by=turn.event.id,
        expected_generation=turn.generation,
        topic=turn.event.topic,
        at=at,
        push=_push_of(message) if isinstance(message, TokenUpdate) else None,
        unlock_token=message.unlock_token if isinstance(message, TokenUpdate) else None,
        bootstrap_token=message.bootstrap_token if isinstance(message, SetBootstrapToken) else None,
        inventory=message.inventory if isinstance(message, Authenticate) else None,
    )
    if isinstance(message, Authenticate | TokenUpdate | CheckOut | SetBootstrapToken):
        return change
    was_removed = turn.device is not None and turn.device.status is EnrollmentStatus.REMOVED
    # A device that an API client removed has spoken again: its record is made anew.
    is_connect = turn.event.topic is Topic.CONNECT
    return change if was_removed and is_connect and message.key.is_device_channel else None


def _push_of(message: TokenUpdate) -> PushTarget:
    return PushTarget(topic=message.topic, token=message.token, magic=message.push_magic)
