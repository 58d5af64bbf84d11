"""Devices that came by migration: each is bound to the first certificate that it shows here.

Promises: only a certificate of a trusted CA (the route looked), held by nobody else, and only until
`Enrollment.migrating_until`; of several at once exactly one is bound, since the binding is written on
condition that there is none. Every such binding has its entry in the audit log, which is written first;
a crash in between leaves an entry without a binding, never the other way round.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import structlog

from services.checkin.pipeline.exchange import DeviceExchange, DeviceRefused
from services.checkin.pipeline.parts import Parts
from shared.domain.access import AuditEntry
from shared.domain.errors import MdmError
from shared.telemetry.metrics import Reason
from shared.times import to_milliseconds

log = structlog.get_logger()

CALLER = "device"
ACTION = "device.first_certificate"


def awaits_certificate(exchange: DeviceExchange) -> bool:
    """Whether its device came by migration and is bound to no certificate yet."""
    device = exchange.device
    return device is not None and device.certificate is None and device.migrating_until is not None


def first_refusal(
    exchange: DeviceExchange, holders: Mapping[str, str], now: datetime
) -> MdmError | None:
    """Why the device of this exchange, which awaits its certificate, is not bound to the one it shows."""
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
    """What is read and written around such bindings."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def audit(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Before the bindings are written: into the audit log. Raises StoreUnavailable."""
        entries = [self._entry(exchange) for exchange in exchanges if awaits_certificate(exchange)]
        if entries and self._parts.audit is not None:
            await self._parts.audit.record(entries)

    def _entry(self, exchange: DeviceExchange) -> AuditEntry:
        return AuditEntry(
            id=self._parts.ids.new(),
            at=to_milliseconds(self._parts.clock.now()),
            caller=CALLER,
            address="",
            route="",
            action=ACTION,
            status=200,
            targets=(exchange.request.device,),
            detail=f"certificate {exchange.request.certificate}",
        )

    def bound(self, exchange: DeviceExchange) -> None:
        """After the binding was written."""
        self._parts.metrics.migrated_bound.inc()
        log.info(
            "first_certificate_bound",
            device=exchange.request.device,
            certificate=exchange.request.certificate,
        )
