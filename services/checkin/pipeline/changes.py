"""The changes that journaled messages make in their enrollments."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.checkin.authorization.authorizer import Authorizer, refuse_disconnected
from services.checkin.authorization.certificate_policy import ends_renewal
from services.checkin.exchange import DeviceExchange, not_stored
from services.checkin.pipeline.derived import DerivedEvents
from shared.concurrency.batching import verdicts
from shared.domain.enrollment import EnrollmentStatus
from shared.domain.errors import Overtaken, Refused
from shared.ports.clock import Clock
from shared.ports.enrollments import Change, Enrollments
from shared.ports.pushes import PushRequests
from shared.ports.queue import CommandQueue


class EnrollmentChanges:
    def __init__(
        self,
        enrollments: Enrollments,
        queue: CommandQueue,
        push_requests: PushRequests,
        authorizer: Authorizer,
        derived: DerivedEvents,
        clock: Clock,
    ) -> None:
        self._enrollments = enrollments
        self._queue = queue
        self._push_requests = push_requests
        self._authorizer = authorizer
        self._derived = derived
        self._clock = clock

    async def apply(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Set the error of each exchange whose change was not applied. Raises StoreUnavailable."""
        outcomes = await verdicts(self._apply, exchanges)
        for exchange, outcome in zip(exchanges, outcomes, strict=True):
            if isinstance(outcome, Refused):
                exchange.settle(not_stored(exchange, "its record", outcome))

    async def _apply(self, exchanges: Sequence[DeviceExchange]) -> list[None]:
        """`verdicts` repeats it for some of the exchanges when the store refuses one of them."""
        now = self._clock.now()
        removed = {
            record.id
            for exchange in exchanges
            # An Authenticate begins such a record again without help.
            if not exchange.handler.begins_enrollment
            for record in (exchange.device, exchange.channel)
            if record is not None and record.status is EnrollmentStatus.REMOVED
        }
        if removed:
            await self._enrollments.revive(removed)
        if self._derived.wanted.now:
            self._derived.of_changes(exchanges, now)
        changes = _changes_of(exchanges, now)
        applied = await self._applied(changes)
        overtaken = [
            each for each in changes if each not in applied and each.handler.is_never_repeated
        ]
        if overtaken:
            applied |= await self._apply_again(overtaken, now)
        for exchange, change in changes.items():
            if exchange not in applied:
                exchange.error = Overtaken("the enrollment changed meanwhile")
            elif change.begins_generation and exchange.generation is not None:
                await self._queue.end_generation(change.key.device, exchange.generation)
            elif exchange.handler.completes_enrollment:
                # Commands may have waited for the push token.
                self._push_requests.add([change.key.id])
        return [None] * len(exchanges)

    async def _applied(self, changes: Mapping[DeviceExchange, Change]) -> set[DeviceExchange]:
        applied = await self._enrollments.apply(list(changes.values())) if changes else []
        return {each for each, is_applied in zip(changes, applied, strict=True) if is_applied}

    async def _apply_again(
        self, exchanges: Sequence[DeviceExchange], now: datetime
    ) -> set[DeviceExchange]:
        """While its device waits for the answer, the message that was applied first was sent before this
        one, so this one counts once more in the same enrollment (rule 1)."""
        before = [_enrollment_of(exchange) for exchange in exchanges]
        await self._authorizer.read_records(exchanges)
        await refuse_disconnected(exchanges)
        same = [
            exchange
            for exchange, enrollment in zip(exchanges, before, strict=True)
            if exchange.error is None and _enrollment_of(exchange) == enrollment
        ]
        if self._derived.wanted.now:
            self._derived.of_changes(same, now)
        return await self._applied(_changes_of(same, now))


def _enrollment_of(exchange: DeviceExchange) -> tuple[str | None, str | None]:
    return exchange.generation, None if exchange.device is None else exchange.device.certificate


def _changes_of(exchanges: Sequence[DeviceExchange], at: datetime) -> dict[DeviceExchange, Change]:
    """The changes of journaled requests; those that change nothing are left out."""
    changes = {}
    for exchange in exchanges:
        if exchange.event is None or not exchange.handler.changes_enrollment:
            continue
        device, channel = exchange.device, exchange.channel
        certificate, signed_at = exchange.certificate.fingerprint, exchange.signed_at
        change = Change(
            key=exchange.message.key,
            by=exchange.event.id,
            expected_generation=None if channel is None else channel.generation,
            expected_change=None if channel is None else channel.changed_by,
            topic=exchange.event.topic,
            at=at,
            generation=exchange.generation,
            certificate=certificate,
            renewing=certificate if exchange.renews else None,
            renewed=certificate if ends_renewal(exchange) else None,
            makes_record=device is None,
            was_enrolled=device is not None and device.has_enrolled,
            identity=None if exchange.binding is None else exchange.binding.identity,
            known_serial_number=None if device is None else device.inventory.serial_number,
            signed_at=None if signed_at is None else min(signed_at, at),
            outbox_event=exchange.outbox_event,
        )
        changes[exchange] = exchange.handler.change(exchange.message, change)
    return changes
