"""Policy of certificates: which certificate may speak for which enrollment.

An Authenticate binds a certificate to a device, once and for ever: the certificate never speaks for another
device, and a replaced certificate never comes back (a recorded message would bring it back otherwise). A
device that came by migration is bound to the first certificate that it shows here: one of a trusted CA that
no other device holds, until `Enrollment.migrating_until`. A certificate that our SCEP issued for one device
serves that device only. The renewal of the bound certificate replaces it with the first message that shows
it.

Promise (docs/rules.md, rules 4 and 16): a device that installs its enrollment profile again sends
Authenticate and TokenUpdate once more. With the renewal of its certificate it goes on with its enrollment, in
any order of its messages and however often it repeats the Authenticate. It begins a new enrollment with any
other certificate, after the TokenUpdate that follows, and after it left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.checkin.answers import DeviceRefused
from services.checkin.exchange import DeviceExchange
from shared.domain.enrollment import Enrollment, EnrollmentStatus
from shared.domain.errors import Blocked, MdmError, OfNewerVersion
from shared.domain.identity import BoundBy, QuarantineReason
from shared.domain.versions import is_known
from shared.ports.certificates import IssuedCertificate
from shared.telemetry.metrics import Reason

LONGEST_CHAIN = 8
"""Certificates that follow one another and were never shown; an honest device has one at most."""
MOST_BACK = timedelta(days=1)
"""A message may be signed so much earlier than the newest one of its enrollment."""
PRESENT = (EnrollmentStatus.AUTHENTICATED, EnrollmentStatus.ENROLLED)


@dataclass(frozen=True, slots=True)
class BindingRules:
    only_meant: bool = False
    """An Authenticate binds another certificate only if our SCEP issued it for this device
    (MDM_REENROLLMENT=bound)."""
    guards_replays: bool = True
    """A message that changes its enrollment is refused if it was signed over a day before the newest accepted
    one (MDM_REPLAY_GUARD)."""


@dataclass(frozen=True, slots=True)
class Known:
    """The result of a look-up: certificate -> device, and certificate -> record."""

    holders: Mapping[str, str]
    issued: Mapping[str, IssuedCertificate]
    long_retired: frozenset[str] = frozenset()

    def beside(self, other: "Known") -> "Known":
        return Known(
            {**self.holders, **other.holders},
            {**self.issued, **other.issued},
            self.long_retired | other.long_retired,
        )

    def is_retired(self, certificate: str, device: Enrollment | None) -> bool:
        """True if the certificate was the device's and was replaced."""
        if device is None:
            return False
        is_holder = self.holders.get(certificate) == device.id
        is_long = is_holder and certificate in self.long_retired
        return is_long or certificate in device.retired_certificates


def refusal_of(
    exchange: DeviceExchange, known: Known, rules: BindingRules, now: datetime
) -> MdmError | None:
    """The reason to refuse a request; None to serve it. A record whose status only a newer version knows is
    left to a replica of that version."""
    for record in (exchange.device, exchange.channel):
        if record is not None and not is_known(record.status):
            return OfNewerVersion(
                f"the record of {record.id} is {record.status}, of a newer version"
            )
    if exchange.handler.begins_enrollment:
        refused = _refused_authenticate(exchange, known, rules)
    else:
        refused = _refused_sender(exchange, known, now)
    is_guarded = rules.guards_replays and exchange.handler.changes_enrollment
    return refused or (_refused_replay(exchange) if is_guarded else None)


def _refused_replay(exchange: DeviceExchange) -> MdmError | None:
    """A recorded message has a valid signature too; the time of the signature gives it away."""
    at, record = exchange.signed_at, exchange.channel
    if at is None or record is None or record.signed_at is None:
        return None
    if at >= record.signed_at - MOST_BACK:
        return None
    when = f"signed {at:%Y-%m-%d %H:%M}Z, over a day before a message that was taken"
    return DeviceRefused(Reason.REPLAYED, f"{record.id}: {when}")


