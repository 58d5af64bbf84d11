"""Authorize the requests of a batch, and write their bindings before they are journaled.

Promises: an ordinary message costs one read, that of its records. An Authenticate also looks up its
certificate, and so does a message with another certificate than the bound one, at most once a minute. If two
replicas bind at the same time, the condition of the write lets one win. The binding of a device that came by
migration gets its entry in the audit log first; a crash in between leaves an entry without a binding, never a
binding without an entry.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from services.checkin.answers import DeviceRefused
from services.checkin.authorization.certificate_policy import (
    LONGEST_CHAIN,
    BindingRules,
    Known,
    is_renewal,
    is_strange,
    quarantine_reason,
    recognize_renewal,
    refusal_of,
    unknown_ancestor,
)
from services.checkin.authorization.quarantine import QuarantineRecorder
from services.checkin.exchange import DeviceExchange, not_stored
from shared.concurrency.batching import verdicts
from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.access import AuditEntry
from shared.domain.binding import Binding, rebinding
from shared.domain.enrollment import MOST_USER_CHANNELS
from shared.domain.errors import Overtaken, Refused
from shared.domain.identity import BoundBy, Identity
from shared.ports.access import AuditLog
from shared.ports.certificates import IssuedCertificates
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments
from shared.telemetry.metrics import Metrics, Reason
from shared.times import to_milliseconds

log = structlog.get_logger()

REMEMBERED = 4096
LOOKED_UP_FOR = timedelta(minutes=1)
"""A certificate that was no renewal is not looked up again for so long. It cannot become one: what it is was
recorded before it was handed out."""


class Authorizer:
    def __init__(
        self,
        enrollments: Enrollments,
        issued: IssuedCertificates,
        audit: AuditLog,
        quarantine: QuarantineRecorder,
        rules: BindingRules,
        clock: Clock,
        ids: Ids,
        metrics: Metrics,
    ) -> None:
        self._enrollments = enrollments
        self._issued = issued
        self._audit = audit
        self._quarantine = quarantine
        self._rules = rules
        self._clock = clock
        self._ids = ids
        self._metrics = metrics
        self._full: BoundedCache[str, float] = BoundedCache(REMEMBERED)
        self._strangers: BoundedCache[tuple[str, str, str], float] = BoundedCache(REMEMBERED)

    async def authorize(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the records of the exchanges, and set the error of those that are refused."""
        begun = {e.certificate.fingerprint for e in exchanges if e.handler.begins_enrollment}
        if begun:
            known, _ = await asyncio.gather(self._look_up(begun), self.read_records(exchanges))
            known = await self._trace(exchanges, known)
        else:
            known = Known({}, {})
            await self.read_records(exchanges)
        if strange := [exchange for exchange in exchanges if self._must_be_looked_up(exchange)]:
            known = await self._recognize(strange, known)
        now = self._clock.now()
        for exchange in exchanges:
            exchange.error = refusal_of(exchange, known, self._rules, now)
            if exchange.handler.begins_enrollment:
                recognize_renewal(exchange, known)
            if exchange.error is not None:
                reason = quarantine_reason(exchange, known)
                if reason is not None and exchange.device is not None:
                    self._quarantine.add(exchange.device, exchange.certificate, reason)
        new_users = [
            exchange
            for exchange in exchanges
            if exchange.error is None and exchange.handler.changes_enrollment
            if exchange.channel is None and not exchange.message.key.is_device_channel
        ]
        await asyncio.gather(*map(self._count_users, new_users))

    async def _count_users(self, exchange: DeviceExchange) -> None:
        """Refuse a user channel beyond the most of a device. A full device is not counted again for a minute.
        Two channels that come to two replicas at once may both be accepted."""
        device, now = exchange.message.key.device, self._clock.monotonic()
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
        keys = [exchange.message.key for exchange in exchanges]
        ids = {key.id for key in keys} | {key.device for key in keys}
        # Of all messages, only one that the record answers needs what is encrypted there.
        answers = any(exchange.handler.has_answer for exchange in exchanges)
        records = await self._enrollments.load(ids, secrets=answers)
        for exchange, key in zip(exchanges, keys, strict=True):
            device = exchange.device = records.get(key.device)
            exchange.channel = records.get(key.id)
            exchange.generation = None if device is None else device.generation

    async def _recognize(self, strange: Sequence[DeviceExchange], known: Known) -> Known:
        """Find renewals among messages whose certificate is not the bound one."""
        found = await self._look_up({exchange.certificate.fingerprint for exchange in strange})
        until = self._clock.monotonic() + LOOKED_UP_FOR.total_seconds()
        for exchange in strange:
            certificate = exchange.certificate.fingerprint
            exchange.issued = found.issued.get(certificate)
            exchange.follows = is_renewal(exchange, found)
            if not exchange.follows and certificate not in found.long_retired:
                self._strangers.put(_name(exchange), until)
        return found.beside(known)

    def _must_be_looked_up(self, exchange: DeviceExchange) -> bool:
        if not is_strange(exchange):
            return False
        until = self._strangers.get(_name(exchange)) or 0.0
        return _awaits_certificate(exchange) or self._clock.monotonic() >= until

    async def bind(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Write the bindings that the exchanges bring; one that another replica overtook gets an error.
        Before, but after the generations were read, refuse the changes that their device gave up."""
        await refuse_disconnected(exchanges)
        binding = [each for each in exchanges if each.error is None and _brings_binding(each)]
        if not binding:
            return
        now = self._clock.now()
        bindings = [_binding_of(exchange, now, self._ids.new()) for exchange in binding]
        await self._record_migrated(binding)
        bound = await verdicts(self._enrollments.bind, bindings)
        for exchange, written, verdict in zip(binding, bindings, bound, strict=True):
            exchange.binding = written
            if isinstance(verdict, Refused):
                exchange.error = not_stored(exchange, "its record", verdict)
            elif not verdict:
                exchange.error = Overtaken("the binding changed meanwhile")
            else:
                self._note_bound(exchange, written)

    async def _record_migrated(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Write the audit log about first certificates, before they are bound. Raises StoreUnavailable."""
        entries = [
            AuditEntry(
                id=self._ids.new(),
                at=to_milliseconds(self._clock.now()),
                caller="device",
                address="",
                route="",
                action="device.first_certificate",
                status=200,
                targets=(exchange.message.key.device,),
                detail=f"certificate {exchange.certificate.fingerprint}",
            )
            for exchange in exchanges
            if _awaits_certificate(exchange)
        ]
        if entries:
            await self._audit.record(entries)

    def _note_bound(self, exchange: DeviceExchange, written: Binding) -> None:
        device = written.key.device
        if _awaits_certificate(exchange):
            self._metrics.migrated_bound.inc()
            log.info("first_certificate_bound", device=device, certificate=written.certificate)
        elif written.outbox_event is not None and written.identity is not None:
            how = written.identity.how
            self._metrics.certificates_rebound.labels(how).inc()
            log.info("certificate_rebound", device=device, how=how.value)


async def refuse_disconnected(exchanges: Sequence[DeviceExchange]) -> None:
    """Set the error of changes whose device has given the request up (rule 1)."""
    changing = [exchange for exchange in exchanges if exchange.handler.changes_enrollment]
    connected = await asyncio.gather(*(exchange.is_connected() for exchange in changing))
    for exchange, is_connected in zip(changing, connected, strict=True):
        if not is_connected:
            exchange.error = Overtaken("the device is gone")


def _awaits_certificate(exchange: DeviceExchange) -> bool:
    """True if its device came by migration and is not bound yet."""
    device = exchange.device
    return device is not None and device.certificate is None and device.migrating_until is not None


def _brings_binding(exchange: DeviceExchange) -> bool:
    bound = exchange.device and exchange.device.certificate
    if bound == exchange.certificate.fingerprint:
        return False
    begins = exchange.handler.begins_enrollment
    return exchange.follows or begins or _awaits_certificate(exchange)


def _binding_of(exchange: DeviceExchange, at: datetime, id_: str) -> Binding:
    """The binding that it writes; `id_` names the event of a rebinding."""
    device, parameters, how = exchange.device, exchange.url_params, BoundBy.AUTHENTICATE
    if exchange.follows:
        how = BoundBy.RENEWAL
    elif _awaits_certificate(exchange):
        how = BoundBy.MIGRATION
    begins = exchange.handler.begins_enrollment
    if not begins and device is not None and device.identity is not None:
        parameters = device.identity.parameters
    is_ours = exchange.issued is not None
    identity = Identity(exchange.certificate, at, how, is_ours, parameters)
    if device is not None:
        return rebinding(device, identity, id_)
    fingerprint = exchange.certificate.fingerprint
    return Binding(exchange.message.key, None, fingerprint, is_new=True, identity=identity)


def _name(exchange: DeviceExchange) -> tuple[str, str, str]:
    bound = exchange.device.certificate if exchange.device is not None else None
    return exchange.message.key.device, exchange.certificate.fingerprint, bound or ""
