"""States of the model of the journal, and the changes from one to the next."""

from typing import NamedTuple


class Event(NamedTuple):
    time: int
    device: int
    message: int
    attempt: int
    writer: int
    follows: bool = False
    """It was made from the event of its message."""


class Device(NamedTuple):
    message: int
    attempt: int
    waits: bool


class Request(NamedTuple):
    device: int
    message: int
    attempt: int
    replica: int
    at: str
    upto: int
    events: tuple[Event, ...] = ()
    """The event of its message, and the one that follows from it."""
    left: tuple[Event, ...] = ()
    """Those of them that are not confirmed."""
    there: Event | None = None
    """What follows, as an earlier request of the same message has journaled it."""


class Mark(NamedTuple):
    since: int
    upto: int
    count: int


class Relay(NamedTuple):
    """`events` are those to publish, or to mark where a writer is taken over."""

    device: int
    mark: Mark | None
    events: tuple[Event, ...] | None
    leaves: bool = False
    """The next event was not taken."""


class Budget(NamedTuple):
    """How often each disturbance may happen."""

    bad: int = 0
    """A publish is not taken, or its confirm is lost."""
    late: int = 0
    """A publish is taken long after its deadline."""
    kills: int = 0
    impatience: int = 0
    unknown: int = 0
    """An insert is answered 503 and stored later."""
    takeovers: int = 0
    deletions: int = 0
    """A device's record is deleted, and its mark with it."""


class State(NamedTuple):
    devices: tuple[Device, ...]
    journal: frozenset[Event]
    taken: tuple[tuple[Event, ...], ...]
    answered: tuple[tuple[Event, ...], ...]
    marks: tuple[Mark, ...]
    writers: tuple[tuple[int, int], ...]
    """Of each replica: the writer's number, and the last time that it gave."""
    requests: frozenset[Request]
    relays: tuple[Relay | None, ...]
    late: frozenset[tuple[str, Event]]
    open_breakers: frozenset[tuple[int, int]]
    tick: int
    budget: Budget
    wrong: str | None


def put(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


def spent(s: State, kind: str) -> State:
    left = getattr(s.budget, kind) - 1
    return s._replace(budget=s.budget._replace(**{kind: left}))


def name_of(r: Request) -> str:
    return f"{r.replica}: m{r.message} of device {r.device}" + "'" * r.attempt


def go_on(s: State, request: Request, **changes: object) -> State:
    return s._replace(requests=(s.requests - {request}) | {request._replace(**changes)})


def with_relay(s: State, replica: int, relay: Relay | None) -> State:
    return s._replace(relays=put(s.relays, replica, relay))


def taken(s: State, event: Event) -> State:
    order = s.taken[event.device]
    if event in order:
        return s
    return s._replace(taken=put(s.taken, event.device, (*order, event)))


def not_answered(s: State, r: Request) -> State:
    """The device hears 503, or loses its connection, and will send again."""
    if s.devices[r.device] != (r.message, r.attempt, True):
        return s
    again = Device(r.message, r.attempt + 1, False)
    return s._replace(devices=put(s.devices, r.device, again))
