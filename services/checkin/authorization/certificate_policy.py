"""Policy of certificates: which certificate may speak for which enrollment.

An Authenticate binds a certificate to a device, once and for ever: the certificate never speaks for another
device, and a replaced certificate never comes back (a recorded message would bring it back otherwise). A
device that came by migration is bound by its first message (`first_certificate`). A certificate that our SCEP
issued for one device serves that device only. The renewal of the bound certificate replaces it with the first
message that shows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.checkin.answers import DeviceRefused
from services.checkin.authorization.first_certificate import awaits_certificate, first_refusal
from services.checkin.authorization.known_certificates import Known
from services.checkin.exchange import DeviceExchange
from shared.domain.binding import Binding, rebinding
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import Blocked, MdmError, OfNewerVersion
from shared.domain.identity import BoundBy, Identity, QuarantineReason
from shared.domain.versions import is_known
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason

LONGEST_CHAIN = 8
"""Certificates that follow one another and were never shown; an honest device has one at most."""
MOST_BACK = timedelta(days=1)
"""A message may be signed so much earlier than the newest one of its enrollment."""
ANOTHERS = "the certificate was given out for another device"
REPLACED = "the certificate was replaced by a later enrollment"


@dataclass(frozen=True, slots=True)
class BindingRules:
    """The operator's decisions."""

    only_meant: bool = False
    """An Authenticate binds another certificate only if our SCEP issued it for this device
    (MDM_REENROLLMENT=bound)."""
    guards_replays: bool = True
    """A message that changes its enrollment is refused if it was signed over a day before the newest accepted
    one (MDM_REPLAY_GUARD)."""


def refusal(
    exchange: DeviceExchange, known: Known, rules: BindingRules, now: datetime
) -> MdmError | None:
    """The reason to refuse a request; None to serve it."""
    refused = _refused_record(exchange) or _refused_sender(exchange, known, rules, now)
    return refused or _refused_replay(exchange, rules)


def _refused_record(exchange: DeviceExchange) -> MdmError | None:
    """Leave a record whose status only a newer version knows to a replica of that version."""
    for record in (exchange.device, exchange.channel):
        if record is not None and not is_known(record.status):
            return OfNewerVersion(
                f"the record of {record.id} is {record.status}, of a newer version"
            )
    return None


def _refused_replay(exchange: DeviceExchange, rules: BindingRules) -> MdmError | None:
    """A recorded message has a valid signature too; the time of the signature gives it away."""
    signed_at, record = exchange.request.signed_at, exchange.channel
    if not (rules.guards_replays and exchange.handler.changes_enrollment) or record is None:
        return None
    if signed_at is None or record.signed_at is None or signed_at >= record.signed_at - MOST_BACK:
        return None
    when = f"signed {signed_at:%Y-%m-%d %H:%M}Z, over a day before a message that was taken"
    return DeviceRefused(Reason.REPLAYED, f"{record.id}: {when}")


def _refused_sender(
    exchange: DeviceExchange, known: Known, rules: BindingRules, now: datetime
) -> MdmError | None:
    if exchange.handler.begins_enrollment:
        return _refused_authenticate(exchange, known, rules)
    if exchange.device is None or exchange.device.generation is None:
        return DeviceRefused(Reason.UNKNOWN_DEVICE, "the device never authenticated")
    if awaits_certificate(exchange):
        refused = first_refusal(exchange, known.holders, now)
        if refused is None and known.is_retired(exchange.request.certificate, exchange.device):
            refused = DeviceRefused(Reason.BINDING, REPLACED)
        elif refused is None and exchange.issued and not _is_meant_for(exchange.issued, exchange):
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
    if device.blocked and exchange.handler.asks_for_command:
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
    """The certificates that the shown one follows, the nearest first, up to one that was bound."""
    bound = _were_bound(exchange, known)
    found = known.issued.get(exchange.request.certificate)
    while bound and found is not None and found.renewed_from is not None:
        yield found.renewed_from
        found = None if found.renewed_from in bound else known.issued.get(found.renewed_from)


