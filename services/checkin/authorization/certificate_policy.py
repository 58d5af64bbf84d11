"""Who may speak for which enrollment: the certificate decides, never the body alone.

A certificate is bound to a device by Authenticate, once and for ever: it cannot speak for another
device, and one that was replaced is not heard again (a recorded message of the time before would
otherwise bring it back). A device that came by migration is bound by whatever it says first
(`first_certificate`). One that our SCEP gave out for a certain device is that device's alone. The
renewal of the certificate that is bound takes its place with its first message, whichever that is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.checkin.authorization.first_certificate import awaits_certificate, first_refusal
from services.checkin.authorization.known_certificates import Known
from services.checkin.pipeline.exchange import DeviceExchange, DeviceRefused
from shared.apple.messages.checkin import Authenticate
from shared.apple.messages.connect import Connect
from shared.domain.binding import Binding, rebinding
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import Blocked, MdmError, OfNewerVersion
from shared.domain.identity import BoundBy, Identity, QuarantineReason
from shared.domain.versions import is_known
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason

LONGEST_CHAIN = 8
"""Certificates, each following the one before, of which none was ever shown: nobody has more than one."""
MOST_BACK = timedelta(days=1)
"""So much earlier than its newest message another one of a device may be signed."""
ANOTHERS = "the certificate was given out for another device"
REPLACED = "the certificate was replaced by a later enrollment"


@dataclass(frozen=True, slots=True)
class BindingRules:
    """What the operator decides.

    `guards_replays`: a message that changes its enrollment is refused if it was signed over a day before the
    newest that was taken (MDM_REPLAY_GUARD). `only_meant`: a device that has a certificate gets another one
    by Authenticate only where our SCEP gave it out for this device (MDM_REENROLLMENT=bound).
    """

    only_meant: bool = False
    guards_replays: bool = True


def refusal(
    exchange: DeviceExchange, known: Known, rules: BindingRules, now: datetime
) -> MdmError | None:
    """Why this request is not served, None if it is."""
    refused = _refused_record(exchange) or _refused_sender(exchange, known, rules, now)
    return refused or _refused_replay(exchange, rules)


def _refused_record(exchange: DeviceExchange) -> MdmError | None:
    """A record in a status that only a newer version knows: a replica of that one serves the device."""
    for record in (exchange.device, exchange.channel):
        if record is not None and not is_known(record.status):
            return OfNewerVersion(
                f"the record of {record.id} is {record.status}, of a newer version"
            )
    return None


def _refused_replay(exchange: DeviceExchange, rules: BindingRules) -> MdmError | None:
    """A message that was recorded is as well signed as a new one; its time tells them apart."""
    signed_at, record = exchange.request.signed_at, exchange.channel
    if not (rules.guards_replays and exchange.request.changes_enrollment) or record is None:
        return None
    if signed_at is None or record.signed_at is None or signed_at >= record.signed_at - MOST_BACK:
        return None
    when = f"signed {signed_at:%Y-%m-%d %H:%M}Z, over a day before a message that was taken"
    return DeviceRefused(Reason.REPLAYED, f"{record.id}: {when}")


def _refused_sender(
    exchange: DeviceExchange, known: Known, rules: BindingRules, now: datetime
) -> MdmError | None:
    if isinstance(exchange.request.message, Authenticate):
        return _refused_authenticate(exchange, known, rules)
    if exchange.device is None or exchange.device.generation is None:
        return DeviceRefused(Reason.UNKNOWN_DEVICE, "the device never authenticated")
    if awaits_certificate(exchange):
        refused = first_refusal(exchange, known.holders, now)
        if refused is None and known.is_retired(exchange.request.certificate, exchange.device):
            refused = DeviceRefused(Reason.BINDING, REPLACED)
        if (
            refused is None
            and exchange.issued is not None
            and not _is_meant_for(exchange.issued, exchange)
        ):
            refused = DeviceRefused(Reason.BINDING, ANOTHERS)
    else:
        refused = _refused_certificate(exchange, exchange.device, now)
    return refused or _refused_connect(exchange, exchange.device)


def _refused_certificate(
    exchange: DeviceExchange, device: Enrollment, now: datetime
) -> MdmError | None:
    request = exchange.request
    if request.shown.is_expired and not _is_patient(exchange, device, now):
        return DeviceRefused(Reason.CERTIFICATE, "device certificate: expired")
    if device.certificate != request.certificate and not exchange.follows:
        return DeviceRefused(Reason.BINDING, "the certificate is not bound to this enrollment")
    return None


def _is_patient(exchange: DeviceExchange, device: Enrollment, now: datetime) -> bool:
    is_bound = device.certificate == exchange.request.certificate
    return is_bound and device.expired_until is not None and now < device.expired_until


def _refused_connect(exchange: DeviceExchange, device: Enrollment) -> MdmError | None:
    if device.blocked and isinstance(exchange.request.message, Connect):
        return Blocked("the device is blocked")
    return None


def _refused_authenticate(
    exchange: DeviceExchange, known: Known, rules: BindingRules
) -> MdmError | None:
    request = exchange.request
    exchange.issued = known.issued.get(request.certificate)
    if request.shown.is_expired:
        return DeviceRefused(Reason.CERTIFICATE, "device certificate: expired")
    if not request.message.key.is_device_channel:
        return DeviceRefused(Reason.MESSAGE, "a user channel cannot authenticate")
    why = _not_to_be_bound(exchange, known) or _not_to_be_rebound(exchange, rules)
    return None if why is None else DeviceRefused(Reason.BINDING, why)


def _not_to_be_bound(exchange: DeviceExchange, known: Known) -> str | None:
    request = exchange.request
    if known.holders.get(request.certificate, request.device) != request.device:
        return "the certificate is bound to another enrollment"
    if known.is_retired(request.certificate, exchange.device):
        return REPLACED
    if exchange.issued is not None and not _is_meant_for(exchange.issued, exchange):
        return ANOTHERS
    if _follows_replaced(exchange, known):
        return "another certificate has followed the one before it"
    return None


def _ancestors(exchange: DeviceExchange, known: Known) -> Iterator[str]:
    """What the certificate that is shown follows, the nearest first, up to one that was bound."""
    bound = _were_bound(exchange, known)
    found = known.issued.get(exchange.request.certificate)
    while bound and found is not None and found.renewed_from is not None:
        yield found.renewed_from
        found = None if found.renewed_from in bound else known.issued.get(found.renewed_from)


def _were_bound(exchange: DeviceExchange, known: Known) -> set[str]:
    """Certificates that are or were its device's; none where it has another free choice: it is new, was
    reset, or shows its own."""
    device = exchange.device
    if device is None or device.certificate in (None, exchange.request.certificate):
        return set()
    retired = {each for each in known.long_retired if known.is_retired(each, device)}
    return {device.certificate or "", *device.retired_certificates, *retired}


def _follows_replaced(exchange: DeviceExchange, known: Known) -> bool:
    """Whoever had a device's key while it was good may have made renewals, and kept them."""
    ancestors = list(_ancestors(exchange, known))
    if not ancestors or exchange.device is None or ancestors[-1] == exchange.device.certificate:
        return False
    return len(ancestors) > LONGEST_CHAIN or known.is_retired(ancestors[-1], exchange.device)


