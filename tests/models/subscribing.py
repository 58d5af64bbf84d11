"""Rule 11: a replica that cannot read the subscriptions acks nothing for those that it cannot know.

Two replicas read the subscriptions again and again; one of them may be cut off from the store, for ever if
need be, and keeps its connection to the broker. The single active consumer of a partition hands each event to
the subscriptions that it knows, and acks it. A subscription is made: it counts for events that are published
some seconds later.

Promises: each such event goes to it, whoever is the consumer, and nothing stays in the queue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

REPLICAS = (0, 1)
Pair = tuple[bool, bool]


class State(NamedTuple):
    events: int
    """So many are still to be published."""
    cuts: int
    queue: tuple[bool, ...] = ()
    """Of each event that is not acked, whether the new subscription is owed it."""
    lost: int = 0
    """Events that were acked without it, and owed to it."""
    active: int = 0
    is_made: bool = False
    counts: bool = False
    """It was made some seconds ago."""
    knows: Pair = (False, False)
    is_fresh: Pair = (True, True)
    """The replica read the subscriptions in the last seconds."""
    is_cut: Pair = (False, False)


def put(pair: Pair, r: int, value: bool) -> Pair:
    return (value, pair[1]) if r == 0 else (pair[0], value)


@dataclass(frozen=True)
class Subscribing:
    events: int = 2
    cuts: int = 1
    waits: bool = True
    """What was not read lately is not acted on."""
    leaves: bool = True
    """A replica that stays cut off leaves its partitions to the others."""
    cuts_end: bool = True

    def start(self) -> State:
        return State(self.events, self.cuts)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if not s.is_made:
            yield "a subscription is made", s._replace(is_made=True)
        if s.events:
            left = s._replace(events=s.events - 1, queue=(*s.queue, s.counts))
            yield f"an event is published, {'owed' if s.counts else 'not owed'}", left
        # Each replica that is not cut off has read by then.
        whole = (not s.is_cut[0], not s.is_cut[1])
        knows = tuple(s.is_made if whole[r] else s.knows[r] for r in REPLICAS)
        yield "seconds pass", s._replace(knows=knows, is_fresh=whole, counts=s.is_made)
        for r in REPLICAS:
            yield from self._replica(s, r)

    def _replica(self, s: State, r: int) -> Iterator[tuple[str, State]]:
        if s.is_cut[r]:
            if self.cuts_end:
                yield f"{r} reaches the store again", s._replace(is_cut=put(s.is_cut, r, False))
        else:
            knows, fresh = put(s.knows, r, s.is_made), put(s.is_fresh, r, True)
            yield f"{r} reads the subscriptions", s._replace(knows=knows, is_fresh=fresh)
            if s.cuts:
                cut = put(s.is_cut, r, True)
                yield f"{r} is cut off from the store", s._replace(is_cut=cut, cuts=s.cuts - 1)
        if s.active != r:
            return
        if s.queue and (s.is_fresh[r] or not self.waits):
            is_lost = s.queue[0] and not s.knows[r]
            left = s._replace(queue=s.queue[1:], lost=s.lost + is_lost)
            yield f"{r} hands an event to those that it knows, and acks it", left
        if self.leaves and s.is_cut[r] and not s.is_fresh[r]:
            yield f"{r} closes its channel", s._replace(active=1 - r)

    def fault(self, s: State) -> str | None:
        return "an event was acked without a subscription that is owed it" if s.lost else None

    def is_goal(self, s: State) -> bool:
        return not (s.events or s.queue) and s.is_made
