"""What a connecting device reports, and which command it gets next (rules 3 to 5).

The next command is looked for while the request is admitted and fetched while it is journaled: both
only read. What counts is the write of the hand-out, which is conditional on what is true then; a turn
that loses there looks again.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import structlog

from services.checkin.turns import Answer, Turn
from shared.apple.connect import Connect, Status
from shared.domain.command import Command, EntryState, QueueEntry, entry_id
from shared.ports.clock import Clock, Ids
from shared.ports.queue import CommandQueue, HandOut, Report, Wanted
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOKS = 3
"""How often a turn looks when somebody else moved the entry that it found. Then the device gets an
empty answer; whoever queued something meanwhile asked for a push."""

_STATES = {
    Status.ACKNOWLEDGED: EntryState.ACKNOWLEDGED,
    Status.ERROR: EntryState.ERROR,
    Status.COMMAND_FORMAT_ERROR: EntryState.FORMAT_ERROR,
    Status.NOT_NOW: EntryState.NOT_NOW,
}


MISSES = 32
"""How many commands of a queue may be missing, or not to be opened, before the rest of it waits as well."""


class Commands:
    """The queue as connecting devices meet it, for the turns of a batch together."""

    def __init__(self, queue: CommandQueue, clock: Clock, ids: Ids, metrics: Metrics) -> None:
        self._queue = queue
        self._clock = clock
        self._ids = ids
        self._metrics = metrics

    async def look(self, turns: Sequence[Turn]) -> None:
        """Read the open entries of these turns' devices, where they are not many."""
        if not turns:
            return
        entries = await self._queue.open_of_devices({turn.request.device for turn in turns})
        for turn in turns:
            turn.entries = entries.get(turn.request.device, ())

    async def fetch(self, turns: Sequence[Turn]) -> None:
        """Choose each turn's next command among its entries, and read it; pass over what cannot be."""
        for _ in range(MISSES):
            turns = await self._fetch(turns)
            if not turns:
                return
        for turn in turns:
            turn.next = None

    async def _fetch(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns whose choice cannot be read; they must choose again."""
        now = self._clock.now()
        for turn in turns:
            turn.next, turn.command = _first(turn, turn.entries or (), now), None
        of_many = [turn for turn in turns if turn.entries is None]
        sought = await self._queue.next_of([_wanted(turn) for turn in of_many], now)
        for turn, entry in zip(of_many, sought, strict=True):
            turn.next = entry
        hashes = {turn.next.command_hash for turn in turns if turn.next is not None}
        commands = await self._queue.commands(hashes)
        missed = []
        for turn in turns:
            if turn.next is None:
                continue
            turn.command = _readable(commands.get(turn.next.command_hash), turn.next)
            if turn.command is None:
                turn.unusable.add(turn.next.id)
                missed.append(turn)
        return missed

    async def report(self, turns: Sequence[Turn]) -> None:
        """Close or rest the entries that these turns report on."""
        reports = [report for turn in turns if (report := _report_of(turn)) is not None]
        if reports:
            closed = await self._queue.report(reports, self._clock.now())
            self._metrics.commands_finished.inc(closed)

    async def hand_out(self, turns: Sequence[Turn]) -> None:
        """Give each turn what was fetched for it as its answer, if it is still to be had."""
        looking = list(turns)
        for _ in range(LOOKS):
            await self._move_back(looking)
            looking = [turn for turn in looking if turn.next is not None]
            if not looking:
                break
            lost = await self._claim(looking)
            if lost:
                await self.look(lost)
                await self.fetch(lost)
            looking = lost

    async def _move_back(self, turns: Sequence[Turn]) -> None:
        """Move back what these turns show to be never answered; they choose again."""
        offered = {turn: turn.next for turn in turns if turn.next and turn.next.is_unanswered}
        await self._recall(list(offered))
        now = self._clock.now()
        found = {
            turn: entry
            for turn, entry in offered.items()
            if _is_unanswered(turn, entry) and entry.moves_back(now)
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

    async def _recall(self, turns: Sequence[Turn]) -> None:
        """Read what these turns report on."""
        ids = {turn: id_ for turn in turns if (id_ := _reported_id(turn)) is not None}
        entries = await self._queue.entries_of(set(ids.values())) if ids else {}
        for turn, id_ in ids.items():
            turn.reported = entries.get(id_)

    async def _claim(self, turns: Sequence[Turn]) -> list[Turn]:
        """Answer those whose entry was open still; the others come back."""
        now = self._clock.now()  # the journal may have taken its time: some may have expired
        claims = {t: t.next for t in turns if t.next and t.command and t.next.is_due(now)}
        won = await self._queue.hand_out(
            [
                HandOut(entry, turn.generation, counts=_is_unanswered(turn, entry))
                for turn, entry in claims.items()
            ],
            by=self._ids.new(),
            at=now,
        )
        self._metrics.commands_handed_out.inc(len(won))
        lost = []
        for turn in turns:
            if turn.next and turn.next.id in won and turn.command:
                turn.answer = Answer(turn.command.plist)
                continue
            lost.append(turn)
            if turn.next and turn.next.expires_at is not None:
                # It may be over by the store's clock, and nobody have ended it yet: do not choose it again.
                turn.unusable.add(turn.next.id)
        return lost


def _readable(command: Command | None, entry: QueueEntry) -> Command | None:
    """The command of an entry. None: it must not hold up those behind it, and stays where it is."""
    if command is None:  # the janitor must never allow this (rule 13)
        log.error("command_is_missing", command_uuid=entry.command_uuid)
        return None
    return command if command.unreadable is None else None


def _report_of(turn: Turn) -> Report | None:
    message = turn.request.message
    if not isinstance(message, Connect) or message.command_uuid is None or turn.event is None:
        return None
    state = _STATES.get(message.status)
    if state is None:
        return None
    return Report(
        enrollment=message.key.id,
        command_uuid=message.command_uuid,
        generation=turn.generation,
        state=state,
        event_id=turn.event.id,
    )


def _is_idle(turn: Turn) -> bool:
    message = turn.request.message
    return isinstance(message, Connect) and message.status is Status.IDLE


def _reported_id(turn: Turn) -> str | None:
    message = turn.request.message
    if not isinstance(message, Connect) or message.command_uuid is None:
        return None
    return entry_id(message.key.id, message.command_uuid)


def _is_unanswered(turn: Turn, entry: QueueEntry) -> bool:
    """Whether this turn shows that the last hand-out of its next command went unanswered: it is Idle, or
    reports on what its device got after that."""
    if not entry.is_unanswered or _is_idle(turn):
        return entry.is_unanswered
    reported = turn.reported and turn.reported.handed_at
    return bool(reported and entry.handed_at and reported > entry.handed_at)


def _wanted(turn: Turn) -> Wanted:
    """The conditions of `_first`, for a queue that is too long to be read."""
    message = turn.request.message
    assert isinstance(message, Connect)
    return Wanted(
        message.key.id,
        message.key.device,
        turn.generation,
        with_resting=_is_idle(turn),
        reported=message.command_uuid,
        but_not=frozenset(turn.unusable),
    )


def _first(turn: Turn, entries: Iterable[QueueEntry], at: datetime) -> QueueEntry | None:
    """On Idle every open entry counts, after any other status those that did not answer NotNow."""
    message = turn.request.message
    assert isinstance(message, Connect)
    for entry in entries:
        if entry.enrollment != message.key.id or entry.generation not in (turn.generation, None):
            continue
        # What this very request reports on is closed or rests, by the time of the hand-out.
        is_reported = entry.command_uuid == message.command_uuid and entry.handed_by is not None
        rests = entry.state is EntryState.NOT_NOW and not _is_idle(turn)
        is_free = not is_reported and not rests and entry.id not in turn.unusable
        if is_free and entry.is_due(at):
            return entry
    return None
