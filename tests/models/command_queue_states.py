"""States of the model of one command, and the changes from one to the next."""

from typing import NamedTuple

ENDED = ("acknowledged", "cancelled", "dropped")


class QueueEntry(NamedTuple):
    generation: int
    state: str
    run: int
    """How often it was queued."""
    token: int
    """Of the request that has it."""
    marked_sent: bool


class Device(NamedTuple):
    epoch: int
    """How often it enrolled."""
    mode: str
    waits_for: int
    holds: int
    """The run of the command that it has to report, or 0."""


class Post(NamedTuple):
    at: str
    generation: int
    epoch: int
    was_settled: bool
    was_gone: bool
    """The command had ended visibly when this was sent."""
    run: int
    found: str | None
    answered_in: int = 0


class Request(NamedTuple):
    kind: str
    token: int
    at: str
    generation: int
    reports: int
    run: int
    won: bool
    cancelled_run: int
    """The run whose cancel was answered before this was sent."""


class Budget(NamedTuple):
    """How often each disturbance may happen."""

    impatience: int = 0
    enrollments: int = 0
    not_now: int = 0
    cancels: int = 0


class State(NamedTuple):
    generation: int
    next_generation: int
    entry: QueueEntry | None
    device: Device
    requests: frozenset[Request]
    posts: tuple[Post, ...]
    cancel: str | None
    reader: tuple[int | None, int | None] | None
    """The generation of the entry, and that of the device, as far as they were read."""
    endings: int
    seen: str | None
    """The final state that could be seen after an answer."""
    budget: Budget
    wrong: str | None


def is_open(entry: QueueEntry) -> bool:
    return entry.state in ("open", "not now")


def changed(s: State, **changes: object) -> State:
    assert s.entry is not None
    return s._replace(entry=s.entry._replace(**changes))


def ended(s: State, state: str) -> State:
    left = changed(s, state=state)._replace(endings=s.endings + 1)
    return left._replace(wrong="a final state is written twice") if left.endings > 1 else left


def spent(s: State, kind: str) -> State:
    return s._replace(budget=s.budget._replace(**{kind: getattr(s.budget, kind) - 1}))


def go_on(s: State, request: Request, **changes: object) -> State:
    return s._replace(requests=(s.requests - {request}) | {request._replace(**changes)})


def with_post(s: State, index: int, post: Post) -> State:
    return s._replace(posts=(*s.posts[:index], post, *s.posts[index + 1 :]))


def free_token(s: State) -> int:
    used = {r.token for r in s.requests} | {s.device.waits_for}
    if s.entry:
        used.add(s.entry.token)
    return min(token for token in range(1, 9) if token not in used)


def watched(s: State) -> State:
    """Note what a reader may see after an answer, and what is wrong with it."""
    done = [post for post in s.posts if post.at == "done"]
    if not done or s.entry is None or s.wrong:
        return s
    state = s.entry.state if s.entry.state in ENDED else None
    if s.seen is not None and state != s.seen:
        return s._replace(wrong=f"what was seen as {s.seen} becomes {state}")
    is_lost = s.entry.state == "dropped" or (state is None and s.entry.generation != s.generation)
    for post in done:
        is_this = post.was_settled and post.epoch == s.device.epoch and post.run == s.entry.run
        if is_this and is_lost:
            return s._replace(wrong="an accepted command is dropped though nobody enrolled")
    return s._replace(seen=state)
