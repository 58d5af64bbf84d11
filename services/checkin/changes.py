"""What each message changes in its enrollment."""

from datetime import datetime

from services.checkin.reinstalling import ends_renewal
from services.checkin.turns import Turn
from shared.apple.checkin import Authenticate, CheckOut, SetBootstrapToken, TokenUpdate
from shared.domain.enrollment import PushTarget
from shared.ports.enrollments import Change


def change_of(turn: Turn, at: datetime) -> Change | None:
    """The change of a journaled request, None if it changes nothing."""
    message = turn.request.message
    changes = isinstance(message, Authenticate | TokenUpdate | CheckOut | SetBootstrapToken)
    if turn.event is None or not changes:
        return None
    return Change(
        key=message.key,
        by=turn.event.id,
        expected_generation=None if turn.channel is None else turn.channel.generation,
        expected_change=None if turn.channel is None else turn.channel.changed_by,
        topic=turn.event.topic,
        at=at,
        generation=turn.generation,
        certificate=turn.request.certificate,
        renewing=turn.request.certificate if turn.renews else None,
        renewed=turn.request.certificate if ends_renewal(turn) else None,
        makes_record=turn.device is None,
        push=_push_of(message) if isinstance(message, TokenUpdate) else None,
        unlock_token=message.unlock_token if isinstance(message, TokenUpdate) else None,
        bootstrap_token=message.bootstrap_token if isinstance(message, SetBootstrapToken) else None,
        inventory=message.inventory if isinstance(message, Authenticate) else None,
        identity=None if turn.binding is None else turn.binding.identity,
        known_serial_number=None if turn.device is None else turn.device.inventory.serial_number,
        signed_at=None if turn.request.signed_at is None else min(turn.request.signed_at, at),
    )


def _push_of(message: TokenUpdate) -> PushTarget:
    return PushTarget(topic=message.topic, token=message.token, magic=message.push_magic)