def untold_ancestor(exchange: DeviceExchange, known: Known) -> str | None:
    """The certificate of which it must be looked up what it follows, before an Authenticate is judged."""
    last = next(reversed(list(_ancestors(exchange, known))), None)
    is_told = last is None or last in _were_bound(exchange, known) or last in known.issued
    return None if is_told else last


def _is_meant_for(issued: IssuedCertificate, exchange: DeviceExchange) -> bool:
    """Whether it was given out for this device, or for any."""
    key = exchange.request.message.key
    if issued.udid is not None and issued.udid not in (key.device, key.udid):
        return False
    serial = issued.serial_number
    if serial is None:
        return True
    known = None if exchange.device is None else exchange.device.inventory.serial_number
    return serial == (_told_serial(exchange) or known) and known in (None, serial)


def _told_serial(exchange: DeviceExchange) -> str | None:
    message = exchange.request.message
    return message.inventory.serial_number if isinstance(message, Authenticate) else None


def _not_to_be_rebound(exchange: DeviceExchange, rules: BindingRules) -> str | None:
    device = exchange.device
    if not rules.only_meant or device is None or device.certificate is None:
        return None
    if _is_bound(device, exchange.request.certificate) or _is_proof(exchange.issued, device):
        return None
    return "the certificate was not given out for this device"


