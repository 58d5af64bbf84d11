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


class QueueEntry(NamedTuple):
    state: str = "queued"
    hands: int = 0
    """How often it was sent; names the last send."""
    tries: int = 0
    """How often since it was put off."""
    first: int | None = None
    unanswered: int = 0
    counted: bool = False
    """The last send is among the unanswered."""
    moved: int = 0
    """The store's time of its last try, or when it moved back; 0: it did not."""
    marked_sent: int = 0
    """When it was sent last."""


class Request(NamedTuple):
    token: int
    kind: str
    reports: int | None
    at: str
    may_move: bool = True
    found: int = 0
    seen: QueueEntry = QueueEntry()


class Budget(NamedTuple):
    impatience: int = 0
    kills: int = 0
    not_now: int = 0


NOTHING = Budget()


class State(NamedTuple):
    entries: tuple[QueueEntry, ...]
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
    """The command that was sent last, and how often in a row while another one that moved waited."""
    budget: Budget
    wrong: str | None


@dataclass(frozen=True)
class Unanswered:
    answers: tuple[str, ...] = ("never", "done")
    """Of each command, in the order of send: what the device answers, `done`, `later` or `never`."""
    budget: Budget = NOTHING
    idles: int = 8
    not_before: int = 2
    """So many Idles after its first send a command moves back at the earliest."""
    moves: bool = True
    counts: str = "once"
    """An attempt counts `once`; or at `each` Idle, whether it was counted or not."""
    condition: str = "hand-out"
    """What counts is conditional on the `send` seen; or on `nothing`."""
    only_idle: bool = False
    """Only Idle shows that an attempt went unanswered, and not the answer to what was sent after it."""
    not_now_resets: bool = True
    stamps: bool = True
    """A send of what moved back puts it behind the others that moved."""

    def start(self) -> State:
        entries = tuple(QueueEntry() for _ in self.answers)
        return State(entries, frozenset(), 0, None, 0, 0, False, (-1, 0), self.budget, None)

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
        entry = s.entries[r.reports]
        left = _go(s, r, at="find")
        if entry.state not in ("done", "queued"):
            if r.kind == "Acknowledged":
                left = _with(left, r.reports, entry._replace(state="done"))
            elif self.not_now_resets:
                off = QueueEntry("not now", entry.hands, marked_sent=entry.marked_sent)
                left = _with(left, r.reports, off)
            else:
                left = _with(left, r.reports, entry._replace(state="not now", tries=0))
        return f"{r.token} reports {r.kind} of c{r.reports}", left

    def _find(self, s: State, r: Request) -> tuple[str, State]:
        free = [
            (entry.moved, index)
            for index, entry in enumerate(s.entries)
            if entry.state != "done"
            and index != r.reports
            and (r.kind == "Idle" or entry.state != "not now")
        ]
        if not free:
            return f"{r.token} finds nothing", _over(s, r)
        _, index = min(free)
        seen = s.entries[index]
        counts = self._is_unanswered(s, r, seen)
        is_old = seen.first is not None and s.idles - seen.first >= self.not_before
        may_move = self.moves and r.may_move and not seen.moved and is_old
        moves = may_move and counts and seen.unanswered + 1 >= MOVES_AFTER
        at = "move" if moves else "claim"
        return f"{r.token} finds c{index}", _go(s, r, at=at, found=index, seen=seen)

    def _is_unanswered(self, s: State, r: Request, seen: QueueEntry) -> bool:
        came_back = r.kind == "Idle"
        if r.reports is not None and not self.only_idle:
            came_back = s.entries[r.reports].marked_sent > seen.marked_sent
        is_counted = seen.counted and self.counts == "once"
        return came_back and seen.state == "sent" and not is_counted

    def _is_met(self, r: Request, entry: QueueEntry) -> bool:
        return self.condition == "nothing" or (entry.state, entry.hands, entry.counted) == (
            r.seen.state,
            r.seen.hands,
            r.seen.counted,
        )

    def _move(self, s: State, r: Request) -> tuple[str, State]:
        entry, left = s.entries[r.found], _go(s, r, at="find", may_move=False)
        is_met = entry.state != "done" and self._is_met(r, entry)
        if is_met:
            moved = entry._replace(unanswered=entry.unanswered + 1, counted=True, moved=s.ticks + 1)
            left = _with(left._replace(ticks=s.ticks + 1), r.found, moved)
        return f"{r.token} moves c{r.found} back: {is_met}", left

    def _claim(self, s: State, r: Request) -> tuple[str, State]:
        entry = s.entries[r.found]
        counts = self._is_unanswered(s, r, r.seen)
        if entry.state == "done" or (counts and not self._is_met(r, entry)):
            return f"{r.token} loses c{r.found}", _go(s, r, at="find")
        marked_sent = QueueEntry(
            "sent",
            entry.hands + 1,
            entry.tries + 1,
            s.idles if entry.first is None else entry.first,
            entry.unanswered + counts,
            False,
            s.ticks + 1 if r.seen.moved and self.stamps else entry.moved,
            s.ticks + 1,
        )
        left = _with(_go(s, r, at="send")._replace(ticks=s.ticks + 1), r.found, marked_sent)
        return f"{r.token} claims c{r.found}", self._noted(left, r.found)

    def _noted(self, s: State, index: int) -> State:
        """The send in the account."""
        takes_turns = [i for i, p in enumerate(s.entries) if p.moved and p.state != "done"]
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
        for index, entry in enumerate(s.entries):
            if entry.unanswered > entry.tries - (not entry.counted) and entry.tries:
                return f"an attempt of c{index} counts that did not go unanswered"
            if not entry.tries and (entry.unanswered or entry.moved):
                return f"c{index} was put off and is still counted"
        if self._is_left(s) and any(p.tries > MOST_TRIES and not p.moved for p in s.entries):
            return "what is never answered stands in the way"
        if s.streak[1] > 3 and self.answers[s.streak[0]] == "never":
            return f"c{s.streak[0]} takes all turns"
        return s.wrong

    def is_goal(self, s: State) -> bool:
        return s.again and not self._is_left(s)

    def _is_left(self, s: State) -> bool:
        """Whether the device has not answered yet what it can."""
        return any(
            answer == "done" and entry.state != "done"
            for answer, entry in zip(self.answers, s.entries, strict=True)
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


def _with(s: State, index: int, entry: QueueEntry) -> State:
    return s._replace(entries=(*s.entries[:index], entry, *s.entries[index + 1 :]))
