"""A device that installs its enrollment profile again sends Authenticate and TokenUpdate once more.

Promise (docs/rules.md, rules 4 and 16): with the renewal of its certificate the device goes on with its
enrollment, in whatever order its messages come and however often it repeats the Authenticate. It begins a new
enrollment with any other certificate, after the TokenUpdate that follows, and after it left.
"""

from services.checkin.authorization.certificate_policy import is_renewal
from services.checkin.authorization.known_certificates import Known
from services.checkin.exchange import DeviceExchange
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.identity import BoundBy

THERE = (EnrollmentStatus.AUTHENTICATED, EnrollmentStatus.ENROLLED)


def recognize_renewal(exchange: DeviceExchange, known: Known) -> None:
    """Set `renews` of an Authenticate, and `follows` if its certificate is not bound yet."""
    device = exchange.device
    if device is None or device.generation is None or device.status not in THERE:
        return
    exchange.follows = is_renewal(exchange, known)
    exchange.renews = exchange.follows or _is_being_renewed(device, exchange.request.certificate)


def _is_being_renewed(device: Enrollment, certificate: str) -> bool:
    """True if this certificate came by renewal, perhaps with another message, and no TokenUpdate followed."""
    if device.identity is None or device.certificate != certificate:
        return False
    return device.identity.how is BoundBy.RENEWAL and device.renewed != certificate


def ends_renewal(exchange: DeviceExchange) -> bool:
    """True if the next Authenticate with this certificate begins a new enrollment."""
    device, handler = exchange.device, exchange.handler
    if device is None or not exchange.request.message.key.is_device_channel:
        return False
    if handler.begins_enrollment:
        return not exchange.renews
    return handler.completes_enrollment and device.renewing == exchange.request.certificate
