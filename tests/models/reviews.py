"""Rule 15: a silence is reported once, and not of a device that has spoken.

One device that speaks now and then and falls silent; two replicas review it and may stop anywhere; any
replica publishes the outbox, and removes from it what is published. Promises: of each silence there is one
event; none is written once the device has spoken; a silence that lasts has its event in the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Reported(NamedTuple):
    id: int
    silence: int
    is_late: bool
    """The device had spoken when it was written."""


class State(NamedTuple):
    seen: int
    """How often the device has spoken."""
    is_silent: bool
    noted: int | None
    """The silence that the record notes as reported."""
    reviews: tuple[tuple[str, int] | None, ...]
    """Each replica's next step, and `seen` as it read it."""
    outbox: frozenset[Reported]
    published: frozenset[Reported]
    made: int
    kills: int


@dataclass(frozen=True)
class Reviews:
    speaks: int = 2
    kills: int = 1
    condition: str = "seen and noted"
    """Of the write that reports: `seen and noted`, `seen`, `noted` or `none`."""
    is_one_write: bool = True
    """The note and the event are written together; else the note first."""

    def start(self) -> State:
        return State(0, False, None, (None, None), frozenset(), frozenset(), 0, self.kills)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.seen < self.speaks:
            yield "the device speaks", s._replace(seen=s.seen + 1, is_silent=False)
        if not s.is_silent:
            yield "the device is silent for long", s._replace(is_silent=True)
        for replica, review in enumerate(s.reviews):
            yield from self._review(s, replica, review)
        for event in s.outbox:
            if event not in s.published:
                yield f"event {event.id} is published", s._replace(published=s.published | {event})
            else:
                yield f"event {event.id} leaves the outbox", s._replace(outbox=s.outbox - {event})

    def _review(
        self, s: State, replica: int, review: tuple[str, int] | None
    ) -> Iterator[tuple[str, State]]:
        def at(left: State, step: tuple[str, int] | None) -> State:
            reviews = (*left.reviews[:replica], step, *left.reviews[replica + 1 :])
            return left._replace(reviews=reviews)

        if review is None:
            if s.is_silent and s.noted != s.seen:
                yield f"{replica} reads that it is silent", at(s, ("reports", s.seen))
            return
        step, seen = review
        if s.kills:
            yield f"{replica} dies", at(s._replace(kills=s.kills - 1), None)
        if step == "writes":
            yield f"{replica} keeps the event", at(self._kept(s, seen), None)
        elif not self._holds(s, seen):
            yield f"{replica} is overtaken", at(s, None)
        elif self.is_one_write:
            yield f"{replica} reports", at(self._kept(s._replace(noted=seen), seen), None)
        else:
            yield f"{replica} notes the report", at(s._replace(noted=seen), ("writes", seen))

    def _holds(self, s: State, seen: int) -> bool:
        is_seen = "seen" not in self.condition or s.seen == seen
        return is_seen and ("noted" not in self.condition or s.noted != seen)

    def _kept(self, s: State, seen: int) -> State:
        event = Reported(s.made, seen, s.seen != seen)
        return s._replace(outbox=s.outbox | {event}, made=s.made + 1)

    def fault(self, s: State) -> str | None:
        events = s.outbox | s.published
        if any(event.is_late for event in events):
            return "a device that has spoken is reported as silent"
        if len({event.silence for event in events}) < len(events):
            return "a silence has two events"
        return None

    def is_goal(self, s: State) -> bool:
        is_reported = any(event.silence == s.seen for event in s.published)
        return s.is_silent and s.seen == self.speaks and is_reported and not s.outbox
