"""Rule 10: an in-process broker, whose watermark moves at the consumer's ack, and kill -9 of everything.

One process: a message is journaled, handed over in memory and answered; the consumer takes one event, has it
delivered or stored, and acks. A kill takes all memory; the next process is a new writer whose clock was
set back. Before its port opens, what the journal has above the watermarks is handed over.

Promises: every answered message is accepted by the consumer in the end, in the device's order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    writer: int
    number: int
    message: int
    time: int


class State(NamedTuple):
    message: int
    waits: bool
    journal: frozenset[Event]
    watermarks: tuple[int, ...]
    number: int
    memory: tuple[Event, ...]
    taken: tuple[str, Event] | None
    """What the consumer has, and whether it is `new` or `done`."""
    acked: frozenset[tuple[int, int]]
    to_load: bool
    """The rest of earlier writers was not handed over yet."""
    request: tuple[str, Event | None] | None
    accepted: tuple[Event, ...]
    answered: tuple[Event, ...]
    kills: int


@dataclass(frozen=True)
class LocalBroker:
    messages: int = 3
    kills: int = 2
    settled_by: str = "ack"
    """`ack` of the consumer; or being handed over: `memory`."""
    loads_first: bool = True
    """The rest is handed over before the port opens."""
    order: str = "mark"
    """What is new comes behind what waits by the `mark`; or only by the `clock`."""

    def start(self) -> State:
        none: frozenset[tuple[int, int]] = frozenset()
        return State(
            0, False, frozenset(), (0,), 1, (), None, none, False, None, (), (), self.kills
        )

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        is_open = not (self.loads_first and s.to_load)
        if s.message < self.messages and not s.waits and is_open:
            yield f"m{s.message} is sent", s._replace(waits=True, request=("journal", None))
        if s.request:
            yield self._request(s, *s.request)
        if s.to_load:
            yield "what earlier writers left is handed over", self._loaded(s)
        elif s.taken or s.memory:
            yield self._consumer(s)
        yield from self._heartbeats(s)
        if s.kills:
            yield "kill -9, and a new process", self._killed(s)

    def _request(self, s: State, at: str, event: Event | None) -> tuple[str, State]:
        if event is None:
            writer = len(s.watermarks) - 1
            time = 10 * (self.kills - writer) + s.number
            if self.order == "mark":
                time = max([time, *(each.time + 1 for each in s.journal)])
            made = Event(writer, s.number, s.message, time)
            left = s._replace(journal=s.journal | {made}, number=s.number + 1)
            return f"m{s.message} is journaled", left._replace(request=("hand over", made))
        if at == "hand over":
            left = self._handed_over(s, (event,))
            return f"m{event.message} is handed over", left._replace(request=("answer", event))
        answered = (*s.answered, event)
        left = s._replace(message=s.message + 1, waits=False, answered=answered, request=None)
        return f"m{event.message} is answered", left

    def _handed_over(self, s: State, events: tuple[Event, ...]) -> State:
        acked = s.acked
        if self.settled_by == "memory":
            acked |= {each[:2] for each in events}
        return s._replace(memory=s.memory + events, acked=acked)

    def _loaded(self, s: State) -> State:
        rest = [each for each in s.journal if each.number > s.watermarks[each.writer]]
        fresh = [each for each in rest if each not in s.memory]
        by_time = tuple(sorted(fresh, key=lambda each: each.time))
        return self._handed_over(s._replace(to_load=False), by_time)

    def _consumer(self, s: State) -> tuple[str, State]:
        if s.taken is None:
            left = s._replace(taken=("new", s.memory[0]), memory=s.memory[1:])
            return f"consumer takes m{s.memory[0].message}", left
        at, event = s.taken
        if at == "done":
            left = s._replace(taken=None, acked=s.acked | {event[:2]})
            return f"consumer acks m{event.message}", left
        accepted = s.accepted if event in s.accepted else (*s.accepted, event)
        return f"m{event.message} is accepted", s._replace(taken=("done", event), accepted=accepted)

    def _heartbeats(self, s: State) -> Iterator[tuple[str, State]]:
        for writer, mark in enumerate(s.watermarks):
            upto = mark
            while (writer, upto + 1) in s.acked:
                upto += 1
            if upto > mark:
                moved = (*s.watermarks[:writer], upto, *s.watermarks[writer + 1 :])
                yield f"watermark of writer {writer} is {upto}", s._replace(watermarks=moved)

    def _killed(self, s: State) -> State:
        return s._replace(
            kills=s.kills - 1,
            memory=(),
            taken=None,
            acked=frozenset(),
            to_load=True,
            request=None,
            number=1,
            watermarks=(*s.watermarks, 0),
            waits=False,
        )

    def fault(self, s: State) -> str | None:
        accepted = [event for event in s.accepted if event in s.answered]
        return None if accepted == list(s.answered[: len(accepted)]) else "accepted out of order"

    def is_goal(self, s: State) -> bool:
        return s.message == self.messages and set(s.answered) <= set(s.accepted)
