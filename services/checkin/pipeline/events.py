"""The events of a batch: into the journal, then to the broker or under their device's mark."""

from collections.abc import Sequence

from services.checkin.exchange import DeviceExchange, not_stored
from services.checkin.journal.writer import Writer
from shared.concurrency.batching import verdicts
from shared.domain.errors import Refused, StoreUnavailable, Unavailable
from shared.domain.event import Event
from shared.ports.clock import Ids
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import EventPublisher, Journal
from shared.telemetry.metrics import Metrics


class DeviceEvents:
    """Promise (docs/rules.md, rules 2 and 8): an event that is in the journal is published, in the order of
    its device, by this process or by another one."""

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
            if exchange.request.message.event is not None:
                exchange.event = self._event_of(exchange)
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

    def _event_of(self, exchange: DeviceExchange) -> Event:
        request, message = exchange.request, exchange.request.message
        upto = exchange.device.waiting.upto if exchange.device is not None else None
        number, at = self._writer.stamp(after=upto or 0)
        assert message.event is not None  # the caller looked
        status, command_uuid = exchange.handler.result(message)
        return Event(
            id=self._ids.new(),
            topic=message.event,
            key=message.key,
            created_at=at,
            raw_payload=request.body,
            writer=self._writer.id,
            number=number,
            url_params=request.url_params,
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
                why = StoreUnavailable("the event could not be made safe")
                exchange.error = exchange.error or why

    def give_up(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Let the writer find out about the events that are not safe: a number that stays open would hold
        the watermark for ever."""
        for exchange in exchanges:
            if exchange.event is not None and not exchange.is_safe:
                self._writer.mark_unknown(exchange.event)
