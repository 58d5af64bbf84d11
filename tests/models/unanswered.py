"""Rule 5, a command that is never answered: one enrollment, and commands of which its device answers some.

The device sends Idle, fetches a command, and comes back with Idle when it dies of it. There may be commands
that it puts off by NotNow each time; it may put off another one, and give up a request, which then goes on
by itself; a process may die. Each Idle is one unit of time.

Promises: within so many Idles all that the device can answer is answered, and what it cannot is offered
again after that; no attempt counts that did not go unanswered; of two that moved back each has its turn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MOVES_AFTER = 3
MOST_TRIES = 6
"""Before it moves back: two requests at once may both hand it out, and one of them dies."""


class Place(NamedTuple):
    state: str = "queued"
    hands: int = 0
    """How often it was handed out; names the last hand-out."""
    tries: int = 0
    """How often since it was put off."""
    first: int | None = None
    unanswered: int = 0
    counted: bool = False
    """The last hand-out is among the unanswered."""
    moved: int = 0
    """The store's time of its last try, or when it moved back; 0: it did not."""
    handed: int = 0
    """When it was handed out last."""


class Request(NamedTuple):
    token: int
    kind: str
    reports: int | None
    at: str
    may_move: bool = True
    found: int = 0
    seen: Place = Place()


class Budget(NamedTuple):
    impatience: int = 0
    kills: int = 0
    not_now: int = 0


NOTHING = Budget()


class State(NamedTuple):
    places: tuple[Place, ...]
    requests: frozenset[Request]
    waits_for: int
    holds: int | None
    """The command that the device has."""
    idles: int
    ticks: int
    """The store's clock, which goes up with each write that notes it."""
    again: bool
    """What cannot be answered was offered after all else was done."""
    streak: tuple[int, int]
    """The command that was handed out last, and how often in a row while another one that moved waited."""
    budget: Budget
    wrong: str | None


