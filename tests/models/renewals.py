"""Rules 1, 4 and 16: an Authenticate with a renewed certificate goes on with its enrollment.

A device gets its next certificate, shows it by whichever message comes first, authenticates with it and
updates its token. It may enroll anew with the same certificate, check out and come back, or be removed, and
may give up on any message, which then goes on by itself. A request reads the record, looks whether its device
still waits, binds, and writes on a condition. The generation stands for all that a new enrollment forgets.

Promises: a renewal forgets nothing, however often its Authenticate is repeated; an Authenticate after the
TokenUpdate that followed it, or after a CheckOut, begins anew; what was given up undoes nothing later; a
CheckOut counts if its device waits for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

NONE = -1


class Record(NamedTuple):
    bound: int
    """The certificate; each follows the one before. The first came by Authenticate, others by renewal."""
    generation: int
    changed_by: int
    renewing: int
    """The certificate by which a renewal has authenticated."""
    renewed: int
    """The certificate by which nothing is renewed any more."""
    status: str
    """`in`, `out` after a CheckOut, `removed` by an administrator until its device speaks again."""


class Request(NamedTuple):
    number: int
    kind: str
    certificate: int
    at: str
    read: Record | None
    renews: bool


class Budget(NamedTuple):
    """How often each thing may happen."""

    renewals: int = 0
    enrollments: int = 0
    check_outs: int = 0
    early: int = 0
    """Messages with the next certificate before it has authenticated."""
    removals: int = 0
    impatience: int = 0
    updates: int = 0
    """Of the token, with nothing else."""


class State(NamedTuple):
    record: Record
    certificate: int
    phase: str
    """What the device does next: `free`, `begun` and, once it has sent one, `authenticate`, `token`; `left`
    after a CheckOut, `left?` after one without an answer."""
    waits_for: int
    requests: frozenset[Request]
    meant: str
    """The Authenticate `renews`, is `new`, or, after a removal or a CheckOut without an answer, `either`."""
    before: int
    """The generation when the device began to authenticate."""
    expected: int
    """The generation that must stay; NONE while a new enrollment is under way."""
    is_in: bool
    """An Authenticate was answered, and no CheckOut sent since."""
    budget: Budget
    wrong: str | None


@dataclass(frozen=True)
class Renewals:
    budget: Budget
    condition: str = "changed_by"
    """Of what an Authenticate writes: `changed_by`, or `generation` alone."""
    check_out: str = "changed_by"
    """Of a CheckOut, likewise."""
    again: str = "looks"
    """A CheckOut that was overtaken in its own generation reads again and `looks` whether its device waits;
    or it is `blind`, or `refused`."""
    repeats: bool = True
    """An Authenticate with a certificate that was bound by renewal already may be one."""
    ends: str = "after authenticate"
    """Which TokenUpdate ends a renewal: `after authenticate`, `any` or `none`."""
    new_ends: bool = True
    """A new enrollment ends a renewal."""
    named: bool = True
    """Whether it is noted for which certificate a renewal is under way, or has ended."""

    def start(self) -> State:
        record = Record(0, 0, 0, NONE, NONE, "in")
        return State(record, 0, "free", 0, frozenset(), "", 0, 0, True, self.budget, None)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.wrong:
            return
        if s.waits_for and s.budget.impatience:
            left = _spent(s, "impatience")._replace(waits_for=0)
            phase = "left?" if _waited(s).kind == "CheckOut" else s.phase
            yield "the device gives up", left._replace(phase=phase)
        elif not s.waits_for and len(s.requests) < 3:
            yield from self._device(s)
        if s.budget.removals:
            yield "an administrator removes the device", _removed(s)
        for request in s.requests:
            step = getattr(self, f"_{request.at}")
            label, left = step(s, request)
            yield f"{request.kind} {request.number}: {label}", left

    # --- the device

    def _device(self, s: State) -> Iterator[tuple[str, State]]:
        if s.phase in ("begun", "authenticate"):
            authenticating = s._replace(phase="authenticate")
            yield "the device sends Authenticate", _sent(authenticating, "Authenticate")
            # No device updates its token while it waits to be let in.
            is_known = s.phase == "begun" and s.meant == "renews"
            kinds = ("Connect", "TokenUpdate") if is_known else ("Connect",)
            for kind in kinds if s.budget.early else ():
                yield f"the device sends {kind} first", _sent(_spent(s, "early"), kind)
        elif s.phase == "token":
            yield "the device sends TokenUpdate", _sent(s, "TokenUpdate")
        if s.phase not in ("begun", "authenticate"):
            yield from self._free(s)

    def _free(self, s: State) -> Iterator[tuple[str, State]]:
        # A device whose CheckOut was not answered may be known as one that left, or not.
        meant = {"left": "new", "left?": "either"}.get(s.phase, "renews")
        if s.budget.renewals:
            left = _spent(s, "renewals")._replace(certificate=s.certificate + 1)
            yield "the device gets the next certificate", _begins(left, meant)
        has_left = s.phase in ("left", "left?")
        if has_left or (s.phase == "free" and s.budget.enrollments):
            left = s if has_left else _spent(s, "enrollments")
            meant = "either" if s.phase == "left?" else "new"
            yield "the device enrolls anew", _begins(left, meant)
        if s.phase == "free" and s.budget.updates:
            yield "the device updates its token", _sent(_spent(s, "updates"), "TokenUpdate")
        if s.phase == "free" and s.budget.check_outs:
            left = _spent(s, "check_outs")._replace(is_in=False)
            yield "the device sends CheckOut", _sent(left, "CheckOut")

    # --- the steps of a request

    def _read(self, s: State, r: Request) -> tuple[str, State]:
        record = s.record
        is_bound = self.repeats and 0 < record.bound == r.certificate != record.renewed
        follows = record.bound == r.certificate - 1
        renews = r.kind == "Authenticate" and record.status == "in" and (follows or is_bound)
        label = "reads the record: a renewal" if renews else "reads the record"
        return label, _go(s, r, at="look", read=record, renews=renews)

    def _look(self, s: State, r: Request) -> tuple[str, State]:
        if s.waits_for != r.number:
            return "its device has gone", _over(s, r)
        return "its device waits", _go(s, r, at="bind")

    def _bind(self, s: State, r: Request) -> tuple[str, State]:
        assert r.read is not None
        record = s.record
        if r.read.bound == r.certificate:
            return "nothing to bind", _go(s, r, at="apply")
        is_same = record.generation == r.read.generation
        if not is_same or record.bound not in (r.read.bound, r.certificate):
            return "503", _over(s, r)
        marks = {} if self.named else {"renewing": NONE, "renewed": NONE}
        if record.bound != r.certificate:
            s = s._replace(record=record._replace(bound=r.certificate, **marks))
        return "binds its certificate", _go(s, r, at="apply")

    def _apply(self, s: State, r: Request) -> tuple[str, State]:
        assert r.read is not None
        if r.kind == "Connect":
            return "is served", _go(_speaks(s), r, at="answer")
        condition = {"Authenticate": self.condition, "CheckOut": self.check_out}.get(r.kind)
        is_met = s.record.generation == r.read.generation and (
            condition == "generation" or s.record.changed_by == r.read.changed_by
        )
        if r.kind == "Authenticate":
            is_met = is_met and s.record.bound == r.certificate
        is_checkout = r.kind == "CheckOut" and r.read.generation == s.record.generation
        if not is_met and is_checkout and self.again != "refused":
            at = "read" if self.again == "looks" else "apply"
            return "is overtaken, and reads again", _go(s, r, at=at, read=s.record)
        if not is_met:
            if is_checkout and s.waits_for == r.number:
                s = s._replace(wrong="a CheckOut of a device that waits is refused")
            return "503", _over(s, r)
        record = self._changed(s.record, r)._replace(changed_by=r.number)
        return "is applied", _go(s._replace(record=record), r, at="answer")

    def _changed(self, record: Record, r: Request) -> Record:
        assert r.read is not None
        certificate = r.certificate if self.named else record.bound
        if r.kind == "CheckOut":
            return record._replace(status="out")
        if r.kind == "Authenticate" and r.renews:
            return record._replace(renewing=certificate)
        if r.kind == "Authenticate":
            renewed = certificate if self.new_ends else record.renewed
            generation = record.generation + 1
            return record._replace(generation=generation, renewed=renewed, status="in")
        is_under_way = r.read.renewing == r.certificate
        ends = {"after authenticate": is_under_way, "any": True, "none": False}[self.ends]
        return record._replace(renewed=certificate if ends else record.renewed, status="in")

    def _answer(self, s: State, r: Request) -> tuple[str, State]:
        is_heard = s.waits_for == r.number
        s = _over(s, r)
        if not is_heard:
            return "answers nobody", s
        if r.kind == "CheckOut":
            s = s._replace(phase="left")
        elif r.kind == "Authenticate":
            if s.meant == "new" and s.record.generation == s.before:
                s = s._replace(wrong="a new enrollment goes on with the one before")
            s = s._replace(phase="token", expected=s.record.generation, is_in=True)
        elif s.phase == "token":
            s = s._replace(phase="free")
        return "is answered", s

    # --- the account

    def fault(self, s: State) -> str | None:
        if s.expected not in (NONE, s.record.generation):
            return "an enrollment is forgotten though nobody enrolled"
        if s.is_in and s.record.status == "out":
            return "a CheckOut that was given up ends a later enrollment"
        return s.wrong

    def is_goal(self, s: State) -> bool:
        return s.phase == "free" and not s.waits_for and not s.budget.renewals


def _removed(s: State) -> State:
    left = _spent(s, "removals")._replace(record=s.record._replace(status="removed"))
    if s.phase in ("begun", "authenticate") and s.meant == "renews":
        left = left._replace(meant="either", expected=NONE)
    return left


def _speaks(s: State) -> State:
    is_removed = s.record.status == "removed"
    return s._replace(record=s.record._replace(status="in")) if is_removed else s


def _begins(s: State, meant: str) -> State:
    if s.record.status == "removed" and meant == "renews":
        meant = "either"
    expected = s.record.generation if meant == "renews" else NONE
    return s._replace(phase="begun", meant=meant, before=s.record.generation, expected=expected)


def _sent(s: State, kind: str) -> State:
    used = {0, s.record.changed_by} | {r.number for r in s.requests}
    used |= {r.read.changed_by for r in s.requests if r.read is not None}
    number = min(number for number in range(1, 12) if number not in used)
    request = Request(number, kind, s.certificate, "read", None, False)
    return s._replace(waits_for=number, requests=s.requests | {request})


def _waited(s: State) -> Request:
    [found] = [request for request in s.requests if request.number == s.waits_for]
    return found


def _spent(s: State, kind: str) -> State:
    return s._replace(budget=s.budget._replace(**{kind: getattr(s.budget, kind) - 1}))


def _go(s: State, r: Request, **changes: object) -> State:
    return s._replace(requests=(s.requests - {r}) | {r._replace(**changes)})


def _over(s: State, r: Request) -> State:
    left = s._replace(requests=s.requests - {r})
    return left._replace(waits_for=0) if s.waits_for == r.number else left
