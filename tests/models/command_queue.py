"""Rules 2 to 5: one device and one command of its queue.

A client posts the command, perhaps twice, and may cancel it; a reader looks at it; the device connects,
reports, says NotNow, enrolls anew and may give up, and then its request goes on by itself. Every read and
write of one document is a step of its own.

Promises: an accepted command stays offered until it has ended visibly; it never reaches another
generation, nor a connect that began after its cancel was answered; a final state is written once, and
what a reader saw of it does not change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.command_queue_states import (
    ENDED,
    Budget,
    Device,
    Post,
    QueueEntry,
    Request,
    State,
    changed,
    ended,
    free_token,
    go_on,
    is_open,
    spent,
    watched,
    with_post,
)


@dataclass(frozen=True)
class CommandQueue:
    budget: Budget
    posts: int = 1
    stamps: str = "open"
    """Posting stamps an entry anew `open` ones only; or `any`."""
    ends_of: str = "old"
    """Authenticate ends entries of the `old` generation; or of all `other` ones."""
    generation_first: bool = False
    """A reader reads the generation before the entry."""
    enrolls: str = "conditionally"
    """On condition of the generation that was read; or `blindly`."""
    looks_for_device: bool = True
    """An Authenticate whose device has gone is dropped."""
    trusts_sum: bool = False
    """What was asked for is sent, without looking who won."""
    reports_on: str = "handed out"
    """A report closes what is open, of its generation and `sent`; or only of its `generation`."""
    retries: str = "device"
    """A post is a retry of an ended command if the `device` ended it; if `any` did; `never`."""

    def start(self) -> State:
        nothing = Device(0, "ready", 0, 0)
        return State(0, 1, None, nothing, frozenset(), (), None, None, 0, None, self.budget, None)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if not s.wrong:
            for label, left in self._all(s):
                yield label, watched(left)

    def _all(self, s: State) -> Iterator[tuple[str, State]]:
        if len(s.posts) < self.posts and all(post.at == "done" for post in s.posts):
            state = s.entry.state if s.entry else None
            seen = state == "dropped" or (state == "cancelled" and s.cancel == "done")
            post = Post("read", 0, s.device.epoch, s.device.mode == "ready", seen, 0, None)
            yield "the client posts", s._replace(posts=(*s.posts, post))
        for index, post in enumerate(s.posts):
            if post.at != "done":
                step = getattr(self, f"_post_{post.at}")
                yield step(s, index, post)
        yield from self._cancel(s)
        yield from self._reader(s)
        yield from self._device(s)
        for request in s.requests:
            yield getattr(self, f"_{request.at}")(s, request)

    # --- posting

    def _post_read(self, s: State, index: int, p: Post) -> tuple[str, State]:
        p = p._replace(at="insert", generation=s.generation)
        return f"post {index} reads generation {s.generation}", with_post(s, index, p)

    def _post_insert(self, s: State, index: int, p: Post) -> tuple[str, State]:
        if s.entry is None:
            entry = QueueEntry(p.generation, "open", 1, 0, False)
            left = with_post(s._replace(entry=entry), index, p._replace(at="again", run=1))
            return f"post {index} inserts the place", left
        p = p._replace(at="exists", run=s.entry.run, found=s.entry.state)
        return f"post {index} finds the place {s.entry.state}", with_post(s, index, p)

    def _post_exists(self, s: State, index: int, p: Post) -> tuple[str, State]:
        assert s.entry is not None
        is_retry = p.found not in ENDED or self.retries == "any"
        if is_retry or (self.retries == "device" and p.found == "acknowledged"):
            return f"post {index} is a retry", with_post(s, index, p._replace(at="answer"))
        if s.entry.run != p.run or s.entry.state not in ENDED:
            return f"post {index} looks again", with_post(s, index, p._replace(at="read"))
        entry = QueueEntry(p.generation, "open", p.run + 1, 0, False)
        left = s._replace(entry=entry, endings=0, seen=None)
        p = p._replace(at="again", run=p.run + 1)
        return f"post {index} queues it anew", with_post(left, index, p)

    def _post_again(self, s: State, index: int, p: Post) -> tuple[str, State]:
        if s.generation == p.generation:
            return f"post {index}: unchanged", with_post(s, index, p._replace(at="answer"))
        p = p._replace(at="stamp", generation=s.generation)
        return f"post {index}: generation is now {s.generation}", with_post(s, index, p)

    def _post_stamp(self, s: State, index: int, p: Post) -> tuple[str, State]:
        assert s.entry is not None
        left = with_post(s, index, p._replace(at="answer"))
        if is_open(s.entry):
            left = changed(left, generation=p.generation)
        elif self.stamps == "any":
            left = changed(left, generation=p.generation, state="open")
            left = left._replace(wrong="a final state is overwritten")
        return f"post {index} stamps the place", left

    def _post_answer(self, s: State, index: int, p: Post) -> tuple[str, State]:
        assert s.entry is not None
        left = with_post(
            s, index, p._replace(at="done", run=s.entry.run, answered_in=s.device.epoch)
        )
        if p.was_gone and s.entry.run == 1:
            left = left._replace(
                wrong="a post after the visible end is answered and queues nothing"
            )
        return f"post {index} is answered", left

    # --- cancelling and reading

    def _cancel(self, s: State) -> Iterator[tuple[str, State]]:
        if s.cancel is None and s.budget.cancels and s.entry:
            yield "the client cancels", spent(s, "cancels")._replace(cancel="write")
        elif s.cancel == "write":
            assert s.entry is not None
            left = ended(s, "cancelled") if is_open(s.entry) else s
            yield "the cancel is written", left._replace(cancel="answer")
        elif s.cancel == "answer":
            yield "the cancel is answered", s._replace(cancel="done")

    def _reader(self, s: State) -> Iterator[tuple[str, State]]:
        if s.reader is None:
            if self.generation_first:
                yield "a reader reads the generation", s._replace(reader=(None, s.generation))
            elif s.entry and s.entry.generation != s.generation:
                yield "a reader reads the place", s._replace(reader=(s.entry.generation, None))
            return
        of_entry, generation = s.reader
        if generation is None:
            yield "a reader reads the generation", s._replace(reader=(of_entry, s.generation))
        elif of_entry is None:
            if s.entry:
                read = (s.entry.generation, generation)
                yield "a reader reads the place", s._replace(reader=read)
        else:
            left = s._replace(reader=None)
            is_past = s.entry and is_open(s.entry) and s.entry.generation == of_entry
            if is_past and of_entry != generation:
                left = ended(left, "dropped")
            yield "a reader shows the place", left

    # --- the device

    def _device(self, s: State) -> Iterator[tuple[str, State]]:
        d = s.device
        if d.waits_for:
            if s.budget.impatience:
                waiting = [r for r in s.requests if r.token == d.waits_for]
                holds = waiting[0].reports if waiting and waiting[0].reports else d.holds
                gone = d._replace(waits_for=0, holds=holds)
                yield "the device gives up", spent(s, "impatience")._replace(device=gone)
            return
        if len(s.requests) >= 3:
            return
        if d.mode == "ready":
            yield from self._speaks(s)
        else:
            yield "the device sends Authenticate", _sent(s, d, "Authenticate", 0)
        if s.budget.enrollments and d.mode == "ready":
            for holds in {0, d.holds}:
                again = Device(d.epoch + 1, "enrolling", 0, holds)
                left = _sent(spent(s, "enrollments"), again, "Authenticate", 0)
                yield "the device enrolls anew", left

    def _speaks(self, s: State) -> Iterator[tuple[str, State]]:
        d = s.device
        yield "the device sends Idle", _sent(s, d, "Idle", 0)
        if d.holds:
            done = d._replace(holds=0)
            yield "the device sends Acknowledged", _sent(s, done, "Acknowledged", d.holds)
        if d.holds and s.budget.not_now:
            left = spent(s, "not_now")
            yield "the device sends NotNow", _sent(left, d._replace(holds=0), "NotNow", d.holds)

    def _read(self, s: State, r: Request) -> tuple[str, State]:
        following = "report" if r.reports else "find"
        if r.kind == "Authenticate":
            following = "look"
        left = go_on(s, r, at=following, generation=s.generation)
        return f"{r.kind} {r.token} reads generation {s.generation}", left

    def _look(self, s: State, r: Request) -> tuple[str, State]:
        if s.device.waits_for == r.token or not self.looks_for_device:
            return f"Authenticate {r.token}: its device waits", go_on(s, r, at="enroll")
        return f"Authenticate {r.token}: its device has gone", _over(s, r)

    def _enroll(self, s: State, r: Request) -> tuple[str, State]:
        if self.enrolls == "conditionally" and s.generation != r.generation:
            return "503", _over(s, r)
        left = s._replace(generation=s.next_generation, next_generation=s.next_generation + 1)
        left = go_on(left, r, at="clean", generation=left.generation, run=r.generation)
        return f"Authenticate {r.token}: generation is now {left.generation}", left

    def _clean(self, s: State, r: Request) -> tuple[str, State]:
        left = s
        if s.entry and is_open(s.entry):
            is_old = s.entry.generation == r.run
            is_other = self.ends_of == "other" and s.entry.generation != r.generation
            left = ended(s, "dropped") if is_old or is_other else s
        return f"Authenticate {r.token} ends places", go_on(left, r, at="enrolled")

    def _enrolled(self, s: State, r: Request) -> tuple[str, State]:
        left = s
        if s.device.waits_for == r.token:
            left = s._replace(device=s.device._replace(mode="ready"))
        return f"Authenticate {r.token} is answered", _over(left, r)

    def _report(self, s: State, r: Request) -> tuple[str, State]:
        assert s.entry is not None
        left, entry = s, s.entry
        is_sent = entry.marked_sent or self.reports_on == "generation"
        may_close = is_open(entry) and entry.generation == r.generation and is_sent
        if may_close and r.kind == "NotNow":
            left = changed(s, state="not now")
        elif may_close:
            left = ended(s, "acknowledged")
            if not entry.marked_sent:
                left = left._replace(wrong="a report closes what was not handed out")
        return f"{r.kind} {r.token}: the place is {left.entry.state}", go_on(left, r, at="find")

    def _find(self, s: State, r: Request) -> tuple[str, State]:
        entry = s.entry
        counted = ("open", "not now") if r.kind == "Idle" else ("open",)
        if entry and entry.generation == r.generation and entry.state in counted:
            return f"{r.kind} {r.token} finds it", go_on(s, r, at="claim", run=entry.run)
        return f"{r.kind} {r.token} finds nothing", _over(s, r)

    def _claim(self, s: State, r: Request) -> tuple[str, State]:
        assert s.entry is not None
        is_met = is_open(s.entry) and s.entry.generation == r.generation
        left = changed(s, token=r.token, marked_sent=True) if is_met else s
        at = "send" if self.trusts_sum else "check"
        return f"{r.kind} {r.token}: {is_met}", go_on(left, r, at=at, run=s.entry.run, won=is_met)

    def _check(self, s: State, r: Request) -> tuple[str, State]:
        assert s.entry is not None
        is_ours = s.entry.token == r.token and is_open(s.entry)
        left = go_on(s, r, at="send" if is_ours else "find")
        return f"{r.kind} {r.token}: the place is ours: {is_ours}", left

    def _send(self, s: State, r: Request) -> tuple[str, State]:
        left = _over(s, r)
        if not r.won:
            left = left._replace(wrong="what was not open any more is handed out")
        if s.device.waits_for == r.token:
            left = left._replace(device=left.device._replace(holds=r.run))
            if r.cancelled_run == r.run:
                left = left._replace(wrong="handed out to a connect after the cancel was answered")
            for post in s.posts:
                if post.at == "done" and post.run == r.run and post.answered_in < s.device.epoch:
                    left = left._replace(wrong="a command reaches a later generation")
        return f"{r.kind} {r.token}: the command goes out", left

    # --- the account

    def fault(self, s: State) -> str | None:
        return s.wrong

    def is_goal(self, s: State) -> bool:
        is_answered = len(s.posts) == self.posts and all(p.at == "done" for p in s.posts)
        return is_answered and s.entry is not None and s.entry.state in ENDED


def _sent(s: State, device: Device, kind: str, reports: int) -> State:
    token = free_token(s)
    was_cancelled = s.cancel == "done" and s.entry and s.entry.state == "cancelled"
    run = s.entry.run if was_cancelled and s.entry else 0
    request = Request(kind, token, "read", 0, reports, 0, False, run)
    return s._replace(device=device._replace(waits_for=token), requests=s.requests | {request})


def _over(s: State, r: Request) -> State:
    left = s._replace(requests=s.requests - {r})
    if s.device.waits_for == r.token:
        left = left._replace(device=left.device._replace(waits_for=0))
    return left