def _refused_sender(exchange: DeviceExchange, known: Known, now: datetime) -> MdmError | None:
    device, shown = exchange.device, exchange.certificate
    if device is None or device.generation is None:
        return DeviceRefused(Reason.UNKNOWN_DEVICE, "the device never authenticated")
    is_bound = device.certificate == shown.fingerprint
    is_patient = is_bound and device.expired_until is not None and now < device.expired_until
    if shown.is_expired and not is_patient:
        return DeviceRefused(Reason.CERTIFICATE, "device certificate: expired")
    why = None
    if device.certificate is None and device.migrating_until is not None:
        is_late = now > device.migrating_until
        over = "the time to show a first certificate is over" if is_late else None
        why = _not_to_be_bound(exchange, known) or over
    elif not (is_bound or exchange.follows):
        why = "the certificate is not bound to this enrollment"
    if why is not None:
        return DeviceRefused(Reason.BINDING, why)
    is_blocked = device.blocked and exchange.handler.asks_for_command
    return Blocked("the device is blocked") if is_blocked else None


def _refused_authenticate(
    exchange: DeviceExchange, known: Known, rules: BindingRules
) -> MdmError | None:
    exchange.issued = known.issued.get(exchange.certificate.fingerprint)
    if exchange.certificate.is_expired:
        return DeviceRefused(Reason.CERTIFICATE, "device certificate: expired")
    if not exchange.message.key.is_device_channel:
        return DeviceRefused(Reason.MESSAGE, "a user channel cannot authenticate")
    why = _not_to_be_bound(exchange, known)
    if why is None and rules.only_meant:
        why = _not_to_be_rebound(exchange)
    return None if why is None else DeviceRefused(Reason.BINDING, why)


def _not_to_be_bound(exchange: DeviceExchange, known: Known) -> str | None:
    certificate, device_id = exchange.certificate.fingerprint, exchange.message.key.device
    if known.holders.get(certificate, device_id) != device_id:
        return "the certificate is bound to another enrollment"
    if known.is_retired(certificate, exchange.device):
        return "the certificate was replaced by a later enrollment"
    if exchange.issued is not None and not _is_meant_for(exchange.issued, exchange):
        return "the certificate was given out for another device"
    if _follows_replaced(exchange, known):
        return "another certificate has followed the one before it"
    return None


def _ancestors(exchange: DeviceExchange, known: Known) -> list[str]:
    """The certificates that the shown one follows, the nearest first, up to one that was bound."""
    bound, ancestors = _were_bound(exchange, known), []
    found = known.issued.get(exchange.certificate.fingerprint)
    while bound and found is not None and found.renewed_from is not None:
        ancestors.append(found.renewed_from)
        found = None if found.renewed_from in bound else known.issued.get(found.renewed_from)
    return ancestors


def _were_bound(exchange: DeviceExchange, known: Known) -> set[str]:
    """The certificates that are or were bound to its device; none if the device may bind any: it is new, was
    reset, or shows its own."""
    device = exchange.device
    if device is None or device.certificate in (None, exchange.certificate.fingerprint):
        return set()
    retired = {each for each in known.long_retired if known.is_retired(each, device)}
    return {device.certificate or "", *device.retired_certificates, *retired}


def _follows_replaced(exchange: DeviceExchange, known: Known) -> bool:
    """True if the certificate follows a replaced one: a thief of a key may have made renewals early."""
    ancestors = _ancestors(exchange, known)
    if not ancestors or exchange.device is None or ancestors[-1] == exchange.device.certificate:
        return False
    return len(ancestors) > LONGEST_CHAIN or known.is_retired(ancestors[-1], exchange.device)


def unknown_ancestor(exchange: DeviceExchange, known: Known) -> str | None:
    """The next ancestor to look up before an Authenticate can be authorized, if any."""
    ancestors = _ancestors(exchange, known)
    if not ancestors or ancestors[-1] in known.issued:
        return None
    return None if ancestors[-1] in _were_bound(exchange, known) else ancestors[-1]


