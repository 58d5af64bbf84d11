"""The results that devices report, and the commands that they get next (rules 3 to 5).

The next command is chosen while the request is authorized, and read while it is journaled. Only the write
that sends it counts: it is conditional on what is true then, and an exchange that loses there chooses again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

import structlog

from services.checkin.answers import Answer
from services.checkin.exchange import DeviceExchange
from shared.apple.messages.connect import Connect, Status
from shared.domain.command import EntryState, QueueEntry, entry_id
from shared.ports.clock import Clock, Ids
from shared.ports.queue import CommandQueue, Report, SendClaim, Wanted
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOKS = 3
"""Choices of one exchange whose entry another process moved. After that the device gets an empty answer; a
client that queued a command meanwhile has requested a push."""

STATES = {
    Status.ACKNOWLEDGED: EntryState.ACKNOWLEDGED,
    Status.ERROR: EntryState.ERROR,
    Status.COMMAND_FORMAT_ERROR: EntryState.FORMAT_ERROR,
    Status.NOT_NOW: EntryState.NOT_NOW,
}

MISSES = 32
"""Commands of a queue that are missing or cannot be decrypted; beyond them the rest of it waits as well."""


class NextCommands:
    def __init__(self, queue: CommandQueue, clock: Clock, ids: Ids, metrics: Metrics) -> None:
        self._queue = queue
        self._clock = clock
        self._ids = ids
        self._metrics = metrics

    async def look(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Read the open entries of the devices that have few of them."""
        if not exchanges:
            return
        entries = await self._queue.open_of_devices(
            {exchange.message.key.device for exchange in exchanges}
        )
        for exchange in exchanges:
            exchange.entries = entries.get(exchange.message.key.device, ())

    async def fetch(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Choose and read each exchange's next command; pass over commands that cannot be read."""
        for _ in range(MISSES):
            exchanges = await self._fetch(exchanges)
            if not exchanges:
                return
        for exchange in exchanges:
            exchange.next = None

    async def _fetch(self, exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
        """Returns the exchanges whose command cannot be read: they must choose again."""
        now = self._clock.now()
        for exchange in exchanges:
            exchange.next, exchange.command = _first(exchange, now), None
        if of_many := [exchange for exchange in exchanges if exchange.entries is None]:
            sought = await self._queue.next_of([_wanted(exchange) for exchange in of_many], now)
            for exchange, entry in zip(of_many, sought, strict=True):
                exchange.next = entry
        chosen = {exchange: exchange.next for exchange in exchanges if exchange.next is not None}
        commands = await self._queue.commands({entry.command_hash for entry in chosen.values()})
        missed = []
        for exchange, entry in chosen.items():
            command = commands.get(entry.command_hash)
            if command is None:  # the janitor must never allow this (rule 13)
                log.error("command_is_missing", command_uuid=entry.command_uuid)
            if command is None or command.unreadable is not None:
                exchange.unusable.add(entry.id)
                missed.append(exchange)
            else:
                exchange.command = command
        return missed

    async def report(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Record the results: close the entries, or let them rest after NotNow."""
        reports = [report for exchange in exchanges if (report := _report_of(exchange)) is not None]
        if reports:
            closed = await self._queue.report(reports, self._clock.now())
            self._metrics.commands_finished.inc(closed)

    async def send(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Make the command of each exchange its answer, if the entry is still open."""
        looking = list(exchanges)
        for _ in range(LOOKS):
            await self._move_back(looking)
            looking = [exchange for exchange in looking if exchange.next is not None]
            if not looking:
                break
            lost = await self._claim(looking)
            if lost:
                await self.look(lost)
                await self.fetch(lost)
            looking = lost

    async def _move_back(self, exchanges: Sequence[DeviceExchange]) -> None:
        """Move back the commands that these exchanges show to be unanswered; those choose again."""
        offered = {
            exchange: exchange.next
            for exchange in exchanges
            if exchange.next and exchange.next.is_unanswered
        }
        await self._recall(list(offered))
        now = self._clock.now()
        found = {
            exchange: entry
            for exchange, entry in offered.items()
            if _is_unanswered(exchange, entry) and entry.moves_back(now)
        }
        if not found:
            return
        moved = await self._queue.move_back(list(found.values()))
        self._metrics.commands_moved_back.inc(len(moved))
        for entry in found.values():
            if entry.id in moved:
                log.warning(
                    "command_moved_back",
                    enrollment=entry.enrollment,
                    command_uuid=entry.command_uuid,
                    request_type=entry.request_type,
                    unanswered_attempts=entry.unanswered + 1,
                )
        await self.look(list(found))
        await self.fetch(list(found))

    async def _recall(self, exchanges: Sequence[DeviceExchange]) -> None:
        ids = {}
        for exchange in exchanges:
            message = _connect_of(exchange)
            if message.command_uuid is not None:
                ids[exchange] = entry_id(message.key.id, message.command_uuid)
        entries = await self._queue.entries_of(set(ids.values())) if ids else {}
        for exchange, id_ in ids.items():
            exchange.reported = entries.get(id_)

    async def _claim(self, exchanges: Sequence[DeviceExchange]) -> list[DeviceExchange]:
        """Send to the exchanges whose entry was still open; returns the others."""
        now = self._clock.now()  # the journal may have taken its time: some may have expired
        claims = {t: t.next for t in exchanges if t.next and t.command and t.next.is_due(now)}
        won = await self._queue.mark_sent(
            [
                SendClaim(entry, exchange.generation, counts=_is_unanswered(exchange, entry))
                for exchange, entry in claims.items()
            ],
            by=(by := self._ids.new()),
            at=now,
        )
        self._metrics.commands_sent.inc(len(won))
        lost = []
        for exchange in exchanges:
            if exchange.next and exchange.next.id in won and exchange.command:
                exchange.answer = Answer(exchange.command.plist)
                exchange.sent_by = by
                continue
            lost.append(exchange)
            if exchange.next and exchange.next.expires_at is not None:
                # It may have expired by the store's clock: do not choose it again.
                exchange.unusable.add(exchange.next.id)
        return lost


def _connect_of(exchange: DeviceExchange) -> Connect:
    return cast(Connect, exchange.message)


def _report_of(exchange: DeviceExchange) -> Report | None:
    message = _connect_of(exchange)
    state = STATES.get(message.status)
    if state is None or message.command_uuid is None or exchange.event is None:
        return None
    return Report(
        enrollment=message.key.id,
        command_uuid=message.command_uuid,
        generation=exchange.generation,
        state=state,
        event_id=exchange.event.id,
    )


def _is_unanswered(exchange: DeviceExchange, entry: QueueEntry) -> bool:
    """True if the device did not answer this entry: it is Idle, or reports on a later command."""
    if not entry.is_unanswered or _connect_of(exchange).status is Status.IDLE:
        return entry.is_unanswered
    reported = exchange.reported and exchange.reported.handed_at
    return bool(reported and entry.handed_at and reported > entry.handed_at)


def _wanted(exchange: DeviceExchange) -> Wanted:
    """The conditions of `_first`, for a queue that is too long to read."""
    message = _connect_of(exchange)
    return Wanted(
        message.key.id,
        message.key.device,
        exchange.generation,
        with_resting=message.status is Status.IDLE,
        reported=message.command_uuid,
        but_not=frozenset(exchange.unusable),
    )


def _first(exchange: DeviceExchange, at: datetime) -> QueueEntry | None:
    """On Idle every open entry counts, after any other status those that did not answer NotNow."""
    message = _connect_of(exchange)
    for entry in exchange.entries or ():
        is_its_own = entry.enrollment == message.key.id
        if not is_its_own or entry.generation not in (exchange.generation, None):
            continue
        # The entry on which this request reports will be closed, or will rest, when the command is sent.
        is_reported = entry.command_uuid == message.command_uuid and entry.handed_by is not None
        rests = entry.state is EntryState.NOT_NOW and message.status is not Status.IDLE
        is_free = not is_reported and not rests and entry.id not in exchange.unusable
        if is_free and entry.is_due(at):
            return entry
    return None