@dataclass(frozen=True)
class Unanswered:
    answers: tuple[str, ...] = ("never", "done")
    """Of each command, in the order of hand-out: what the device answers, `done`, `later` or `never`."""
    budget: Budget = NOTHING
    idles: int = 8
    not_before: int = 2
    """So many Idles after its first hand-out a command moves back at the earliest."""
    moves: bool = True
    counts: str = "once"
    """An attempt counts `once`; or at `each` Idle, whether it was counted or not."""
    condition: str = "hand-out"
    """What counts is conditional on the `hand-out` seen; or on `nothing`."""
    only_idle: bool = False
    """Only Idle shows that an attempt went unanswered, and not the answer to what was handed out after it."""
    not_now_resets: bool = True
    stamps: bool = True
    """A hand-out of what moved back puts it behind the others that moved."""

    def start(self) -> State:
        places = tuple(Place() for _ in self.answers)
        return State(places, frozenset(), 0, None, 0, 0, False, (-1, 0), self.budget, None)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.wrong:
            return
        yield from self._device(s)
        for request in s.requests:
            yield getattr(self, f"_{request.at}")(s, request)
            if s.budget.kills:
                left = s._replace(budget=s.budget._replace(kills=s.budget.kills - 1))
                yield f"the process of {request.token} dies", _over(left, request)

    # --- the device

    def _device(self, s: State) -> Iterator[tuple[str, State]]:
        if s.waits_for:
            if s.budget.impatience:
                budget = s.budget._replace(impatience=s.budget.impatience - 1)
                yield "the device gives up", s._replace(waits_for=0, budget=budget)
            return
        if len(s.requests) >= 2:
            return
        answer = "never" if s.holds is None else self.answers[s.holds]
        if answer != "never":
            kind = {"done": "Acknowledged", "later": "NotNow"}[answer]
            yield f"the device sends {kind} of c{s.holds}", _sent(s, kind, s.holds)
            return
        if s.holds is not None and s.budget.not_now:
            left = s._replace(budget=s.budget._replace(not_now=s.budget.not_now - 1))
            yield f"the device puts off c{s.holds}", _sent(left, "NotNow", s.holds)
        if s.idles < self.idles:
            yield "the device sends Idle", _sent(s._replace(idles=s.idles + 1), "Idle", None)

    # --- a request

    def _report(self, s: State, r: Request) -> tuple[str, State]:
        assert r.reports is not None
        place = s.places[r.reports]
        left = _go(s, r, at="find")
        if place.state not in ("done", "queued"):
            if r.kind == "Acknowledged":
                left = _with(left, r.reports, place._replace(state="done"))
            elif self.not_now_resets:
                off = Place("not now", place.hands, handed=place.handed)
                left = _with(left, r.reports, off)
            else:
                left = _with(left, r.reports, place._replace(state="not now", tries=0))
        return f"{r.token} reports {r.kind} of c{r.reports}", left

    def _find(self, s: State, r: Request) -> tuple[str, State]:
        free = [
            (place.moved, index)
            for index, place in enumerate(s.places)
            if place.state != "done"
            and index != r.reports
            and (r.kind == "Idle" or place.state != "not now")
        ]
        if not free:
            return f"{r.token} finds nothing", _over(s, r)
        _, index = min(free)
        seen = s.places[index]
        counts = self._is_unanswered(s, r, seen)
        is_old = seen.first is not None and s.idles - seen.first >= self.not_before
        may_move = self.moves and r.may_move and not seen.moved and is_old
        moves = may_move and counts and seen.unanswered + 1 >= MOVES_AFTER
        at = "move" if moves else "claim"
        return f"{r.token} finds c{index}", _go(s, r, at=at, found=index, seen=seen)

    def _is_unanswered(self, s: State, r: Request, seen: Place) -> bool:
        came_back = r.kind == "Idle"
        if r.reports is not None and not self.only_idle:
            came_back = s.places[r.reports].handed > seen.handed
        is_counted = seen.counted and self.counts == "once"
        return came_back and seen.state == "sent" and not is_counted

    def _is_met(self, r: Request, place: Place) -> bool:
        return self.condition == "nothing" or (place.state, place.hands, place.counted) == (
            r.seen.state,
            r.seen.hands,
            r.seen.counted,
        )

    def _move(self, s: State, r: Request) -> tuple[str, State]:
        place, left = s.places[r.found], _go(s, r, at="find", may_move=False)
        is_met = place.state != "done" and self._is_met(r, place)
        if is_met:
            moved = place._replace(unanswered=place.unanswered + 1, counted=True, moved=s.ticks + 1)
            left = _with(left._replace(ticks=s.ticks + 1), r.found, moved)
        return f"{r.token} moves c{r.found} back: {is_met}", left

    def _claim(self, s: State, r: Request) -> tuple[str, State]:
        place = s.places[r.found]
        counts = self._is_unanswered(s, r, r.seen)
        if place.state == "done" or (counts and not self._is_met(r, place)):
            return f"{r.token} loses c{r.found}", _go(s, r, at="find")
        handed = Place(
            "sent",
            place.hands + 1,
            place.tries + 1,
            s.idles if place.first is None else place.first,
            place.unanswered + counts,
            False,
            s.ticks + 1 if r.seen.moved and self.stamps else place.moved,
            s.ticks + 1,
        )
        left = _with(_go(s, r, at="send")._replace(ticks=s.ticks + 1), r.found, handed)
        return f"{r.token} claims c{r.found}", self._noted(left, r.found)

    def _noted(self, s: State, index: int) -> State:
        """The hand-out in the account."""
        takes_turns = [i for i, p in enumerate(s.places) if p.moved and p.state != "done"]
        is_row = index in takes_turns and len(takes_turns) > 1 and s.streak[0] == index
        streak = (index, s.streak[1] + 1 if is_row else 1)
        again = s.again or (not self._is_left(s) and self.answers[index] == "never")
        return s._replace(streak=streak, again=again)

    def _send(self, s: State, r: Request) -> tuple[str, State]:
        left = _over(s, r)
        if s.waits_for == r.token:
            left = left._replace(holds=r.found)
        return f"{r.token}: c{r.found} goes out", left

    # --- the account

    def fault(self, s: State) -> str | None:
        for index, place in enumerate(s.places):
            if place.unanswered > place.tries - (not place.counted) and place.tries:
                return f"an attempt of c{index} counts that did not go unanswered"
            if not place.tries and (place.unanswered or place.moved):
                return f"c{index} was put off and is still counted"
        if self._is_left(s) and any(p.tries > MOST_TRIES and not p.moved for p in s.places):
            return "what is never answered stands in the way"
        if s.streak[1] > 3 and self.answers[s.streak[0]] == "never":
            return f"c{s.streak[0]} takes all turns"
        return s.wrong

    def is_goal(self, s: State) -> bool:
        return s.again and not self._is_left(s)

    def _is_left(self, s: State) -> bool:
        """Whether the device has not answered yet what it can."""
        return any(
            answer == "done" and place.state != "done"
            for answer, place in zip(self.answers, s.places, strict=True)
        )


def _sent(s: State, kind: str, reports: int | None) -> State:
    token = min({1, 2, 3} - {request.token for request in s.requests})
    at = "find" if reports is None else "report"
    request = Request(token, kind, reports, at)
    return s._replace(waits_for=token, holds=None, requests=s.requests | {request})


def _over(s: State, r: Request) -> State:
    left = s._replace(requests=s.requests - {r})
    if s.waits_for != r.token:
        return left
    # What it could not report it reports again.
    holds = r.reports if r.reports is not None and r.at == "report" else None
    return left._replace(waits_for=0, holds=holds)


def _go(s: State, r: Request, **changes: object) -> State:
    return s._replace(requests=(s.requests - {r}) | {r._replace(**changes)})


def _with(s: State, index: int, place: Place) -> State:
    return s._replace(places=(*s.places[:index], place, *s.places[index + 1 :]))
