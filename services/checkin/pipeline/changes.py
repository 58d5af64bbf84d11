"""What each message changes in its enrollment."""

from datetime import datetime

from services.checkin.authorization.reinstallation import ends_renewal
from services.checkin.pipeline.exchange import DeviceExchange
from shared.apple.messages.checkin import Authenticate, CheckOut, SetBootstrapToken, TokenUpdate
from shared.domain.enrollment import PushTarget
from shared.ports.enrollments import Change


def change_of(exchange: DeviceExchange, at: datetime) -> Change | None:
    """The change of a journaled request, None if it changes nothing."""
    message = exchange.request.message
    changes = isinstance(message, Authenticate | TokenUpdate | CheckOut | SetBootstrapToken)
    if exchange.event is None or not changes:
        return None
    return Change(
        key=message.key,
        by=exchange.event.id,
        expected_generation=None if exchange.channel is None else exchange.channel.generation,
        expected_change=None if exchange.channel is None else exchange.channel.changed_by,
        topic=exchange.event.topic,
        at=at,
        generation=exchange.generation,
        certificate=exchange.request.certificate,
        renewing=exchange.request.certificate if exchange.renews else None,
        renewed=exchange.request.certificate if ends_renewal(exchange) else None,
        makes_record=exchange.device is None,
        push=_push_of(message) if isinstance(message, TokenUpdate) else None,
        unlock_token=message.unlock_token if isinstance(message, TokenUpdate) else None,
        bootstrap_token=message.bootstrap_token if isinstance(message, SetBootstrapToken) else None,
        inventory=message.inventory if isinstance(message, Authenticate) else None,
        identity=None if exchange.binding is None else exchange.binding.identity,
        known_serial_number=None
        if exchange.device is None
        else exchange.device.inventory.serial_number,
        signed_at=None
        if exchange.request.signed_at is None
        else min(exchange.request.signed_at, at),
    )


def _push_of(message: TokenUpdate) -> PushTarget:
    return PushTarget(topic=message.topic, token=message.token, magic=message.push_magic)
