"""A device that installs its enrollment profile anew sends Authenticate and TokenUpdate once more.

Promise (docs/rules.md, rules 4 and 16): with the renewal of its certificate it goes on with its enrollment,
whichever of its messages comes first and however often its Authenticate is repeated; with any other
certificate, once a TokenUpdate has followed, or after it left, it begins a new one.
"""

from services.checkin.authorization.certificate_policy import is_renewal
from services.checkin.authorization.known_certificates import Known
from services.checkin.pipeline.exchange import DeviceExchange
from shared.apple.messages.checkin import Authenticate, TokenUpdate
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.identity import BoundBy

THERE = (EnrollmentStatus.AUTHENTICATED, EnrollmentStatus.ENROLLED)


def judge_authenticate(exchange: DeviceExchange, known: Known) -> None:
    """Set whether an Authenticate renews, and whether its certificate is still to be bound."""
    device = exchange.device
    if not isinstance(exchange.request.message, Authenticate):
        return
    if device is None or device.generation is None or device.status not in THERE:
        return
    exchange.follows = is_renewal(exchange, known)
    exchange.renews = exchange.follows or _is_being_renewed(device, exchange.request.certificate)


def _is_being_renewed(device: Enrollment, certificate: str) -> bool:
    """Whether this certificate came by renewal, perhaps with another message, and nothing has ended that."""
    if device.identity is None or device.certificate != certificate:
        return False
    return device.identity.how is BoundBy.RENEWAL and device.renewed != certificate


def ends_renewal(exchange: DeviceExchange) -> bool:
    """Whether another Authenticate with this certificate begins a new enrollment from this message on."""
    device, message = exchange.device, exchange.request.message
    if device is None or not message.key.is_device_channel:
        return False
    if isinstance(message, Authenticate):
        return not exchange.renews
    return isinstance(message, TokenUpdate) and device.renewing == exchange.request.certificate
