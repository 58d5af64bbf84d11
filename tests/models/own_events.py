"""Rule 8 for events of ours: one that is stored with a change of a device comes behind all that the device
was answered before that change, though it waits; and it is published in the end.

The journal's model, and beside it one change of device 0, of which a pass makes the event safe: it reads the
mark, journals the event, publishes it or sets the mark, and forgets it. Each is a step, and a process that
dies leaves the event to another pass, which finds in the journal what the earlier one wrote.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.models.journal import Journal
from tests.models.journal_states import Event, State, spent


class Own(NamedTuple):
    at: str = "change"
    before: tuple[Event, ...] = ()
    """What the device was answered before the change."""
    since: int = 0
    upto: int = 0
    event: Event | None = None


class Both(NamedTuple):
    journal: State
    own: Own


@dataclass(frozen=True)
class OwnEvents(Journal):
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
        for label, left, own in getattr(self, f"_own_{s.own.at}")(s.journal, s.own):
            yield label, Both(left, own)
        if s.own.at not in ("change", "done") and s.journal.budget.kills:
            again = s.own._replace(at="read", since=0, upto=0)
            yield "the pass dies", Both(spent(s.journal, "kills"), again)

    def _own_change(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        yield "a change is stored", s, Own("read", s.answered[0])

    def _own_read(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        mark = s.marks[0]
        yield f"own: mark {mark}", s, own._replace(at="journal", since=mark.since, upto=mark.upto)

    def _own_journal(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        after = own.upto + 1 if self.is_later else 0
        event = own.event or Event(max(2 * s.tick + self.clocks[0], after), 0, -1, 0, -1)
        left = s._replace(journal=s.journal | {event}, tick=s.tick + 1)
        at = "mark" if own.since and self.stays_behind else "publish"
        yield f"own: journaled at {event.time}", left, own._replace(at=at, event=event)

    def _own_publish(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        assert own.event is not None
        for label, left, confirmed in self._outcomes(s, 0, own.event):
            at = "done" if confirmed or not self.is_marked else "mark"
            yield f"own: {label}", left, own._replace(at=at)

    def _own_mark(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        assert own.event is not None
        yield "own: sets the mark", self._marked(s, own.event), own._replace(at="done")

    def _own_done(self, s: State, own: Own) -> Iterator[tuple[str, State, Own]]:
        yield from ()

    def fault(self, s: Both) -> str | None:  # type: ignore[override]
        event, taken = s.own.event, s.journal.taken[0]
        if event in taken and not set(s.own.before) <= set(taken[: taken.index(event)]):
            return "an event of ours overtook what was answered before"
        return super().fault(s.journal)

    def is_goal(self, s: Both) -> bool:  # type: ignore[override]
        is_told = s.own.at == "done" and s.own.event in s.journal.taken[0]
        return is_told and super().is_goal(s.journal)
