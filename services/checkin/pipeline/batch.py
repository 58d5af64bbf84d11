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
from services.checkin.exchange import DeviceExchange
from services.checkin.journal.last_seen import LastSeen
from services.checkin.pipeline.changes import EnrollmentChanges
from services.checkin.pipeline.commands import NextCommands
from services.checkin.pipeline.events import DeviceEvents
from services.checkin.refusals.senders import Senders
from shared.domain.errors import Refused, Unavailable
from shared.ports.clock import Clock
from shared.telemetry.metrics import Metrics


class DeviceBatch:
    def __init__(
        self,
        authorizer: Authorizer,
        events: DeviceEvents,
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


async def _side_by_side(*steps: Awaitable[None]) -> None:
    """Wait for all steps, then raise the error of the first one that failed: no write of a batch may be
    under way when its outcome is judged."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for failed in filter(None, outcomes):
        raise failed


def _connects(exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
    return [exchange for exchange in exchanges if exchange.handler.asks_for_command]
