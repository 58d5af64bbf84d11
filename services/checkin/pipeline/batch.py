"""Device requests go through their steps in batches: authorize, journal, apply, publish, answer.

Promises (docs/rules.md, rules 1, 2 and 8): every refusal comes before the journal; a 200 means that the
message is in the journal, its effect stored, and its event either confirmed by the broker or covered by its
device's mark; an event that is in the journal is published, in the order of its device, by this process or by
another one; one bad request never fails its neighbours.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from itertools import islice

from services.checkin.answers import Answer
from services.checkin.authorization.authorizer import Authorizer
from services.checkin.exchange import DeviceExchange, not_stored
from services.checkin.journal.last_seen import LastSeen
from services.checkin.journal.writer import Writer, former_made_safe
from services.checkin.pipeline.changes import EnrollmentChanges
from services.checkin.pipeline.commands import NextCommands
from services.checkin.pipeline.derived import DerivedEvents
from services.checkin.refusals.senders import Senders
from shared.concurrency.batching import verdicts
from shared.domain.errors import Refused, StoreUnavailable, Unavailable
from shared.domain.event import Event
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import Appended, EventPublisher, Journal
from shared.telemetry.metrics import Metrics

FOLLOWING_WITHIN = timedelta(seconds=0.5)
"""Later than this, what follows from a message is left to the relay: each publish may take a whole deadline,
and a request waits for one (rule 9)."""


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
            await self._events.journal_outcomes(journaled)
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
        connects = _connects(exchanges)
        await asyncio.gather(self._authorizer.authorize(exchanges), self._commands.look(connects))
        if self._events.derived.wanted.now:
            await self._events.derived.look(connects)
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
        derived: DerivedEvents,
        clock: Clock,
        ids: Ids,
        metrics: Metrics,
    ) -> None:
        self._journal = journal
        self._writer = writer
        self._publisher = publisher
        self._enrollments = enrollments
        self.derived = derived
        self._clock = clock
        self._ids = ids
        self._metrics = metrics

    @property
    def term(self) -> object:
        """The store's primary. A deposed primary shows old marks; an event that such a mark lets through
        might overtake one that waits."""
        return self._journal.term

    async def journal(self, exchanges: Sequence[DeviceExchange], term: object) -> None:
        """Make and store the events, each beside those that follow from it. `term` is that of the time before
        the marks were read."""
        for exchange in exchanges:
            exchange.event = self._event_of(exchange)
            if exchange.event is not None:
                exchange.unsafe.append(exchange.event)
                if self.derived.wanted.now:
                    exchange.unsafe += self.derived.of(exchange, exchange.event)
        new = {exchange: list(exchange.unsafe) for exchange in exchanges if exchange.unsafe}
        failed = await self._store(new, term)
        for exchange in failed:
            exchange.event = None

    async def journal_outcomes(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Store the events of the changes that were applied, and of the commands that are sent next."""
        new = {}
        for exchange in exchanges if self.derived.wanted.now else ():
            event = self.derived.of_outcome(exchange) if exchange.error is None else None
            if event is not None:
                exchange.unsafe.append(event)
                new[exchange] = [event]
        if new:
            await self._store(new, self._journal.term)
        if done := [each for each in new if each.error is None and each.outbox_event]:
            await self.derived.forget(done)

    async def _store(
        self, new: Mapping[DeviceExchange, list[Event]], term: object
    ) -> list[DeviceExchange]:
        """Append the events of each exchange; returns those that failed, each with its error."""
        appended = [event for events in new.values() for event in events]
        outcomes = iter(await verdicts(self._journal.append, appended) if appended else ())
        is_same = self._journal.term == term
        failed = []
        for exchange, events in new.items():
            found = list(islice(outcomes, len(events)))
            if is_same and found.count(Appended.STORED) == len(found):
                self._metrics.events_journaled.inc(len(found))
            elif not is_same or not await self._is_stored(exchange, events, found):
                failed.append(exchange)
                self._not_stored(exchange, events, found)
        return failed

    async def _is_stored(
        self, exchange: DeviceExchange, events: list[Event], found: list[Appended | Refused]
    ) -> bool:
        """True where all are in the journal; those of an earlier request are under their device's mark."""
        former = await former_made_safe(self._journal, self._enrollments, events, found)
        for event in former or ():
            exchange.unsafe.remove(event)
            self._writer.mark_done(event)
        return former is not None

    def _not_stored(
        self, exchange: DeviceExchange, events: list[Event], found: list[Appended | Refused]
    ) -> None:
        exchange.error = StoreUnavailable("the journal does not answer, or its primary changed")
        for event, each in zip(events, found, strict=True):
            if isinstance(each, Refused):
                exchange.error = not_stored(exchange, "its message", each)
            exchange.unsafe.remove(event)
            if isinstance(found[0], Refused) and event is not events[0]:
                self._writer.mark_done(event)  # nothing follows from a message that is not there
            else:
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
        """Publish the events of devices of which no earlier event waits, those of one exchange one after the
        other, while the broker takes them at once; returns the exchanges of which some are not confirmed or
        had to stay behind (rule 8)."""
        follows = bool(self.derived.wanted.now)
        until = self._clock.monotonic() + FOLLOWING_WITHIN.total_seconds() if follows else 0.0
        going = [
            exchange
            for exchange in exchanges
            if exchange.unsafe
            and (exchange.device is None or exchange.device.waiting.since is None)
        ]
        while going:
            events = [exchange.unsafe[0] for exchange in going]
            taken = await self._publisher.publish(events, settled=self._writer.mark_done)
            self._metrics.events_published.inc(sum(taken))
            published, going = going, []
            for exchange, is_taken in zip(published, taken, strict=True):
                if is_taken:
                    del exchange.unsafe[0]
                    if exchange.unsafe and self._clock.monotonic() < until:
                        going.append(exchange)
        return [exchange for exchange in exchanges if exchange.unsafe]

    async def mark(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Leave the events to the relay by a mark on their device's record."""
        if not exchanges:
            return
        spans = [(exchange.unsafe[0], exchange.unsafe[-1]) for exchange in exchanges]
        marks = [Mark(e.key.device, e.created_at, last.created_at) for e, last in spans]
        try:
            marked = await verdicts(self._enrollments.mark_waiting, marks)
        except Unavailable:
            marked = [False] * len(marks)
        for exchange, verdict in zip(exchanges, marked, strict=True):
            if verdict is True:
                self._metrics.events_unpublished.inc(len(exchange.unsafe))
                for event in exchange.unsafe:
                    self._writer.mark_done(event)
                exchange.unsafe.clear()
            else:
                exchange.settle(StoreUnavailable("the event could not be made safe"))

    def give_up(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Let the writer find out about the events that are not safe: a number that stays open would hold
        the watermark for ever."""
        for exchange in exchanges:
            for event in exchange.unsafe:
                self._writer.mark_unknown(event)


async def _side_by_side(*steps: Awaitable[None]) -> None:
    """Wait for all steps, then raise the error of the first one that failed: no write of a batch may be
    under way when its outcome is judged."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for failed in filter(None, outcomes):
        raise failed


def _connects(exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
    return [exchange for exchange in exchanges if exchange.handler.asks_for_command]
