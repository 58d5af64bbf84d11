"""Rule 8 for events of ours: one that is stored with a change of a device comes behind all that the device
was answered before that change, though it waits, and behind those of the changes before; and it is published
in the end.

The journal's model, and beside it changes of device 0 by replicas whose clocks differ, the one that is ahead
first. The record keeps their events, of which a pass makes one at a time safe: it reads the mark, journals
the event, publishes it or sets the mark, and forgets it. Each is a step, and a process that dies leaves the
event to another pass, which finds in the journal what the earlier one wrote.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.journal import Journal
from tests.models.journal_states import Event, State, spent


class Kept(NamedTuple):
    number: int
    time: int


class Own(NamedTuple):
    before: tuple[tuple[Event, ...], ...] = ()
    """What the device was answered before each change."""
    kept: tuple[Kept, ...] = ()
    """The events in the record, in the order of the changes."""
    journaled: frozenset[Event] = frozenset()
    at: str = "rest"
    """The next step of the pass."""
    going: Kept | None = None
    since: int = 0
    upto: int = 0
    event: Event | None = None


class Both(NamedTuple):
    journal: State
    own: Own


@dataclass(frozen=True)
class OwnEvents(Journal):
    changes: int = 1
    order: str = "record"
    """Of two events the one that the `record` kept first is made safe first; or by their `time`."""
    reads_device: bool = True
    """The mark is that of the device; else of the channel whose record keeps the event, which has none."""
    stays_behind: bool = True
    """It is not published while its device has a backlog."""
    is_later: bool = True
    """Its time is later than what waits."""
    is_marked: bool = True
    """What the broker does not take goes under the mark before it is forgotten."""

    def start(self) -> Both:  # type: ignore[override]
        return Both(super().start(), Own())

    def steps(self, s: Both) -> Iterator[tuple[str, Both]]:  # type: ignore[override]
        for label, left in super().steps(s.journal):
            yield label, Both(left, s.own)
        if len(s.own.before) < self.changes:
            yield self._change(s.journal, s.own)
        for label, left, own in getattr(self, f"_own_{s.own.at}")(s.journal, s.own):
            yield label, Both(left, own)
        if s.own.at != "rest" and s.journal.budget.kills:
            yield "the pass dies", Both(spent(s.journal, "kills"), _at_rest(s.own))

    def _change(self, s: State, own: Own) -> tuple[str, Both]:
        number = len(own.before)
        kept = Kept(number, 2 * s.tick + self.clocks[self.changes - 1 - number])
        own = own._replace(before=(*own.before, s.answered[0]), kept=(*own.kept, kept))
        return f"change {number} is stored", Both(s._replace(tick=s.tick + 1), own)

    def _own_rest(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        if own.kept:
            is_by_time = self.order == "time"
            going = min(own.kept, key=lambda k: k.time) if is_by_time else own.kept[0]
            mark = s.marks[0]
            seen = (mark.since, mark.upto) if self.reads_device else (0, 0)
            own = own._replace(at="journal", going=going, since=seen[0], upto=seen[1])
            yield f"own {going.number}: mark {mark}", s, own

    def _own_journal(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        assert own.going is not None
        number, time = own.going
        after = own.upto + 1 if self.is_later else 0
        event = _of(number, own.journaled) or Event(max(time, after), 0, -1 - number, 0, -1)
        left = s._replace(journal=s.journal | {event})
        at = "mark" if own.since and self.stays_behind else "publish"
        own = own._replace(at=at, event=event, journaled=own.journaled | {event})
        yield f"own {number}: journaled at {event.time}", left, own

    def _own_publish(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        assert own.event is not None
        for label, left, confirmed in self._outcomes(s, 0, own.event):
            at = "forget" if confirmed or not self.is_marked else "mark"
            yield f"own: {label}", left, own._replace(at=at)

    def _own_mark(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        assert own.event is not None
        yield "own: sets the mark", self._marked(s, own.event), own._replace(at="forget")

    def _own_forget(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        kept = tuple(each for each in own.kept if each != own.going)
        yield "own: forgets it", s, _at_rest(own)._replace(kept=kept)

    def fault(self, s: Both) -> str | None:  # type: ignore[override]
        taken = s.journal.taken[0]
        earlier: set[Event] = set()
        for number, before in enumerate(s.own.before):
            event = _of(number, s.own.journaled)
            first = set(taken[: taken.index(event)]) if event in taken else set(taken)
            if event in taken and not set(before) <= first:
                return "an event of ours overtook what was answered before"
            if event in taken and not earlier <= first:
                return "an event of ours overtook that of an earlier change"
            earlier.add(event or Event(0, 0, -1 - number, 0, -1))
        return super().fault(s.journal)

    def is_goal(self, s: Both) -> bool:  # type: ignore[override]
        is_told = len(s.own.journaled & set(s.journal.taken[0])) == self.changes
        return is_told and not s.own.kept and super().is_goal(s.journal)


def _of(number: int, events: frozenset[Event]) -> Event | None:
    """The event of that change."""
    return next((event for event in events if event.message == -1 - number), None)


def _at_rest(own: Own) -> Own:
    return Own(own.before, own.kept, own.journaled)
