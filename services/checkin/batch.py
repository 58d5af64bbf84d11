"""Device requests go through their steps in batches: admit, journal, apply, publish, answer.

Promises (docs/rules.md, rules 1, 2 and 8): whatever can refuse a request comes before the journal;
a 200 means that the message is in the journal, its effect stored, and its event either confirmed by
the broker or covered by its device's mark; one bad request never fails its neighbours.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime

import structlog

from services.checkin.admission import Admission
from services.checkin.changes import change_of
from services.checkin.connect import Commands
from services.checkin.parts import Parts, Step
from services.checkin.seen import LastSeen
from services.checkin.senders import Senders
from services.checkin.turns import Answer, DeviceRefused, DeviceRequest, Turn, not_stored
from shared.apple.checkin import (
    CheckOut,
    GetBootstrapToken,
    TokenUpdate,
    Unsupported,
    UserAuthenticate,
    bootstrap_token_answer,
)
from shared.apple.connect import Connect
from shared.batching import verdicts
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
    """The steps; `handle` is the handler of `shared.batching.BatchExecutor`."""

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
        turns = [Turn(request) for request in requests]
        term = self._parts.journal.term
        await self._admit(turns)
        await self._parts.reached(Step.ADMITTED, turns)
        try:
            good = [turn for turn in turns if turn.is_good]
            await _side_by_side(self._journal(good, term), self._commands.fetch(_connects(good)))
            await self._parts.reached(Step.JOURNALED, turns)
            await self._apply([turn for turn in turns if turn.is_good and turn.event is not None])
            await self._parts.reached(Step.APPLIED, turns)
            await self._publish([turn for turn in turns if turn.event is not None])
        finally:
            # Whatever went wrong: a number that stays open would hold the watermark for ever.
            for turn in turns:
                if turn.event is not None and not turn.is_safe:
                    self._parts.writer.doubt(turn.event)
        now = self._parts.clock.now()
        for turn in turns:
            if turn.is_good and turn.event is not None:
                self._parts.metrics.messages_accepted.labels(turn.event.topic).inc()
                if not turn.request.changes_enrollment:  # a change has written it already
                    self._seen.note(turn.request.message.key.id, now)
        return [turn.outcome for turn in turns]

    # --- what can refuse

    async def _admit(self, turns: Sequence[Turn]) -> None:
        await asyncio.gather(self._admission.judge(turns), self._commands.look(_connects(turns)))
        self._senders.learn(turns)
        for turn in turns:
            turn.error = turn.error or _without_event(turn)
        await self._check_connected([turn for turn in turns if turn.is_good])
        await self._admission.bind([turn for turn in turns if turn.is_good])

    async def _check_connected(self, turns: Sequence[Turn]) -> None:
        """After the generation was read: a request that its device gave up changes nothing."""
        changing = [turn for turn in turns if turn.request.changes_enrollment]
        connected = await asyncio.gather(*(turn.request.is_connected() for turn in changing))
        for turn, is_connected in zip(changing, connected, strict=True):
            if not is_connected:
                turn.error = Overtaken("the device is gone")

    # --- the journal, then the state

    async def _journal(self, turns: Sequence[Turn], term: object) -> None:
        """`term`: before the marks were read. A server that was deposed shows a mark as it was before, so an
        event that it let through might be published before one that waits."""
        events = []
        for turn in turns:
            if turn.request.message.event is not None:
                turn.event = self._event_of(turn)
                events.append((turn, turn.event))
        if not events:
            return
        stored = await verdicts(self._parts.journal.append, [event for _, event in events])
        is_same = self._parts.journal.term == term
        for (turn, event), verdict in zip(events, stored, strict=True):
            if verdict is True and is_same:
                self._parts.metrics.events_journaled.inc()
                continue
            turn.error = StoreUnavailable("the journal does not answer, or its primary changed")
            if isinstance(verdict, Refused):
                turn.error = not_stored(turn, "its message", verdict)
            turn.event = None
            self._parts.writer.doubt(event)  # it may be stored all the same

    def _event_of(self, turn: Turn) -> Event:
        request, message = turn.request, turn.request.message
        upto = turn.device.waiting.upto if turn.device is not None else None
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

    async def _apply(self, turns: Sequence[Turn]) -> None:
        """From here on an error costs its request the 200, but its event is published all the same:
        it is in the journal."""
        connects = _connects(turns)
        try:
            await _side_by_side(
                self._change_enrollments(turns),
                self._commands.report(connects),
                self._commands.hand_out(connects),
            )
        except (Unavailable, Refused) as exc:
            for turn in turns:
                turn.error = turn.error or exc
        for turn in turns:
            if isinstance(turn.request.message, GetBootstrapToken) and turn.device is not None:
                if turn.device.unreadable is not None:  # an empty answer would say: there is none
                    turn.error = turn.error or CannotDecrypt(turn.device.unreadable)
                turn.answer = Answer(bootstrap_token_answer(turn.device.bootstrap_token))

    async def _change_enrollments(self, turns: Sequence[Turn]) -> None:
        outcomes = await verdicts(self._change, turns)
        for turn, outcome in zip(turns, outcomes, strict=True):
            if isinstance(outcome, Refused):
                turn.error = turn.error or not_stored(turn, "its record", outcome)

    async def _change(self, turns: Sequence[Turn]) -> list[None]:
        """May be done again for some of the turns, when the store refuses what one of them writes."""
        now = self._parts.clock.now()
        removed = {enrollment for turn in turns for enrollment in turn.removed}
        if removed:
            await self._parts.enrollments.revive(removed)
        changes = {turn: change for turn in turns if (change := change_of(turn, now)) is not None}
        applied = await self._apply_changes(changes)
        if overtaken := [turn for turn in changes if turn not in applied and _is_check_out(turn)]:
            applied |= await self._check_out_again(overtaken, now)
        for turn, change in changes.items():
            if turn not in applied:
                turn.error = Overtaken("the enrollment changed meanwhile")
            elif change.begins_generation and turn.generation is not None:
                await self._parts.queue.end_generation(turn.request.device, turn.generation)
            elif isinstance(turn.request.message, TokenUpdate):
                # Now the device can be pushed: for commands that waited for its token.
                self._parts.push_requests.add([turn.request.message.key.id])
        return [None] * len(turns)

    async def _apply_changes(self, changes: Mapping[Turn, Change]) -> set[Turn]:
        """Those of which the change was applied."""
        applied = await self._parts.enrollments.apply(list(changes.values())) if changes else []
        return {turn for turn, is_applied in zip(changes, applied, strict=True) if is_applied}

    async def _check_out_again(self, turns: Sequence[Turn], now: datetime) -> set[Turn]:
        """No device repeats a CheckOut. While its device waits for the answer, what was applied meanwhile was
        sent before it, so it counts once more in the same enrollment (rule 1)."""
        before = {turn: _enrollment(turn) for turn in turns}
        await self._admission.read_records(turns)
        await self._check_connected(turns)
        again = {
            turn: change
            for turn, enrollment in before.items()
            if turn.is_good
            and _enrollment(turn) == enrollment
            and (change := change_of(turn, now)) is not None
        }
        return await self._apply_changes(again)

    # --- the broker, or the mark

    async def _publish(self, turns: Sequence[Turn]) -> None:
        """Publish; a device whose earlier events wait stays behind them (rule 8)."""
        writer, metrics = self._parts.writer, self._parts.metrics
        events = {turn: turn.event for turn in turns if turn.event is not None}
        free = [turn for turn in events if turn.device is None or turn.device.waiting.since is None]
        taken = await self._parts.publisher.publish(
            [events[turn] for turn in free], settled=writer.settle
        )
        await self._parts.reached(Step.PUBLISHED, turns)
        metrics.events_published.inc(sum(taken))
        confirmed = {turn for turn, is_taken in zip(free, taken, strict=True) if is_taken}
        for turn in confirmed:
            turn.is_safe = True
        await self._mark([(turn, event) for turn, event in events.items() if turn not in confirmed])
        await self._parts.reached(Step.MARKED, turns)

    async def _mark(self, waiting: Sequence[tuple[Turn, Event]]) -> None:
        if not waiting:
            return
        marks = [Mark(event.key.device, event.created_at) for _, event in waiting]
        try:
            marked = await verdicts(self._parts.enrollments.mark_waiting, marks)
        except Unavailable:
            marked = [False] * len(waiting)
        for (turn, event), verdict in zip(waiting, marked, strict=True):
            if verdict is True:
                turn.is_safe = True
                self._parts.metrics.events_unpublished.inc()
                self._parts.writer.settle(event)
            else:
                turn.error = turn.error or StoreUnavailable("the event could not be made safe")


def _is_check_out(turn: Turn) -> bool:
    return isinstance(turn.request.message, CheckOut)


def _enrollment(turn: Turn) -> tuple[str | None, str | None]:
    """Generation and certificate."""
    return turn.generation, None if turn.device is None else turn.device.certificate


def _without_event(turn: Turn) -> MdmError | None:
    """Messages that are answered without a trace; the answer is set here, or an error returned."""
    message = turn.request.message
    if isinstance(message, UserAuthenticate):
        turn.answer = Answer(status=410)
    elif isinstance(message, Unsupported):
        return DeviceRefused(Reason.MESSAGE, f"{message.message_type} is not served")
    return None


async def _side_by_side(*steps: Awaitable[None]) -> None:
    """Wait for all of them, then raise what the first one that failed raised: nothing of a batch may
    still be under way when its outcome is judged."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for failed in filter(None, outcomes):
        raise failed


def _connects(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if isinstance(turn.request.message, Connect)]
