"""Bind a device that came by migration to the first certificate that it shows here.

Promises: the certificate is of a trusted CA (the route looked), no other device holds it, and
`Enrollment.migrating_until` has not come. Of several at once one is bound: the write requires that there is
no binding. The audit log gets its entry first; a crash in between leaves an entry without a binding, never a
binding without an entry.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from services.checkin.answers import DeviceRefused
from services.checkin.exchange import DeviceExchange
from shared.domain.access import AuditEntry
from shared.domain.errors import MdmError
from shared.ports.access import AuditLog
from shared.ports.clock import Clock, Ids
from shared.telemetry.metrics import Metrics, Reason
from shared.times import to_milliseconds

log = structlog.get_logger()

CALLER = "device"
ACTION = "device.first_certificate"


def awaits_certificate(exchange: DeviceExchange) -> bool:
    """True if its device came by migration and is not bound yet."""
    device = exchange.device
    return device is not None and device.certificate is None and device.migrating_until is not None


def first_refusal(
    exchange: DeviceExchange, holders: Mapping[str, str], now: datetime
) -> MdmError | None:
    """The reason not to bind the waiting device to the certificate that it shows; None to bind it."""
    device, certificate = exchange.device, exchange.request.certificate
    assert device is not None and device.migrating_until is not None  # the caller looked
    if exchange.request.shown.is_expired:
        return DeviceRefused(Reason.CERTIFICATE, "device certificate: expired")
    if holders.get(certificate, device.id) != device.id:
        return DeviceRefused(Reason.BINDING, "the certificate is bound to another enrollment")
    if certificate in device.retired_certificates:
        return DeviceRefused(Reason.BINDING, "the certificate was replaced by a later enrollment")
    if now > device.migrating_until:
        return DeviceRefused(Reason.BINDING, "the time to show a first certificate is over")
    return None


class FirstCertificates:
    """Records such bindings."""

    def __init__(self, audit: AuditLog, clock: Clock, ids: Ids, metrics: Metrics) -> None:
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._metrics = metrics

    async def audit(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Write the audit log, before the bindings. Raises StoreUnavailable."""
        entries = [self._entry(exchange) for exchange in exchanges if awaits_certificate(exchange)]
        if entries:
            await self._audit.record(entries)

    def _entry(self, exchange: DeviceExchange) -> AuditEntry:
        return AuditEntry(
            id=self._ids.new(),
            at=to_milliseconds(self._clock.now()),
            caller=CALLER,
            address="",
            route="",
            action=ACTION,
            status=200,
            targets=(exchange.request.device,),
            detail=f"certificate {exchange.request.certificate}",
        )

    def bound(self, exchange: DeviceExchange) -> None:
        """Count and log a binding that was written."""
        self._metrics.migrated_bound.inc()
        log.info(
            "first_certificate_bound",
            device=exchange.request.device,
            certificate=exchange.request.certificate,
        )