def _is_meant_for(issued: IssuedCertificate, exchange: DeviceExchange) -> bool:
    """True if it was issued for this device, or for any device."""
    key = exchange.message.key
    if issued.udid is not None and issued.udid not in (key.device, key.udid):
        return False
    serial = issued.serial_number
    if serial is None:
        return True
    known = None if exchange.device is None else exchange.device.inventory.serial_number
    given = exchange.handler.serial_number(exchange.message)
    return serial == (given or known) and known in (None, serial)


def _not_to_be_rebound(exchange: DeviceExchange) -> str | None:
    """A certificate replaces another one only if no other device can have got it. A serial number counts if
    we knew it before: Authenticate itself may give any."""
    device, issued = exchange.device, exchange.issued
    if device is None or device.certificate in (None, exchange.certificate.fingerprint):
        return None
    if issued is not None:
        known = device.inventory.serial_number
        is_by_serial = issued.serial_number is not None and issued.serial_number == known
        if issued.udid is not None or is_by_serial or issued.renewed_from == device.certificate:
            return None
    return "the certificate was not given out for this device"


# --- renewal, and quarantine


def is_strange(exchange: DeviceExchange) -> bool:
    """True if the certificate is not bound but may be a renewal, or that of a device that lost its own."""
    device, shown = exchange.device, exchange.certificate
    if device is None or device.generation is None or exchange.handler.begins_enrollment:
        return False
    if shown.is_expired or device.certificate == shown.fingerprint:
        return False
    return shown.fingerprint not in device.retired_certificates


def is_renewal(exchange: DeviceExchange, known: Known) -> bool:
    """True if its certificate follows the one that is bound to its device."""
    device, certificate = exchange.device, exchange.certificate.fingerprint
    issued = known.issued.get(certificate)
    if device is None or issued is None or issued.renewed_from is None:
        return False
    is_next = issued.renewed_from == device.certificate
    is_its_own = known.holders.get(certificate, device.id) == device.id
    is_retired = known.is_retired(certificate, device)
    return is_next and is_its_own and not is_retired and _is_meant_for(issued, exchange)


def recognize_renewal(exchange: DeviceExchange, known: Known) -> None:
    """Set `renews` of an Authenticate, and `follows` if its certificate is not bound yet."""
    device = exchange.device
    if device is None or device.generation is None or device.status not in PRESENT:
        return
    exchange.follows = is_renewal(exchange, known)
    # The certificate may have come by renewal with another message, and no TokenUpdate followed.
    is_bound = device.certificate == exchange.certificate.fingerprint
    came_by = None if device.identity is None else device.identity.how
    is_under_way = came_by is BoundBy.RENEWAL and device.renewed != device.certificate
    exchange.renews = exchange.follows or (is_bound and is_under_way)


def ends_renewal(exchange: DeviceExchange) -> bool:
    """True if the next Authenticate with this certificate begins a new enrollment."""
    device, handler = exchange.device, exchange.handler
    if device is None or not exchange.message.key.is_device_channel:
        return False
    if handler.begins_enrollment:
        return not exchange.renews
    return handler.completes_enrollment and device.renewing == exchange.certificate.fingerprint


def quarantine_reason(exchange: DeviceExchange, known: Known) -> QuarantineReason | None:
    """The reason why a refused request may be of its device all the same; None if it cannot be."""
    device, shown = exchange.device, exchange.certificate
    if device is None or device.status not in PRESENT:
        return None
    if shown.is_expired:
        is_bound = device.certificate == shown.fingerprint
        return QuarantineReason.EXPIRED if is_bound else None
    if not is_strange(exchange) or known.is_retired(shown.fingerprint, device):
        return None
    if known.holders.get(shown.fingerprint, device.id) != device.id:
        return None
    issued = known.issued.get(shown.fingerprint)
    if issued is not None and not _is_meant_for(issued, exchange):
        return None
    is_reset = device.certificate is None
    return QuarantineReason.UNBOUND if is_reset else QuarantineReason.OTHER_CERTIFICATE
