"""Authorize the requests of a batch, and write their bindings before they are journaled.

Promises: an ordinary message costs one read, that of its records. An Authenticate also looks up its
certificate, and so does a message with another certificate than the bound one, at most once a minute. If two
replicas bind at the same time, the condition of the write lets one win.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from services.checkin.answers import DeviceRefused
from services.checkin.authorization.certificate_policy import (
    LONGEST_CHAIN,
    BindingRules,
    binding_of,
    brings_binding,
    is_renewal,
    is_strange,
    quarantine_reason,
    refusal,
    unknown_ancestor,
)
from services.checkin.authorization.first_certificate import FirstCertificates, awaits_certificate
from services.checkin.authorization.known_certificates import Known
from services.checkin.authorization.quarantine import QuarantineRecorder
from services.checkin.authorization.reinstallation import recognize_renewal
from services.checkin.exchange import DeviceExchange, not_stored
from shared.concurrency.batching import verdicts
from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.enrollment import MOST_USER_CHANNELS
from shared.domain.errors import Overtaken, Refused
from shared.ports.certificates import IssuedCertificates
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments
from shared.telemetry.metrics import Metrics, Reason

log = structlog.get_logger()

REMEMBERED = 4096
LOOKED_UP_FOR = timedelta(minutes=1)
"""A certificate that was no renewal is not looked up again for so long. It cannot become one: what it is was
recorded before it was handed out."""
NOTHING = Known({}, {})


class Authorizer:
    """Authorizes the requests of a batch, then binds."""

    def __init__(
        self,
        enrollments: Enrollments,
        issued: IssuedCertificates,
        first: FirstCertificates,
        quarantine: QuarantineRecorder,
        rules: BindingRules,
        clock: Clock,
        ids: Ids,
        metrics: Metrics,
    ) -> None:
        self._enrollments = enrollments
        self._issued = issued
        self._first = first
        self._quarantine = quarantine
        self._rules = rules
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._full: BoundedCache[str, float] = BoundedCache(REMEMBERED)
        self._strangers: BoundedCache[tuple[str, str, str], float] = BoundedCache(REMEMBERED)

    async def authorize(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the records of the exchanges, and set the error of those that are refused."""
        begun = {each.request.certificate for each in exchanges if each.handler.begins_enrollment}
        if begun:
            known, _ = await asyncio.gather(self._look_up(begun), self.read_records(exchanges))
            known = await self._trace(exchanges, known)
        else:
            known = NOTHING
            await self.read_records(exchanges)
        if strange := [exchange for exchange in exchanges if self._must_be_looked_up(exchange)]:
            known = await self._recognize(strange, known)
        now = self._clock.now()
        for exchange in exchanges:
            exchange.error = refusal(exchange, known, self._rules, now)
            if exchange.handler.begins_enrollment:
                recognize_renewal(exchange, known)
            if exchange.error is not None:
                reason = quarantine_reason(exchange, known)
                if reason is not None and exchange.device is not None:
                    self._quarantine.add(exchange.device, exchange.request.shown, reason)
        await asyncio.gather(
            *(self._count_users(exchange) for exchange in exchanges if _brings_user(exchange))
        )

    async def _count_users(self, exchange: DeviceExchange) -> None:
        """Refuse a user channel beyond the most of a device. A full device is not counted again for a minute.
        Two channels that come to two replicas at once may both be accepted."""
        device, now = exchange.request.device, self._clock.monotonic()
        if now >= (self._full.get(device) or 0.0):
            if await self._enrollments.count_users(device, MOST_USER_CHANNELS) < MOST_USER_CHANNELS:
                return
            self._full.put(device, now + LOOKED_UP_FOR.total_seconds())
        why = f"{device} has {MOST_USER_CHANNELS} user channels; to forget them, DELETE /v1/devices"
        exchange.error = DeviceRefused(Reason.USER_CHANNELS, why)

    async def _look_up(self, certificates: set[str]) -> Known:
        holders, issued, retired = await asyncio.gather(
            self._enrollments.holders(certificates),
            self._issued.by_fingerprint(certificates),
            self._enrollments.long_retired(certificates),
        )
        return Known(holders, issued, frozenset(retired))

    async def _trace(self, exchanges: Sequence[DeviceExchange], known: Known) -> Known:
        """Look up the ancestors of renewals that no device ever showed; an honest device has none."""
        for _ in range(LONGEST_CHAIN):
            unknown = {
                each for exchange in exchanges if (each := unknown_ancestor(exchange, known))
            }
            if not unknown:
                break
            found = await self._look_up(unknown)
            known = found.beside(known)
            if not found.issued:
                break
        return known

    async def read_records(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the records of their devices and channels."""
        keys = [exchange.request.message.key for exchange in exchanges]
        ids = {key.id for key in keys} | {key.device for key in keys}
        records = await self._enrollments.load(ids)
        for exchange, key in zip(exchanges, keys, strict=True):
            exchange.device, exchange.channel = records.get(key.device), records.get(key.id)

    async def _recognize(self, strange: Sequence[DeviceExchange], known: Known) -> Known:
        """Find renewals among messages whose certificate is not the bound one."""
        found = await self._look_up({exchange.request.certificate for exchange in strange})
        for exchange in strange:
            exchange.issued = found.issued.get(exchange.request.certificate)
            exchange.follows = is_renewal(exchange, found)
            if not exchange.follows and exchange.request.certificate not in found.long_retired:
                until = self._clock.monotonic() + LOOKED_UP_FOR.total_seconds()
                self._strangers.put(_name(exchange), until)
        return found.beside(known)

    def _must_be_looked_up(self, exchange: DeviceExchange) -> bool:
        if not is_strange(exchange):
            return False
        until = self._strangers.get(_name(exchange))
        return awaits_certificate(exchange) or until is None or self._clock.monotonic() >= until

    async def bind(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Write the bindings that the exchanges bring; one that another replica overtook gets an error.
        Before, but after the generations were read, refuse the changes that their device gave up."""
        await refuse_disconnected(exchanges)
        now = self._clock.now()
        binding = [each for each in exchanges if each.is_good and brings_binding(each)]
        if not binding:
            return
        for exchange in binding:
            exchange.binding = binding_of(exchange, now, self._ids.new())
        await self._first.audit(binding)
        bindings = [exchange.binding for exchange in binding if exchange.binding is not None]
        bound = await verdicts(self._enrollments.bind, bindings)
        for exchange, written, verdict in zip(binding, bindings, bound, strict=True):
            if isinstance(verdict, Refused):
                exchange.error = not_stored(exchange, "its record", verdict)
            elif not verdict:
                exchange.error = Overtaken("the binding changed meanwhile")
            elif awaits_certificate(exchange):
                self._first.bound(exchange)
            elif written.outbox_event is not None and written.identity is not None:
                how = written.identity.how
                self._metrics.certificates_rebound.labels(how).inc()
                log.info("certificate_rebound", device=written.key.device, how=how.value)


async def refuse_disconnected(exchanges: Sequence[DeviceExchange]) -> None:
    """Set the error of changes whose device has given the request up (rule 1)."""
    changing = [exchange for exchange in exchanges if exchange.handler.changes_enrollment]
    connected = await asyncio.gather(*(exchange.request.is_connected() for exchange in changing))
    for exchange, is_connected in zip(changing, connected, strict=True):
        if not is_connected:
            exchange.error = Overtaken("the device is gone")


def _brings_user(exchange: DeviceExchange) -> bool:
    """True if the message makes the record of a user channel."""
    is_new_user = exchange.channel is None and not exchange.request.message.key.is_device_channel
    return exchange.is_good and is_new_user and exchange.handler.changes_enrollment


def _name(exchange: DeviceExchange) -> tuple[str, str, str]:
    bound = exchange.device.certificate if exchange.device is not None else None
    return exchange.request.device, exchange.request.certificate, bound or ""
