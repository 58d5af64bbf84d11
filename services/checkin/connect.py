"""What a connecting device reports, and which command it gets next (rules 3 to 5)."""

from collections.abc import Collection, Iterable, Sequence

import structlog

from services.checkin.turns import Answer, Turn
from shared.apple.connect import Connect, Status
from shared.domain.command import Place, PlaceState
from shared.ports import Clock, CommandQueue, HandOut, Ids, Report

log = structlog.get_logger()

LOOKS = 3
"""How often a turn looks again when somebody else moved the place that it found. Then the device
gets an empty answer; whoever queued something meanwhile asked for a push."""

_STATES = {
    Status.ACKNOWLEDGED: PlaceState.ACKNOWLEDGED,
    Status.ERROR: PlaceState.ERROR,
    Status.COMMAND_FORMAT_ERROR: PlaceState.FORMAT_ERROR,
    Status.NOT_NOW: PlaceState.NOT_NOW,
}


class Commands:
    """The queue as a connecting device meets it, for the turns of a cohort together."""

    def __init__(self, queue: CommandQueue, clock: Clock, ids: Ids) -> None:
        self._queue = queue
        self._clock = clock
        self._ids = ids

    async def report(self, turns: Sequence[Turn]) -> None:
        """Close or rest the places that these turns report on."""
        reports = [report for turn in turns if (report := _report_of(turn)) is not None]
        if reports:
            await self._queue.report(reports, self._clock.now())

    async def hand_out(self, turns: Sequence[Turn]) -> None:
        """Give each turn the oldest open command of its enrollment as its answer."""
        looking, unusable = list(turns), set[str]()
        for _ in range(LOOKS):
            found = await self._find(looking, unusable)
            commands = await self._queue.commands({p.command_hash for p in found.values()})
            won = await self._queue.hand_out(
                [
                    HandOut(place, turn.generation)
                    for turn, place in found.items()
                    if place.command_hash in commands
                ],
                by=self._ids.new(),
                at=self._clock.now(),
            )
            for turn, place in found.items():
                if place.id in won:
                    turn.answer = Answer(commands[place.command_hash].plist)
                elif place.command_hash not in commands:
                    # The janitor must never allow this (rule 13). It must not hold up the rest.
                    log.error("command_is_missing", command_uuid=place.command_uuid)
                    unusable.add(place.id)
            looking = [turn for turn, place in found.items() if place.id not in won]
            if not looking:
                break

    async def _find(self, turns: Sequence[Turn], unusable: Collection[str]) -> dict[Turn, Place]:
        places = await self._queue.open_of_devices({turn.request.device for turn in turns})
        found: dict[Turn, Place] = {}
        for turn in turns:
            usable = (p for p in places.get(turn.request.device, ()) if p.id not in unusable)
            place = _first(turn, usable)
            if place is not None:
                found[turn] = place
        return found


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


def _first(turn: Turn, places: Iterable[Place]) -> Place | None:
    """On Idle every open place counts, after any other status those that did not answer NotNow."""
    message = turn.request.message
    is_idle = isinstance(message, Connect) and message.status is Status.IDLE
    for place in places:
        if place.enrollment != message.key.id or place.generation not in (turn.generation, None):
            continue
        if is_idle or place.state is not PlaceState.NOT_NOW:
            return place
    return None
