"""What can refuse a device's request, and what must be written before it is journaled.

Promises: an ordinary message costs one read, that of its records; an Authenticate looks up its certificate
besides, and so does a message with a certificate that is not the bound one, once a minute at most. Two
replicas that bind at the same time are told apart by the conditions of the write.
"""

import asyncio
from collections.abc import Sequence

import structlog

from services.checkin.authorization.certificate_policy import (
    LONGEST_CHAIN,
    BindingRules,
    binding_of,
    brings_binding,
    is_renewal,
    is_strange,
    quarantine_reason,
    refusal,
    untold_ancestor,
)
from services.checkin.authorization.first_certificate import FirstCertificates, awaits_certificate
from services.checkin.authorization.known_certificates import Known
from services.checkin.authorization.quarantine import QuarantineNotes
from services.checkin.authorization.reinstallation import judge_authenticate
from services.checkin.pipeline.exchange import DeviceExchange, DeviceRefused, not_stored
from services.checkin.pipeline.parts import Parts
from shared.apple.messages.checkin import Authenticate
from shared.concurrency.batching import verdicts
from shared.concurrency.bounded_cache import BoundedCache
from shared.domain.enrollment import MOST_USER_CHANNELS
from shared.domain.errors import Overtaken, Refused
from shared.ports.certificates import IssuedCertificates
from shared.telemetry.metrics import Reason

log = structlog.get_logger()

REMEMBERED = 4096
LOOKED_UP_FOR = 60.0
"""Seconds for which a certificate that was nothing to its device is not looked up again. It cannot
become its renewal: what it is was recorded before anybody had it."""
NOTHING = Known({}, {})


class Admission:
    """Judges the requests of a batch, then binds."""

    def __init__(
        self,
        parts: Parts,
        issued: IssuedCertificates,
        notes: QuarantineNotes,
        rules: BindingRules,
    ) -> None:
        self._enrollments = parts.enrollments
        self._clock = parts.clock
        self._ids = parts.ids
        self._metrics = parts.metrics
        self._issued = issued
        self._notes = notes
        self._rules = rules
        self._first = FirstCertificates(parts)
        self._full: BoundedCache[str, float] = BoundedCache(REMEMBERED)
        self._strangers: BoundedCache[tuple[str, str, str], float] = BoundedCache(REMEMBERED)

    async def judge(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the records of the exchanges, and set the error of those that are refused."""
        begun = {
            t.request.certificate for t in exchanges if isinstance(t.request.message, Authenticate)
        }
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
            judge_authenticate(exchange, known)
            if exchange.error is not None:
                reason = quarantine_reason(exchange, known)
                if reason is not None and exchange.device is not None:
                    self._notes.note(exchange.device, exchange.request.shown, reason)
        await asyncio.gather(
            *(self._count_users(exchange) for exchange in exchanges if _brings_user(exchange))
        )

    async def _count_users(self, exchange: DeviceExchange) -> None:
        """Refuse a user channel beyond those that its device may have; a full device is not counted again
        for a minute. Of two that come at once by two replicas both may be taken."""
        device, now = exchange.request.device, self._clock.monotonic()
        if now >= (self._full.get(device) or 0.0):
            if await self._enrollments.count_users(device, MOST_USER_CHANNELS) < MOST_USER_CHANNELS:
                return
            self._full.put(device, now + LOOKED_UP_FOR)
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
        """Look up what is followed by renewals that nobody ever showed: of honest devices none."""
        for _ in range(LONGEST_CHAIN):
            untold = {each for exchange in exchanges if (each := untold_ancestor(exchange, known))}
            if not untold:
                break
            found = await self._look_up(untold)
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
                self._strangers.put(_name(exchange), self._clock.monotonic() + LOOKED_UP_FOR)
        return found.beside(known)

    def _must_be_looked_up(self, exchange: DeviceExchange) -> bool:
        if not is_strange(exchange):
            return False
        until = self._strangers.get(_name(exchange))
        return awaits_certificate(exchange) or until is None or self._clock.monotonic() >= until

    async def bind(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Write the bindings of those that bring one; an error for whom another was faster."""
        now = self._clock.now()
        binding = [exchange for exchange in exchanges if brings_binding(exchange)]
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


def _brings_user(exchange: DeviceExchange) -> bool:
    """Whether it makes the record of a user channel."""
    is_new_user = exchange.channel is None and not exchange.request.message.key.is_device_channel
    return exchange.is_good and is_new_user and exchange.request.changes_enrollment


def _name(exchange: DeviceExchange) -> tuple[str, str, str]:
    bound = exchange.device.certificate if exchange.device is not None else None
    return exchange.request.device, exchange.request.certificate, bound or ""
