"""The changes that journaled messages make in their enrollments."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from services.checkin.authorization.authorizer import Authorizer, refuse_disconnected
from services.checkin.authorization.reinstallation import ends_renewal
from services.checkin.exchange import DeviceExchange, not_stored
from shared.concurrency.batching import verdicts
from shared.domain.errors import Overtaken, Refused
from shared.ports.clock import Clock
from shared.ports.enrollments import Change, Enrollments
from shared.ports.pushes import PushRequests
from shared.ports.queue import CommandQueue


class EnrollmentChanges:
    """Applies the changes of a batch, each on its condition."""

    def __init__(
        self,
        enrollments: Enrollments,
        queue: CommandQueue,
        push_requests: PushRequests,
        authorizer: Authorizer,
        clock: Clock,
    ) -> None:
        self._enrollments = enrollments
        self._queue = queue
        self._push_requests = push_requests
        self._authorizer = authorizer
        self._clock = clock

    async def apply(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Set the error of each exchange whose change was not applied. Raises StoreUnavailable."""
        outcomes = await verdicts(self._apply, exchanges)
        for exchange, outcome in zip(exchanges, outcomes, strict=True):
            if isinstance(outcome, Refused):
                exchange.error = exchange.error or not_stored(exchange, "its record", outcome)

    async def _apply(self, exchanges: Sequence[DeviceExchange]) -> list[None]:
        """`verdicts` repeats it for some of the exchanges when the store refuses one of them."""
        now = self._clock.now()
        removed = {enrollment for exchange in exchanges for enrollment in exchange.removed}
        if removed:
            await self._enrollments.revive(removed)
        changes = {
            exchange: change for exchange in exchanges if (change := change_of(exchange, now))
        }
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
                await self._queue.end_generation(exchange.request.device, exchange.generation)
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
        before = {exchange: exchange.enrollment for exchange in exchanges}
        await self._authorizer.read_records(exchanges)
        await refuse_disconnected(exchanges)
        again = {
            exchange: change
            for exchange, enrollment in before.items()
            if exchange.is_good and exchange.enrollment == enrollment
            if (change := change_of(exchange, now))
        }
        return await self._applied(again)


def change_of(exchange: DeviceExchange, at: datetime) -> Change | None:
    """The change of a journaled request; None if it changes nothing."""
    request, device, channel = exchange.request, exchange.device, exchange.channel
    if exchange.event is None or not exchange.handler.changes_enrollment:
        return None
    change = Change(
        key=request.message.key,
        by=exchange.event.id,
        expected_generation=None if channel is None else channel.generation,
        expected_change=None if channel is None else channel.changed_by,
        topic=exchange.event.topic,
        at=at,
        generation=exchange.generation,
        certificate=request.certificate,
        renewing=request.certificate if exchange.renews else None,
        renewed=request.certificate if ends_renewal(exchange) else None,
        makes_record=device is None,
        identity=None if exchange.binding is None else exchange.binding.identity,
        known_serial_number=None if device is None else device.inventory.serial_number,
        signed_at=None if request.signed_at is None else min(request.signed_at, at),
    )
    return exchange.handler.change(request.message, change)
