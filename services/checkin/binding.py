"""Who may speak for which enrollment: the certificate decides, never the body alone.

A certificate is bound to a device by Authenticate, once and for ever: it cannot speak for another
device, and one that was replaced by a later Authenticate is not heard again (a recorded message of
the time before would otherwise bring it back). A device that came by migration is bound by whatever it
says first (`first_certificate`).
"""

from collections.abc import Mapping
from datetime import datetime

from services.checkin.first_certificate import awaits_certificate, first_binding, first_refusal
from services.checkin.turns import DeviceRefused, Turn
from shared.apple.checkin import Authenticate
from shared.apple.connect import Connect
from shared.domain.enrollment import Enrollment
from shared.domain.errors import Blocked, MdmError
from shared.ports.enrollments import Binding
from shared.telemetry.metrics import Reason


def refusal(turn: Turn, holders: Mapping[str, str], now: datetime) -> MdmError | None:
    """Why this request is not served, None if it is. `holders`: certificate -> its device."""
    request, device = turn.request, turn.device
    if isinstance(request.message, Authenticate):
        return _refused_authenticate(turn, holders)
    if device is None or device.generation is None:
        return DeviceRefused(Reason.UNKNOWN_DEVICE, "the device never authenticated")
    if awaits_certificate(turn):
        refused = first_refusal(turn, holders, now)
        if refused is not None:
            return refused
    elif device.certificate != request.certificate:
        return DeviceRefused(Reason.BINDING, "the certificate is not bound to this enrollment")
    if device.blocked and isinstance(request.message, Connect):
        return Blocked("the device is blocked")
    return None


def _refused_authenticate(turn: Turn, holders: Mapping[str, str]) -> MdmError | None:
    request = turn.request
    if not request.message.key.is_device_channel:
        return DeviceRefused(Reason.MESSAGE, "a user channel cannot authenticate")
    if holders.get(request.certificate, request.device) != request.device:
        return DeviceRefused(Reason.BINDING, "the certificate is bound to another enrollment")
    if turn.device is not None and request.certificate in turn.device.retired_certificates:
        return DeviceRefused(Reason.BINDING, "the certificate was replaced by a later enrollment")
    return None


def binding_of(turn: Turn) -> Binding | None:
    """The binding that an Authenticate writes before it is journaled, and whatever a device of a
    migration says first; None if it stands already."""
    request = turn.request
    if awaits_certificate(turn):
        return first_binding(turn)
    if not isinstance(request.message, Authenticate):
        return None
    if _is_bound(turn.device, request.certificate):
        return None
    return Binding(
        key=request.message.key,
        generation=turn.generation,
        certificate=request.certificate,
        is_new=turn.device is None,
        replaces=None if turn.device is None else turn.device.certificate,
    )


def _is_bound(device: Enrollment | None, certificate: str) -> bool:
    return device is not None and device.certificate == certificate
