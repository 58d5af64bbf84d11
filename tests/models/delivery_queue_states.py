"""States of the model of delivery queues, and the changes from one to the next."""

from typing import NamedTuple

NOBODY = -1


class Attempt(NamedTuple):
    """`at` is `send`, `block`, `store` or `ack`."""

    at: str
    event: int
    epoch: int
    number: int


class Retry(NamedTuple):
    """`at` is `empty`, `lease`, `send`, `remove`, `release` or `set aside`."""

    at: str
    event: int


class Replica(NamedTuple):
    role: str
    """`idle`, `active` before it has loaded, `serving`."""
    epoch: int
    buffer: tuple[int, ...]
    blocked: bool
    number: int
    """The next one that it gives in the delivery queue."""
    attempt: Attempt | None
    retry: Retry | None
    beside: Retry | None = None
    """The retry of an event that was set aside."""
    holds: bool = False
    """It knows the subscription as one that sends nothing for now."""
    is_current: bool = True
    """It has read what is stored since it knows that the history is."""
    knows: bool = True
    """It has seen the subscription."""


class Stored(NamedTuple):
    event: int
    key: int
    lease: int
    is_aside: bool = False


class Budget(NamedTuple):
    """How often each disturbance may happen."""

    bad: int = 0
    """An attempt fails, or looks failed."""
    cuts: int = 0
    moves: int = 0
    kills: int = 0
    leases: int = 0
    """A lease ends under a replica that was stopped."""
    late: int = 0
    aside: int = 0
    """An event is set aside, since its receiver cannot take it."""
    pauses: int = 0
    """The subscription is paused."""
    skips: int = 0
    """An operator skips an event that waits, and retries it."""


class State(NamedTuple):
    ready: tuple[int, ...]
    unacked: tuple[tuple[tuple[int, int], ...], ...]
    """Of each replica: events, with the epoch of their channel."""
    active: tuple[int, int]
    replicas: tuple[Replica, Replica]
    stored: frozenset[Stored]
    delivered: tuple[int, ...]
    late: frozenset[int]
    budget: Budget
    aside: frozenset[int] = frozenset()
    """Events that were ever set aside or skipped: they may come late."""
    is_held: bool = False
    """The subscription sends nothing for now."""
    history: tuple[int, ...] = ()
    """Events of before, which are stored while the subscription is prepared."""
    dead: frozenset[Stored] = frozenset()
    """Dead letters: skipped by an operator."""
    behind: frozenset[tuple[int, int]] = frozenset()
    """Of what was retried: it, and each newer event that waited."""


def with_replica(s: State, which: int, **changes: object) -> State:
    changed = s.replicas[which]._replace(**changes)
    first, second = s.replicas
    return s._replace(replicas=(first, changed) if which else (changed, second))


def spent(s: State, kind: str) -> State:
    return s._replace(budget=s.budget._replace(**{kind: getattr(s.budget, kind) - 1}))


def arrived(s: State, event: int) -> State:
    return s if event in s.delivered else s._replace(delivered=(*s.delivered, event))


def forgotten(s: State, number: int) -> State:
    """The replica is no consumer any more, and knows it."""
    return with_replica(s, number, role="idle", buffer=(), blocked=False)


def channel_gone(s: State, number: int) -> State:
    """The broker takes back what was not acked on this replica's channel, in order."""
    back = tuple(event for event, _ in s.unacked[number])
    unacked = tuple(() if i == number else u for i, u in enumerate(s.unacked))
    active = (NOBODY, s.active[1]) if s.active[0] == number else s.active
    return s._replace(ready=back + s.ready, unacked=unacked, active=active)


def acked(s: State, number: int, attempt: Attempt) -> State:
    """An ack for a channel that is gone is lost."""
    own = list(s.unacked[number])
    if (attempt.event, attempt.epoch) in own:
        own.remove((attempt.event, attempt.epoch))
    unacked = tuple(tuple(own) if i == number else u for i, u in enumerate(s.unacked))
    return with_replica(s._replace(unacked=unacked), number, attempt=None)


def stored_in_order(s: State) -> list[Stored]:
    """The delivery queue. Of equal keys the worse order, since nothing says which comes first."""
    delivery_queue = (each for each in s.stored if not each.is_aside)
    return sorted(delivery_queue, key=lambda each: (each.key, -each.event))


def leased(s: State, number: int, event: int) -> State | None:
    """None: somebody has it, or it is gone."""
    free = [each for each in s.stored if each.event == event and each.lease == NOBODY]
    if not free:
        return None
    return s._replace(stored=(s.stored - {free[0]}) | {free[0]._replace(lease=number)})


def put_beside(s: State, event: int) -> State:
    """What is set aside waits beside the delivery queue."""
    beside = Stored(event, 0, NOBODY, is_aside=True)
    return s._replace(stored=s.stored | {beside}, aside=s.aside | {event})
