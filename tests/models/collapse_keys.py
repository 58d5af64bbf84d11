"""Commands of one collapse key in one queue: the newest wins, whatever the clocks say.

Clients post commands to replicas whose clocks differ; a client may repeat a post whose answer it did not
get, under the same CommandUUID. A post reads the open rivals, sent or not, inserts its entry above them, and
ends those of them that were not sent; a post whose entry is there already ends none. Then it looks again,
ends what is below the newest and was not sent, and answers. The device may be handed an entry at any time.

Promises: no entry is superseded by a command that was answered before it was posted; of what was
answered and not sent, something stays open; after all posts one place is open at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

Order = tuple[int, int]


class QueueEntry(NamedTuple):
    command: int
    order: Order
    state: str
    """`open`, `sent`, or `superseded`."""


class Post(NamedTuple):
    command: int
    replica: int
    at: str
    floor: int
    older: frozenset[QueueEntry]
    """Entries that it read as open, and as older than another one."""


class State(NamedTuple):
    posts: frozenset[Post]
    entries: frozenset[QueueEntry]
    sent: tuple[int, ...]
    """How often each command was sent."""
    after: tuple[frozenset[int], ...]
    """Of each command: which ones had been answered when it was sent first."""
    answered: frozenset[int]
    tick: int
    repeats: int
    wrong: str | None


@dataclass(frozen=True)
class CollapseKeys:
    commands: int = 2
    clocks: tuple[int, int] = (0, 9)
    repeats: int = 1
    sent_entries: bool = True
    order: str = "above"
    """`above` the open rivals, as the rule is; or by the `clock` alone."""
    is_above_all: bool = True
    """A post's order is above that of what was sent too."""
    ends: str = "conditional"
    """`conditional` on being open; or `blind`, on what was read."""
    looks_again: bool = True
    """After its insertion a post ends what came meanwhile, too."""

    def start(self) -> State:
        none: frozenset[int] = frozenset()
        return State(
            frozenset(),
            frozenset(),
            (0,) * self.commands,
            (none,) * self.commands,
            none,
            1,
            self.repeats,
            None,
        )

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        for command in range(self.commands):
            yield from self._client(s, command)
        for post in s.posts:
            yield from self._post(s, post)
        for entry in s.entries if self.sent_entries else ():
            if entry.state == "open":
                yield f"c{entry.command} is handed out", _now(s, entry, "handed out")

    def _client(self, s: State, command: int) -> Iterator[tuple[str, State]]:
        is_first = s.sent[command] == 0
        if command in s.answered or not (is_first or s.repeats):
            return
        after = s.answered if is_first else s.after[command]
        left = s._replace(
            sent=_put(s.sent, command, 1),
            after=_put(s.after, command, after),
            repeats=s.repeats - (not is_first),
        )
        for replica in (0, 1):
            post = Post(command, replica, "read", 0, frozenset())
            if post not in s.posts:
                again = "" if is_first else " again"
                yield (
                    f"c{command} is posted to {replica}{again}",
                    left._replace(posts=s.posts | {post}),
                )

    def _post(self, s: State, p: Post) -> Iterator[tuple[str, State]]:
        name = f"c{p.command} at {p.replica}"
        if p.at == "read":
            states = ("open", "handed out") if self.is_above_all else ("open",)
            rivals = [e.order[0] for e in s.entries if e.state in states and e.command != p.command]
            floor = max(rivals, default=0) if self.order == "above" else 0
            older = frozenset(e for e in s.entries if e.state == "open" and e.command != p.command)
            left = _go(s, p, at="insert", floor=floor, older=older)
            yield f"{name}: the open rivals are up to {floor}", left
        elif p.at == "insert":
            yield self._insert(s, p, name)
        elif p.at == "look":
            yield self._look(s, p, name)
        elif p.at in ("end what was read", "end"):
            yield self._end(s, p, name)
        else:
            left = s._replace(posts=s.posts - {p}, answered=s.answered | {p.command})
            yield f"{name}: answered", left

    def _insert(self, s: State, p: Post, name: str) -> tuple[str, State]:
        if any(each.command == p.command for each in s.entries):
            return f"{name}: is queued already", _go(s, p, at="look")
        time = max(2 * s.tick + self.clocks[p.replica], p.floor + 1)
        entry = QueueEntry(p.command, (time, p.command), "open")
        older = frozenset(each for each in p.older if each.order < entry.order)
        left = _go(s, p, at="end what was read", older=older)
        left = left._replace(entries=s.entries | {entry}, tick=s.tick + 1)
        return f"{name}: is queued with order {time}", left

    def _look(self, s: State, p: Post, name: str) -> tuple[str, State]:
        rivals = [each for each in s.entries if each.state != "superseded"]
        newest = max((each.order for each in rivals), default=(0, 0))
        waiting = [each for each in rivals if each.state == "open"]
        older = frozenset(each for each in waiting if each.order < newest)
        left = _go(s, p, at="end", older=older)
        named = sorted(each.command for each in older)
        return f"{name}: reads that {named} are older than {newest}", left

    def _end(self, s: State, p: Post, name: str) -> tuple[str, State]:
        is_last = p.at == "end" or not self.looks_again
        left = _go(s, p, at="answer" if is_last else "look")
        read = {each.command: each for each in p.older}
        for each in s.entries:
            is_as_read = each == read.get(each.command)
            if is_as_read or (each.command in read and self.ends == "blind"):
                left = _superseded(left, each)
        return f"{name}: ends {sorted(read)}", left

    def fault(self, s: State) -> str | None:
        if s.wrong:
            return s.wrong
        if s.answered and not s.posts:
            states = [entry.state for entry in s.entries]
            if states.count("open") > 1:
                return "two places are open"
            if "open" not in states and "handed out" not in states:
                return "everything that was answered is superseded"
        return None

    def is_goal(self, s: State) -> bool:
        return len(s.answered) == self.commands and not s.posts


def _superseded(s: State, entry: QueueEntry) -> State:
    left = _now(s, entry, "superseded")
    if entry.state == "handed out":
        return left._replace(wrong=f"c{entry.command} was handed out and is superseded")
    above = {each.command for each in s.entries if each.order > entry.order}
    if above and above <= s.after[entry.command]:
        return left._replace(wrong=f"c{entry.command} is superseded by an older command")
    return left


def _put(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


def _go(s: State, p: Post, **changes: object) -> State:
    return s._replace(posts=(s.posts - {p}) | {p._replace(**changes)})


def _now(s: State, entry: QueueEntry, state: str) -> State:
    return s._replace(entries=(s.entries - {entry}) | {entry._replace(state=state)})
