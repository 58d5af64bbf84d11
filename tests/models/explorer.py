"""Explore every state that a small model can reach, and say what is wrong with the worst of them.

The walk is breadth first, so the trace of a fault is a shortest one. Where no state is unsafe, a second
walk goes backwards from the goals: a state from which no goal can be reached any more is a fault too. All
disturbances have budgets, so "can still be reached" means "is reached in the end". A process that is
stopped needs no step of its own: it is one that takes none.
"""

import gc
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

Step = tuple[str, Hashable]


class Model(Protocol):
    def start(self) -> Hashable: ...
    def steps(self, state: Hashable, /) -> Iterable[Step]: ...
    def fault(self, state: Hashable, /) -> str | None: ...
    def is_goal(self, state: Hashable, /) -> bool: ...


class Verdict(Enum):
    HOLDS = "holds"
    UNSAFE = "unsafe"
    STUCK = "stuck"
    """A state from which no goal can be reached."""
    CUT_SHORT = "cut short"
    """More states than were allowed, and none of them unsafe."""


@dataclass(frozen=True)
class Found:
    verdict: Verdict
    states: int
    fault: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = "".join(f"\n  {number:2} {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.verdict.value}: {self.fault} ({self.states} states){steps}"


@dataclass
class Walk:
    """All states found so far, each with the step that led to it first."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    states: list[Hashable] = field(default_factory=list)
    came_from: list[tuple[int, str]] = field(default_factory=list)
    before: list[list[int]] = field(default_factory=list)
    """From which states each state is reached."""

    def number_of(self, state: Hashable, parent: int, label: str) -> tuple[int, bool]:
        """Its number, and whether it is new."""
        number = self.numbers.get(state)
        is_new = number is None
        if number is None:
            number = self.numbers[state] = len(self.states)
            self.states.append(state)
            self.came_from.append((parent, label))
            self.before.append([])
        if parent >= 0:
            self.before[number].append(parent)
        return number, is_new

    def found(self, verdict: Verdict, fault: str = "", at: int = 0) -> Found:
        trace = []
        while at > 0:
            at, label = self.came_from[at]
            trace.append(label)
        return Found(verdict, len(self.states), fault, tuple(reversed(trace)))


def explore(model: Model, most: int = 10_000_000) -> Found:
    """Nothing here refers to itself in a circle, so looking for such garbage would be in vain."""
    gc.disable()
    try:
        return _explored(model, most)
    finally:
        gc.enable()


def _explored(model: Model, most: int) -> Found:
    walk = Walk()
    walk.number_of(model.start(), -1, "")
    goals = []
    number = 0
    while number < len(walk.states):
        state = walk.states[number]
        if model.is_goal(state):
            goals.append(number)
        for label, following in model.steps(state):
            reached, is_new = walk.number_of(following, number, label)
            fault = model.fault(following) if is_new else None
            if fault:
                return walk.found(Verdict.UNSAFE, fault, reached)
        if len(walk.states) > most:
            return walk.found(Verdict.CUT_SHORT)
        number += 1
    return _from_goals(walk, goals)


def _from_goals(walk: Walk, goals: list[int]) -> Found:
    can_end = bytearray(len(walk.states))
    to_do = list(goals)
    while to_do:
        number = to_do.pop()
        if not can_end[number]:
            can_end[number] = 1
            to_do += walk.before[number]
    stuck = can_end.find(0)
    if stuck >= 0:
        return walk.found(Verdict.STUCK, "no goal can be reached any more", stuck)
    return walk.found(Verdict.HOLDS)
