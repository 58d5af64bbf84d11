"""Device requests go through their steps in batches: admit, journal, apply, publish, answer.

Promises (docs/rules.md, rules 1, 2 and 8): whatever can refuse a request comes before the journal;
a 200 means that the message is in the journal, its effect stored, and its event either confirmed by
the broker or covered by its device's mark; one bad request never fails its neighbours.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime

import structlog

from services.checkin.authorization.authorizer import Admission
from services.checkin.journal.last_seen import LastSeen
from services.checkin.pipeline.changes import change_of
from services.checkin.pipeline.connect import Commands
from services.checkin.pipeline.exchange import (
    Answer,
    DeviceExchange,
    DeviceRefused,
    DeviceRequest,
    not_stored,
)
from services.checkin.pipeline.parts import Parts, Step
from services.checkin.refusals.senders import Senders
from shared.apple.messages.checkin import (
    CheckOut,
    GetBootstrapToken,
    TokenUpdate,
    Unsupported,
    UserAuthenticate,
    bootstrap_token_answer,
)
from shared.apple.messages.connect import Connect
from shared.concurrency.batching import verdicts
from shared.domain.errors import (
    CannotDecrypt,
    MdmError,
    Overtaken,
    Refused,
    StoreUnavailable,
    Unavailable,
)
from shared.domain.event import Event
from shared.ports.enrollments import Change, Mark
from shared.telemetry.metrics import Reason

log = structlog.get_logger()


class DeviceBatch:
    """The steps; `handle` is the handler of `shared.concurrency.batching.BatchExecutor`."""

    def __init__(
        self, parts: Parts, seen: LastSeen, admission: Admission, senders: Senders
    ) -> None:
        self._parts = parts
        self._senders = senders
        self._admission = admission
        self._seen = seen
        self._commands = Commands(parts.queue, parts.clock, parts.ids, parts.metrics)

    async def handle(self, requests: list[DeviceRequest]) -> Sequence[Answer | Exception]:
        """Per request its answer or its error. Raises what fails all of them: then nobody is answered
        200, and what was journaled is published or found again by the writer."""
        self._parts.metrics.batch_size.observe(len(requests))
        exchanges = [DeviceExchange(request) for request in requests]
        term = self._parts.journal.term
        await self._admit(exchanges)
        await self._parts.reached(Step.ADMITTED, exchanges)
        try:
            good = [exchange for exchange in exchanges if exchange.is_good]
            await _side_by_side(self._journal(good, term), self._commands.fetch(_connects(good)))
            await self._parts.reached(Step.JOURNALED, exchanges)
            await self._apply(
                [
                    exchange
                    for exchange in exchanges
                    if exchange.is_good and exchange.event is not None
                ]
            )
            await self._parts.reached(Step.APPLIED, exchanges)
            await self._publish([exchange for exchange in exchanges if exchange.event is not None])
        finally:
            # Whatever went wrong: a number that stays open would hold the watermark for ever.
            for exchange in exchanges:
                if exchange.event is not None and not exchange.is_safe:
                    self._parts.writer.doubt(exchange.event)
        now = self._parts.clock.now()
        for exchange in exchanges:
            if exchange.is_good and exchange.event is not None:
                self._parts.metrics.messages_accepted.labels(exchange.event.topic).inc()
                if not exchange.request.changes_enrollment:  # a change has written it already
                    self._seen.note(exchange.request.message.key.id, now)
        return [exchange.outcome for exchange in exchanges]

    # --- what can refuse

    async def _admit(self, exchanges: Sequence[DeviceExchange]) -> None:
        await asyncio.gather(
            self._admission.judge(exchanges), self._commands.look(_connects(exchanges))
        )
        self._senders.learn(exchanges)
        for exchange in exchanges:
            exchange.error = exchange.error or _without_event(exchange)
        await self._check_connected([exchange for exchange in exchanges if exchange.is_good])
        await self._admission.bind([exchange for exchange in exchanges if exchange.is_good])

    async def _check_connected(self, exchanges: Sequence[DeviceExchange]) -> None:
        """After the generation was read: a request that its device gave up changes nothing."""
        changing = [exchange for exchange in exchanges if exchange.request.changes_enrollment]
        connected = await asyncio.gather(
            *(exchange.request.is_connected() for exchange in changing)
        )
        for exchange, is_connected in zip(changing, connected, strict=True):
            if not is_connected:
                exchange.error = Overtaken("the device is gone")

    # --- the journal, then the state

    async def _journal(self, exchanges: Sequence[DeviceExchange], term: object) -> None:
        """`term`: before the marks were read. A server that was deposed shows a mark as it was before, so an
        event that it let through might be published before one that waits."""
        events = []
        for exchange in exchanges:
            if exchange.request.message.event is not None:
                exchange.event = self._event_of(exchange)
                events.append((exchange, exchange.event))
        if not events:
            return
        stored = await verdicts(self._parts.journal.append, [event for _, event in events])
        is_same = self._parts.journal.term == term
        for (exchange, event), verdict in zip(events, stored, strict=True):
            if verdict is True and is_same:
                self._parts.metrics.events_journaled.inc()
                continue
            exchange.error = StoreUnavailable("the journal does not answer, or its primary changed")
            if isinstance(verdict, Refused):
                exchange.error = not_stored(exchange, "its message", verdict)
            exchange.event = None
            self._parts.writer.doubt(event)  # it may be stored all the same

    def _event_of(self, exchange: DeviceExchange) -> Event:
        request, message = exchange.request, exchange.request.message
        upto = exchange.device.waiting.upto if exchange.device is not None else None
        number, at = self._parts.writer.stamp(after=upto or 0)
        assert message.event is not None  # the caller looked
        connect = message if isinstance(message, Connect) else None
        return Event(
            id=self._parts.ids.new(),
            topic=message.event,
            key=message.key,
            created_at=at,
            raw_payload=request.body,
            writer=self._parts.writer.id,
            number=number,
            url_params=request.url_params,
            status=connect.status.value if connect else None,
            command_uuid=connect.command_uuid if connect else None,
        )

    async def _apply(self, exchanges: Sequence[DeviceExchange]) -> None:
        """From here on an error costs its request the 200, but its event is published all the same:
        it is in the journal."""
        connects = _connects(exchanges)
        try:
            await _side_by_side(
                self._change_enrollments(exchanges),
                self._commands.report(connects),
                self._commands.mark_sent(connects),
            )
        except (Unavailable, Refused) as exc:
            for exchange in exchanges:
                exchange.error = exchange.error or exc
        for exchange in exchanges:
            if (
                isinstance(exchange.request.message, GetBootstrapToken)
                and exchange.device is not None
            ):
                if (
                    exchange.device.unreadable is not None
                ):  # an empty answer would say: there is none
                    exchange.error = exchange.error or CannotDecrypt(exchange.device.unreadable)
                exchange.answer = Answer(bootstrap_token_answer(exchange.device.bootstrap_token))

    async def _change_enrollments(self, exchanges: Sequence[DeviceExchange]) -> None:
        outcomes = await verdicts(self._change, exchanges)
        for exchange, outcome in zip(exchanges, outcomes, strict=True):
            if isinstance(outcome, Refused):
                exchange.error = exchange.error or not_stored(exchange, "its record", outcome)

    async def _change(self, exchanges: Sequence[DeviceExchange]) -> list[None]:
        """May be done again for some of the exchanges, when the store refuses what one of them writes."""
        now = self._parts.clock.now()
        removed = {enrollment for exchange in exchanges for enrollment in exchange.removed}
        if removed:
            await self._parts.enrollments.revive(removed)
        changes = {
            exchange: change
            for exchange in exchanges
            if (change := change_of(exchange, now)) is not None
        }
        applied = await self._apply_changes(changes)
        if overtaken := [
            exchange for exchange in changes if exchange not in applied and _is_check_out(exchange)
        ]:
            applied |= await self._check_out_again(overtaken, now)
        for exchange, change in changes.items():
            if exchange not in applied:
                exchange.error = Overtaken("the enrollment changed meanwhile")
            elif change.begins_generation and exchange.generation is not None:
                await self._parts.queue.end_generation(exchange.request.device, exchange.generation)
            elif isinstance(exchange.request.message, TokenUpdate):
                # Now the device can be pushed: for commands that waited for its token.
                self._parts.push_requests.add([exchange.request.message.key.id])
        return [None] * len(exchanges)

    async def _apply_changes(self, changes: Mapping[DeviceExchange, Change]) -> set[DeviceExchange]:
        """Those of which the change was applied."""
        applied = await self._parts.enrollments.apply(list(changes.values())) if changes else []
        return {
            exchange for exchange, is_applied in zip(changes, applied, strict=True) if is_applied
        }

    async def _check_out_again(
        self, exchanges: Sequence[DeviceExchange], now: datetime
    ) -> set[DeviceExchange]:
        """No device repeats a CheckOut. While its device waits for the answer, what was applied meanwhile was
        sent before it, so it counts once more in the same enrollment (rule 1)."""
        before = {exchange: _enrollment(exchange) for exchange in exchanges}
        await self._admission.read_records(exchanges)
        await self._check_connected(exchanges)
        again = {
            exchange: change
            for exchange, enrollment in before.items()
            if exchange.is_good
            and _enrollment(exchange) == enrollment
            and (change := change_of(exchange, now)) is not None
        }
        return await self._apply_changes(again)

    # --- the broker, or the mark

    async def _publish(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Publish; a device whose earlier events wait stays behind them (rule 8)."""
        writer, metrics = self._parts.writer, self._parts.metrics
        events = {exchange: exchange.event for exchange in exchanges if exchange.event is not None}
        free = [
            exchange
            for exchange in events
            if exchange.device is None or exchange.device.waiting.since is None
        ]
        taken = await self._parts.publisher.publish(
            [events[exchange] for exchange in free], settled=writer.settle
        )
        await self._parts.reached(Step.PUBLISHED, exchanges)
        metrics.events_published.inc(sum(taken))
        confirmed = {exchange for exchange, is_taken in zip(free, taken, strict=True) if is_taken}
        for exchange in confirmed:
            exchange.is_safe = True
        await self._mark(
            [(exchange, event) for exchange, event in events.items() if exchange not in confirmed]
        )
        await self._parts.reached(Step.MARKED, exchanges)

    async def _mark(self, waiting: Sequence[tuple[DeviceExchange, Event]]) -> None:
        if not waiting:
            return
        marks = [Mark(event.key.device, event.created_at) for _, event in waiting]
        try:
            marked = await verdicts(self._parts.enrollments.mark_waiting, marks)
        except Unavailable:
            marked = [False] * len(waiting)
        for (exchange, event), verdict in zip(waiting, marked, strict=True):
            if verdict is True:
                exchange.is_safe = True
                self._parts.metrics.events_unpublished.inc()
                self._parts.writer.settle(event)
            else:
                exchange.error = exchange.error or StoreUnavailable(
                    "the event could not be made safe"
                )


def _is_check_out(exchange: DeviceExchange) -> bool:
    return isinstance(exchange.request.message, CheckOut)


def _enrollment(exchange: DeviceExchange) -> tuple[str | None, str | None]:
    """Generation and certificate."""
    return exchange.generation, None if exchange.device is None else exchange.device.certificate


def _without_event(exchange: DeviceExchange) -> MdmError | None:
    """Messages that are answered without a trace; the answer is set here, or an error returned."""
    message = exchange.request.message
    if isinstance(message, UserAuthenticate):
        exchange.answer = Answer(status=410)
    elif isinstance(message, Unsupported):
        return DeviceRefused(Reason.MESSAGE, f"{message.message_type} is not served")
    return None


async def _side_by_side(*steps: Awaitable[None]) -> None:
    """Wait for all of them, then raise what the first one that failed raised: nothing of a batch may
    still be under way when its outcome is judged."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for failed in filter(None, outcomes):
        raise failed


def _connects(exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
    return [exchange for exchange in exchanges if isinstance(exchange.request.message, Connect)]