def _were_bound(exchange: DeviceExchange, known: Known) -> set[str]:
    """The certificates that are or were bound to its device; none if the device may bind any: it is new, was
    reset, or shows its own."""
    device = exchange.device
    if device is None or device.certificate in (None, exchange.request.certificate):
        return set()
    retired = {each for each in known.long_retired if known.is_retired(each, device)}
    return {device.certificate or "", *device.retired_certificates, *retired}


def _follows_replaced(exchange: DeviceExchange, known: Known) -> bool:
    """True if the certificate follows a replaced one: a thief of a key may have made renewals early."""
    ancestors = list(_ancestors(exchange, known))
    if not ancestors or exchange.device is None or ancestors[-1] == exchange.device.certificate:
        return False
    return len(ancestors) > LONGEST_CHAIN or known.is_retired(ancestors[-1], exchange.device)


def unknown_ancestor(exchange: DeviceExchange, known: Known) -> str | None:
    """The next ancestor to look up before an Authenticate can be authorized, if any."""
    last = next(reversed(list(_ancestors(exchange, known))), None)
    is_known = last is None or last in _were_bound(exchange, known) or last in known.issued
    return None if is_known else last


def _is_meant_for(issued: IssuedCertificate, exchange: DeviceExchange) -> bool:
    """True if it was issued for this device, or for any device."""
    key = exchange.request.message.key
    if issued.udid is not None and issued.udid not in (key.device, key.udid):
        return False
    serial = issued.serial_number
    if serial is None:
        return True
    known = None if exchange.device is None else exchange.device.inventory.serial_number
    given = exchange.handler.serial_number(exchange.request.message)
    return serial == (given or known) and known in (None, serial)


def _not_to_be_rebound(exchange: DeviceExchange, rules: BindingRules) -> str | None:
    device = exchange.device
    if not rules.only_meant or device is None or device.certificate is None:
        return None
    if _is_bound(device, exchange.request.certificate) or _is_proof(exchange.issued, device):
        return None
    return "the certificate was not given out for this device"


def _is_proof(issued: IssuedCertificate | None, device: Enrollment) -> bool:
    """True if only this device can have got the certificate. A serial number counts if we knew it before:
    Authenticate itself may give any."""
    if issued is None:
        return False
    known = device.inventory.serial_number
    is_by_serial = issued.serial_number is not None and issued.serial_number == known
    return issued.udid is not None or is_by_serial or issued.renewed_from == device.certificate


# --- renewal, and quarantine


def is_strange(exchange: DeviceExchange) -> bool:
    """True if the certificate is not bound but may be a renewal, or that of a device that lost its own."""
    device, request = exchange.device, exchange.request
    if device is None or device.generation is None or exchange.handler.begins_enrollment:
        return False
    if request.shown.is_expired or device.certificate == request.certificate:
        return False
    return request.certificate not in device.retired_certificates


def is_renewal(exchange: DeviceExchange, known: Known) -> bool:
    """True if its certificate follows the one that is bound to its device."""
    device, issued = exchange.device, known.issued.get(exchange.request.certificate)
    if device is None or issued is None or issued.renewed_from is None:
        return False
    is_next = issued.renewed_from == device.certificate
    is_its_own = known.holders.get(exchange.request.certificate, device.id) == device.id
    is_retired = known.is_retired(exchange.request.certificate, device)
    return is_next and is_its_own and not is_retired and _is_meant_for(issued, exchange)


def quarantine_reason(exchange: DeviceExchange, known: Known) -> QuarantineReason | None:
    """The reason why a refused request may be of its device all the same; None if it cannot be."""
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
    """True if a request writes a binding before it is journaled."""
    begins = exchange.handler.begins_enrollment
    brings = exchange.follows or begins or awaits_certificate(exchange)
    return brings and not _is_bound(exchange.device, exchange.request.certificate)


def binding_of(exchange: DeviceExchange, at: datetime, id_: str) -> Binding:
    """The binding that it writes; `id_` names the event of a rebinding."""
    request, device = exchange.request, exchange.device
    parameters = request.url_params
    begins = exchange.handler.begins_enrollment
    if not begins and device is not None and device.identity is not None:
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
