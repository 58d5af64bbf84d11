"""Rule 1: a TokenUpdate that its device gave up does not overwrite the newer one.

A device sends its tokens one after the other to any of two replicas, may give up and send the same or the
next one, and may enroll anew in between; a client may remove it. A request reads the record, looks whether
its device still waits, journals, and writes on a condition. SetBootstrapToken takes the same way.

Promises: after an answer to a message the record never goes back behind what that message said; of each
enrollment of which a token was written, and of no other, an event tells, behind that of a removal before it;
every device can come to an end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Request(NamedTuple):
    number: int
    """Its entry among all that the device sent."""
    value: int
    at: str
    generation: int
    changed_by: int
    is_first: bool = False
    """The record that it read has no token of this enrollment."""
    is_behind: bool = False
    """The record that it read keeps the event of a removal."""


class State(NamedTuple):
    value: int
    """Which token the record holds."""
    generation: int
    changed_by: int
    next_value: int
    waits_for: int
    """Number of the request whose answer the device waits for, 0 for none."""
    answered: int
    """The newest token that was answered 200."""
    sent: int
    requests: frozenset[Request]
    impatience: int
    enrollments: int
    written: frozenset[int] = frozenset()
    """Enrollments of which a token was written."""
    told: frozenset[int] = frozenset()
    """Enrollments that an event tells of."""
    removals: int = 0
    keeps_end: bool = False
    """The record keeps the event of a removal."""
    wrong: str | None = None


@dataclass(frozen=True)
class TokenUpdates:
    tokens: int = 2
    impatience: int = 2
    enrollments: int = 0
    condition: str = "changed_by"
    """`changed_by`, as the rule is; or `generation` alone."""
    event: str = "kept"
    """`kept` by the write; or `journaled` with the message, from what was read."""
    removals: int = 0
    removal_is_change: bool = True
    """A removal by a client changes `changed_by`."""
    order: tuple[str, str] = ("read", "look")
    """First the record is read, then the connection is looked at; or the other way round."""

    def start(self) -> State:
        start = State(0, 0, 0, 1, 0, 0, 0, frozenset(), self.impatience, self.enrollments)
        return start._replace(removals=self.removals)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.waits_for:
            if s.impatience:
                gone = s._replace(waits_for=0, impatience=s.impatience - 1)
                yield "the device gives up", gone
                # What changed meanwhile goes with the next message.
                yield "the device gives up, its token changes", _next(gone, self.tokens)
        elif s.answered < self.tokens:
            number = s.sent + 1
            request = Request(number, s.next_value, self.order[0], 0, 0)
            left = s._replace(waits_for=number, sent=number, requests=s.requests | {request})
            yield f"#{number}: the device sends token {s.next_value}", left
        if s.enrollments:
            # An Authenticate is a change of the record as well.
            left = s._replace(
                generation=s.generation + 1,
                changed_by=-s.enrollments,
                enrollments=s.enrollments - 1,
            )
            yield "the device enrolls anew", left
        if s.removals:
            by = -100 * s.removals if self.removal_is_change else s.changed_by
            left = s._replace(removals=s.removals - 1, keeps_end=True, changed_by=by)
            yield "a client removes the device", left
        if s.keeps_end:
            yield "the removal is told", s._replace(keeps_end=False)
        for request in s.requests:
            yield from self._request(s, request)

    def _request(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        following = dict(pairwise((*self.order, "write")))
        if r.at == "read":
            read = {
                "generation": s.generation,
                "changed_by": s.changed_by,
                "is_first": s.generation not in s.written,
                "is_behind": s.keeps_end,
            }
            yield f"#{r.number}: reads the record", _go(s, r, at=following["read"], **read)
        elif r.at == "look" and s.waits_for == r.number:
            yield f"#{r.number}: its device waits", _go(s, r, at=following["look"])
        elif r.at == "look":
            yield f"#{r.number}: dropped", _ended(s, r)
        elif r.at == "write":
            yield self._write(s, r)
        else:
            answered = s
            if s.waits_for == r.number:
                answered = _next(s._replace(waits_for=0, answered=r.value), self.tokens)
            yield f"#{r.number}: answered 200", _ended(answered, r)

    def _write(self, s: State, r: Request) -> tuple[str, State]:
        is_unchanged = r.generation == s.generation and (
            self.condition == "generation" or r.changed_by == s.changed_by
        )
        if r.is_first and (is_unchanged or self.event == "journaled"):
            s = s._replace(told=s.told | {r.generation})
        if is_unchanged and r.is_first and s.keeps_end and not r.is_behind:
            s = s._replace(wrong="an enrollment is told before the removal that it came after")
        if is_unchanged:
            written = s.written | {r.generation}
            left = s._replace(value=r.value, changed_by=r.number, written=written)
            return f"#{r.number}: writes token {r.value}", _go(left, r, at="answer")
        left = s._replace(waits_for=0) if s.waits_for == r.number else s
        return f"#{r.number}: the record has changed, 503", _ended(left, r)

    def fault(self, s: State) -> str | None:
        if s.value < s.answered:
            return f"token {s.answered} was answered, and the record holds {s.value}"
        if s.told != s.written:
            return "an event tells of an enrollment that did not come to be, or of one none does"
        return s.wrong

    def is_goal(self, s: State) -> bool:
        return s.answered == self.tokens


def _next(s: State, tokens: int) -> State:
    return s._replace(next_value=min(s.next_value + 1, tokens))


def _go(s: State, r: Request, **changes: object) -> State:
    return s._replace(requests=(s.requests - {r}) | {r._replace(**changes)})


def _ended(s: State, r: Request) -> State:
    return s._replace(requests=s.requests - {r})
