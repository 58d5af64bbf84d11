"""Rule 13: the janitor beside those who queue a command.

One stored command which nobody refers to; two clients queue it, and may die anywhere; a third one starts a
job of it, whose entry any process may queue at any time after the answer; the janitor may stop anywhere; days
pass. Promise: no command that was answered for is gone.
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
    job: str
    """`new`, `touched` by its client, `running` since its answer, `queueing` its entry, or `ended`."""
    janitor: tuple[str, int | None] | None
    answered: int


@dataclass(frozen=True)
class Janitor:
    deletes: str = "if unchanged"
    """`if unchanged`: on condition of the `touched` that was read; or `blind`."""
    looks_last: bool = True
    """The janitor looks for entries after it has read `touched`."""
    counts_jobs: bool = True
    """A job that runs keeps its command."""
    stalls: bool = False
    """A day may pass between a client's two steps: it answers all the same."""

    def start(self) -> State:
        return State(2, 0, 0, (0, 0), "new", None, 0)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        for client, done in enumerate(s.queue_service):
            yield from self._client(s, client, done)
        yield from self._job(s)
        is_between = 1 in s.queue_service or s.job in ("touched", "queueing")
        if s.day < LAST_DAY and (self.stalls or not is_between):
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

    def _job(self, s: State) -> Iterator[tuple[str, State]]:
        if s.job == "new":
            yield "the client of a job touches it", s._replace(touched=s.day, job="touched")
        elif s.job == "touched":
            yield (
                "the job is stored and answered",
                s._replace(job="running", answered=s.answered + 1),
            )
            yield "the client of a job dies", s._replace(job="ended")
        elif s.job == "running" and s.touched is not None:
            yield "a process reads and touches it", s._replace(touched=s.day, job="queueing")
        elif s.job == "queueing":
            yield "the job's place is inserted", s._replace(entries=s.entries + 1, job="ended")
            yield "the process of the job dies", s._replace(job="running")

    def _janitor(self, s: State) -> Iterator[tuple[str, State]]:
        is_old = s.touched is not None and s.touched < s.day - 1
        if s.janitor is None:
            if self.looks_last and is_old:
                yield "janitor: it is old", s._replace(janitor=("jobs", s.touched))
            elif not self.looks_last and not s.entries and not self._has_job(s):
                yield "janitor: no place refers to it", s._replace(janitor=("read", None))
            return
        at, touched = s.janitor
        if at == "jobs":
            following = None if self._has_job(s) else ("look", touched)
            yield "janitor: looks for jobs", s._replace(janitor=following)
        elif at == "look":
            following = None if s.entries else ("delete", touched)
            yield "janitor: looks for places", s._replace(janitor=following)
        elif at == "read":
            following = ("delete", s.touched) if is_old else None
            yield "janitor: reads touched", s._replace(janitor=following)
        else:
            may = self.deletes == "blind" or s.touched == touched
            left = s._replace(touched=None if may else s.touched, janitor=None)
            yield "janitor: deletes", left

    def _has_job(self, s: State) -> bool:
        return self.counts_jobs and s.job in ("running", "queueing")

    def fault(self, s: State) -> str | None:
        if s.touched is None and s.answered:
            return "a place or a job that was answered for refers to a command that is gone"
        return None

    def is_goal(self, s: State) -> bool:
        return True