def _is_proof(issued: IssuedCertificate | None, device: Enrollment) -> bool:
    """Whether a certificate that is meant for whoever shows it can only be this device's. A serial
    number is what Authenticate says, so it must be what we know already."""
    if issued is None:
        return False
    known = device.inventory.serial_number
    is_by_serial = issued.serial_number is not None and issued.serial_number == known
    return issued.udid is not None or is_by_serial or issued.renewed_from == device.certificate


# --- renewal, and quarantine


def is_strange(exchange: DeviceExchange) -> bool:
    """Whether a certificate that is not bound may yet be a renewal, or a device's that lost its own."""
    device, request = exchange.device, exchange.request
    if device is None or device.generation is None or isinstance(request.message, Authenticate):
        return False
    if request.shown.is_expired or device.certificate == request.certificate:
        return False
    return request.certificate not in device.retired_certificates


def is_renewal(exchange: DeviceExchange, known: Known) -> bool:
    """Whether its certificate follows the one that is bound to its device."""
    device, issued = exchange.device, known.issued.get(exchange.request.certificate)
    if device is None or issued is None or issued.renewed_from is None:
        return False
    is_next = issued.renewed_from == device.certificate
    is_its_own = known.holders.get(exchange.request.certificate, device.id) == device.id
    is_retired = known.is_retired(exchange.request.certificate, device)
    return is_next and is_its_own and not is_retired and _is_meant_for(issued, exchange)


def quarantine_reason(exchange: DeviceExchange, known: Known) -> QuarantineReason | None:
    """Why a refused request may be one of its device all the same, None where it cannot."""
    device, request = exchange.device, exchange.request
    if device is None or device.status not in (
        EnrollmentStatus.ENROLLED,
        EnrollmentStatus.AUTHENTICATED,
    ):
        return None
    if request.shown.is_expired:
        is_bound = device.certificate == request.certificate
        return QuarantineReason.EXPIRED if is_bound else None
    if not is_strange(exchange) or known.is_retired(request.certificate, device):
        return None
    if known.holders.get(request.certificate, device.id) != device.id:
        return None
    issued = known.issued.get(request.certificate)
    if issued is not None and not _is_meant_for(issued, exchange):
        return None
    is_reset = device.certificate is None
    return QuarantineReason.UNBOUND if is_reset else QuarantineReason.OTHER_CERTIFICATE


# --- what is written


def brings_binding(exchange: DeviceExchange) -> bool:
    """Whether a request writes a binding before it is journaled."""
    is_authenticate = isinstance(exchange.request.message, Authenticate)
    brings = exchange.follows or is_authenticate or awaits_certificate(exchange)
    return brings and not _is_bound(exchange.device, exchange.request.certificate)


def binding_of(exchange: DeviceExchange, at: datetime, id_: str) -> Binding:
    """The binding that it writes; `id_` names the event of a rebinding."""
    request, device = exchange.request, exchange.device
    parameters = request.url_params
    if (
        not isinstance(request.message, Authenticate)
        and device is not None
        and device.identity is not None
    ):
        parameters = device.identity.parameters
    identity = Identity(
        certificate=request.shown,
        bound_at=at,
        how=_how(exchange),
        is_ours=exchange.issued is not None,
        parameters=parameters,
    )
    if device is None:
        key = request.message.key
        return Binding(key, None, identity.certificate.fingerprint, is_new=True, identity=identity)
    return rebinding(device, identity, id_)


def _how(exchange: DeviceExchange) -> BoundBy:
    if exchange.follows:
        return BoundBy.RENEWAL
    return BoundBy.MIGRATION if awaits_certificate(exchange) else BoundBy.AUTHENTICATE


def _is_bound(device: Enrollment | None, certificate: str) -> bool:
    return device is not None and device.certificate == certificate
