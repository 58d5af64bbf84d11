"""Device requests go through their steps in batches: authorize, journal, apply, publish, answer.

Promises (docs/rules.md, rules 1, 2 and 8): every refusal comes before the journal; a 200 means that the
message is in the journal, its effect stored, and its event either confirmed by the broker or covered by its
device's mark; an event that is in the journal is published, in the order of its device, by this process or by
another one; one bad request never fails its neighbours.
"""

import asyncio
from collections.abc import Awaitable, Sequence

from services.checkin.answers import Answer
from services.checkin.authorization.authorizer import Authorizer
from services.checkin.exchange import DeviceExchange, not_stored
from services.checkin.journal.last_seen import LastSeen
from services.checkin.journal.writer import Writer
from services.checkin.pipeline.changes import EnrollmentChanges
from services.checkin.pipeline.commands import NextCommands
from services.checkin.refusals.senders import Senders
from shared.concurrency.batching import verdicts
from shared.domain.errors import Refused, StoreUnavailable, Unavailable
from shared.domain.event import Event
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import EventPublisher, Journal
from shared.telemetry.metrics import Metrics


class DeviceBatch:
    def __init__(
        self,
        authorizer: Authorizer,
        events: "DeviceEvents",
        changes: EnrollmentChanges,
        commands: NextCommands,
        seen: LastSeen,
        senders: Senders,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._authorizer = authorizer
        self._events = events
        self._changes = changes
        self._commands = commands
        self._seen = seen
        self._senders = senders
        self._clock = clock
        self._metrics = metrics

    async def handle(self, exchanges: list[DeviceExchange]) -> Sequence[Answer | Exception]:
        """The answer or the error of each request. Raises what fails all of them: then no device gets 200,
        and the journaled events are published, or found by the writer."""
        self._metrics.batch_size.observe(len(exchanges))
        term = self._events.term
        await self._authorize(exchanges)
        try:
            await self._journal([each for each in exchanges if each.error is None], term)
            journaled = [each for each in exchanges if each.event is not None]
            await self._apply([each for each in journaled if each.error is None])
            await self._events.mark(await self._events.publish(journaled))
        finally:
            self._events.give_up(exchanges)
        now = self._clock.now()
        for exchange in journaled:
            if exchange.error is None and exchange.event is not None:
                self._metrics.messages_accepted.labels(exchange.event.topic).inc()
                if not exchange.handler.changes_enrollment:  # a change has written the time already
                    self._seen.note(exchange.message.key.id, now)
        return [exchange.error or exchange.answer for exchange in exchanges]

    async def _authorize(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Everything that can refuse a request. The open entries are read beside it."""
        await asyncio.gather(
            self._authorizer.authorize(exchanges), self._commands.look(_connects(exchanges))
        )
        self._senders.learn(exchanges)
        for exchange in exchanges:
            if exchange.message.event is None:
                exchange.settle(exchange.handler.at_once(exchange.message))
        await self._authorizer.bind([each for each in exchanges if each.error is None])

    async def _journal(self, exchanges: Sequence[DeviceExchange], term: object) -> None:
        """Store the events. The commands to send are read beside it."""
        await _side_by_side(
            self._events.journal(exchanges, term), self._commands.fetch(_connects(exchanges))
        )

    async def _apply(self, exchanges: Sequence[DeviceExchange]) -> None:
        """From here on an error costs its request the 200, but its event is published."""
        connects = _connects(exchanges)
        try:
            await _side_by_side(
                self._changes.apply(exchanges),
                self._commands.report(connects),
                self._commands.send(connects),
            )
        except (Unavailable, Refused) as exc:
            for exchange in exchanges:
                exchange.error = exchange.error or exc
        for exchange in exchanges:
            if exchange.handler.has_answer and exchange.device is not None:
                exchange.settle(exchange.handler.answer(exchange.message, exchange.device))


class DeviceEvents:
    """The events of a batch: into the journal, then to the broker or under their device's mark."""

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        publisher: EventPublisher,
        enrollments: Enrollments,
        ids: Ids,
        metrics: Metrics,
    ) -> None:
        self._journal = journal
        self._writer = writer
        self._publisher = publisher
        self._enrollments = enrollments
        self._ids = ids
        self._metrics = metrics

    @property
    def term(self) -> object:
        """The store's primary. A deposed primary shows old marks; an event that such a mark lets through
        might overtake one that waits."""
        return self._journal.term

    async def journal(self, exchanges: Sequence[DeviceExchange], term: object) -> None:
        """Make and store the events. `term` is that of the time before the marks were read."""
        events = []
        for exchange in exchanges:
            exchange.event = self._event_of(exchange)
            if exchange.event is not None:
                events.append((exchange, exchange.event))
        if not events:
            return
        stored = await verdicts(self._journal.append, [event for _, event in events])
        is_same = self._journal.term == term
        for (exchange, event), verdict in zip(events, stored, strict=True):
            if verdict is True and is_same:
                self._metrics.events_journaled.inc()
                continue
            exchange.error = StoreUnavailable("the journal does not answer, or its primary changed")
            if isinstance(verdict, Refused):
                exchange.error = not_stored(exchange, "its message", verdict)
            exchange.event = None
            self._writer.mark_unknown(event)  # it may be stored all the same

    def _event_of(self, exchange: DeviceExchange) -> Event | None:
        message, device = exchange.message, exchange.device
        if message.event is None:
            return None
        status, command_uuid = exchange.handler.result(message)
        upto = None if device is None else device.waiting.upto
        number, at = self._writer.stamp(after=upto or 0)
        return Event(
            id=self._ids.new(),
            topic=message.event,
            key=message.key,
            created_at=at,
            raw_payload=exchange.body,
            writer=self._writer.id,
            number=number,
            url_params=exchange.url_params,
            status=status,
            command_uuid=command_uuid,
        )

    async def publish(self, exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
        """Publish the events of devices of which no earlier event waits; returns the exchanges whose event
        was not confirmed or had to stay behind (rule 8)."""
        free = [
            exchange
            for exchange in exchanges
            if exchange.device is None or exchange.device.waiting.since is None
        ]
        events = [exchange.event for exchange in free if exchange.event is not None]
        taken = await self._publisher.publish(events, settled=self._writer.mark_done)
        self._metrics.events_published.inc(sum(taken))
        for exchange, is_taken in zip(free, taken, strict=True):
            exchange.is_safe = is_taken
        return [exchange for exchange in exchanges if not exchange.is_safe]

    async def mark(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Leave the events to the relay by a mark on their device's record."""
        events = [exchange.event for exchange in exchanges if exchange.event is not None]
        if not events:
            return
        marks = [Mark(event.key.device, event.created_at) for event in events]
        try:
            marked = await verdicts(self._enrollments.mark_waiting, marks)
        except Unavailable:
            marked = [False] * len(events)
        for exchange, event, verdict in zip(exchanges, events, marked, strict=True):
            if verdict is True:
                exchange.is_safe = True
                self._metrics.events_unpublished.inc()
                self._writer.mark_done(event)
            else:
                exchange.settle(StoreUnavailable("the event could not be made safe"))

    def give_up(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Let the writer find out about the events that are not safe: a number that stays open would hold
        the watermark for ever."""
        for exchange in exchanges:
            if exchange.event is not None and not exchange.is_safe:
                self._writer.mark_unknown(exchange.event)


async def _side_by_side(*steps: Awaitable[None]) -> None:
    """Wait for all steps, then raise the error of the first one that failed: no write of a batch may be
    under way when its outcome is judged."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for failed in filter(None, outcomes):
        raise failed


def _connects(exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
    return [exchange for exchange in exchanges if exchange.handler.asks_for_command]
