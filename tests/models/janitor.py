"""Rule 13: the janitor beside those who queue a command.

One stored command which nobody refers to; two clients queue it, and may die anywhere; the janitor may stop
anywhere; days pass. Promise: no command that was answered for is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

LAST_DAY = 5


class State(NamedTuple):
    day: int
    touched: int | None
    """None: the command is gone."""
    entries: int
    queue_service: tuple[int, ...]
    """How many steps each client has taken; three at the end."""
    janitor: tuple[str, int | None] | None
    answered: int


@dataclass(frozen=True)
class Janitor:
    deletes: str = "if unchanged"
    """`if unchanged`: on condition of the `touched` that was read; or `blind`."""
    looks_last: bool = True
    """The janitor looks for entries after it has read `touched`."""
    stalls: bool = False
    """A day may pass between a client's two steps: it answers all the same."""

    def start(self) -> State:
        return State(2, 0, 0, (0, 0), None, 0)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        for client, done in enumerate(s.queue_service):
            yield from self._client(s, client, done)
        if s.day < LAST_DAY and (self.stalls or 1 not in s.queue_service):
            yield "a day passes", s._replace(day=s.day + 1)
        yield from self._janitor(s)

    def _client(self, s: State, client: int, done: int) -> Iterator[tuple[str, State]]:
        def at(left: State, step: int) -> State:
            queue_service = (*left.queue_service[:client], step, *left.queue_service[client + 1 :])
            return left._replace(queue_service=queue_service)

        if done == 0:
            yield f"client {client} touches the command", at(s._replace(touched=s.day), done + 1)
        elif done == 1:
            yield (
                f"client {client} inserts a place",
                at(s._replace(entries=s.entries + 1), done + 1),
            )
        elif done == 2:
            yield f"client {client} is answered", at(s._replace(answered=s.answered + 1), 3)
        if done in (1, 2):
            yield f"client {client} dies", at(s, 3)

    def _janitor(self, s: State) -> Iterator[tuple[str, State]]:
        is_old = s.touched is not None and s.touched < s.day - 1
        if s.janitor is None:
            if self.looks_last and is_old:
                yield "janitor: it is old", s._replace(janitor=("look", s.touched))
            elif not self.looks_last and s.entries == 0:
                yield "janitor: no place refers to it", s._replace(janitor=("read", None))
            return
        at, touched = s.janitor
        if at == "look":
            following = None if s.entries else ("delete", touched)
            yield "janitor: looks for places", s._replace(janitor=following)
        elif at == "read":
            following = ("delete", s.touched) if is_old else None
            yield "janitor: reads touched", s._replace(janitor=following)
        else:
            may = self.deletes == "blind" or s.touched == touched
            left = s._replace(touched=None if may else s.touched, janitor=None)
            yield "janitor: deletes", left

    def fault(self, s: State) -> str | None:
        if s.touched is None and s.answered:
            return "a place that was answered for refers to a command that is gone"
        return None

    def is_goal(self, s: State) -> bool:
        return True
