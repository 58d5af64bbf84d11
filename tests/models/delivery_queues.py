"""Rule 11: a delivery queue, that is one device's events to one subscription, of one partition's queue.

Two replicas. The broker has a single active consumer and gives unacked events back in order when a channel
is gone; acks of a dead channel are lost, and a replica that was cut off goes on until it notices. An
attempt succeeds, fails, arrives and looks failed, or arrives after it timed out. A stopped replica is one
that takes no step; a lease may end under it.

A receiver may refuse an event: that one is set aside beside the delivery queue, and retried by itself. A
subscription may be paused, and may begin with history: then another process stores events of before while it
is held, also such as the replicas store themselves; a replica knows late that there is such a subscription,
that it is held, or active again. An operator may skip an event that waits, and retry it.

Promises: each event is delivered, the first deliveries are in the order of the queue, but for events that
were set aside or skipped, and nothing is left in the queue, unacked or stored. What was skipped and is
retried comes before all newer ones that wait and are not on their way.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.delivery_queue_states import (
    NOBODY,
    Attempt,
    Budget,
    Replica,
    Retry,
    State,
    Stored,
    acked,
    arrived,
    channel_gone,
    forgotten,
    leased,
    put_beside,
    spent,
    stored_in_order,
    with_replica,
)

TIMES = {1: 20, 2: 10, 3: 30}
"""Of the events, by clocks that differ; where history or a skipped event is, they agree."""
REPLICAS = (0, 1)
PREFETCH = 2
FLOOR = 100
"""Live events have numbers from here on while history is stored; an event of the history has its own."""


@dataclass(frozen=True)
class DeliveryQueues:
    queue: tuple[int, ...]
    budget: Budget
    key: str = "number"
    """The order in a delivery queue: a `number`, and a stored one counts; always a `fresh number`; the
    `time`."""
    frees_late: bool = True
    """A delivery queue is free only if no store began since a read found it empty."""
    looks_again: bool = True
    """Blocked delivery queues are read again and again."""
    gives_up_by: str = "close"
    """`close` of the channel; or `cancel` of the consumer, who keeps what is unacked."""
    loads_first: bool = True
    """Blocked delivery queues are read before the first event is handled."""
    looks_beside: bool = True
    """Whoever serves the partition finds what was set aside, whoever did it."""
    sets_aside_by: str = "one write"
    """`one write` on condition of the lease; or `two writes`: taken from the delivery queue, and stored
    beside it."""
    reads_again: bool = True
    """A delivery queue is read again after its head was set aside: that write may have come too late."""

    history: tuple[int, ...] = ()
    """It is prepared with these events, which were before the others."""
    numbers: str = "time"
    """An event that is stored has its time as number, or one more than the highest that is known. Or that
    alone (`count`); or, while the subscription is prepared, a number `beyond` all of its history."""
    reads_history: bool = True
    """Once it is active, what is stored is read before an event is sent at once."""

    def start(self) -> State:
        is_held = bool(self.history)
        idle = Replica("idle", 0, (), False, 1, None, None, holds=is_held, knows=not is_held)
        nobody, nothing = (NOBODY, 0), frozenset[Stored]()
        state = State(
            self.queue, ((), ()), nobody, (idle, idle), nothing, (), frozenset(), self.budget
        )
        return state._replace(is_held=is_held, history=self.history)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        yield from self._broker(s)
        yield from self._subscription(s)
        yield from self._operator(s)
        for event in s.late:
            yield f"e{event} arrives late", arrived(s._replace(late=s.late - {event}), event)
        for r in REPLICAS:
            yield from self._role(s, r)
            yield from self._worker(s, r)
            yield from self._timer(s, r)
            if s.budget.kills and s.replicas[r] != self.start().replicas[r]:
                left = channel_gone(spent(s, "kills"), r)
                killed = forgotten(left, r)
                killed = with_replica(killed, r, attempt=None, retry=None, beside=None)
                yield f"{r} is killed", killed
        yield from self._leases(s)

    # --- broker

    def _broker(self, s: State) -> Iterator[tuple[str, State]]:
        active, epoch = s.active
        if active == NOBODY:
            for r in REPLICAS:
                if s.replicas[r].role == "idle" and not s.unacked[r]:
                    left = with_replica(s, r, role="active", epoch=epoch + 1, number=1)
                    yield f"{r} becomes the consumer", left._replace(active=(r, epoch + 1))
            return
        replica = s.replicas[active]
        # What came later than its history is after the time in which all replicas know a subscription.
        may_come = s.ready and (
            s.ready[0] in self.history or all(each.knows for each in s.replicas)
        )
        if may_come and len(s.unacked[active]) < PREFETCH and replica.epoch == epoch:
            event = s.ready[0]
            given = (*s.unacked[active], (event, epoch))
            unacked = tuple(given if i == active else u for i, u in enumerate(s.unacked))
            left = s._replace(ready=s.ready[1:], unacked=unacked)
            buffer = (*replica.buffer, event)
            yield f"e{event} goes to {active}", with_replica(left, active, buffer=buffer)
        if s.budget.cuts:
            yield f"{active} is cut off", channel_gone(spent(s, "cuts"), active)
        if s.budget.moves and replica.role == "serving":
            yield self._dead_lettered(spent(s, "moves"), active)

    def _dead_lettered(self, s: State, r: int) -> tuple[str, State]:
        if self.gives_up_by == "cancel":
            return f"{r} cancels its consumer", s._replace(active=(NOBODY, s.active[1]))
        return f"{r} closes its channel", forgotten(channel_gone(s, r), r)

    # --- the subscription is held, and active again

    def _subscription(self, s: State) -> Iterator[tuple[str, State]]:
        if s.budget.pauses and not s.is_held:
            yield "it is paused", spent(s, "pauses")._replace(is_held=True)
        if s.history:
            event = s.history[0]
            is_there = any(each.event == event for each in s.stored)
            new = set() if is_there else {Stored(event, self._time(event), NOBODY)}
            yield f"e{event} is stored", s._replace(stored=s.stored | new, history=s.history[1:])
        elif s.is_held and all(each.knows for each in s.replicas):
            yield "it is active again", s._replace(is_held=False)
        for r in REPLICAS:
            if not s.replicas[r].knows:
                yield f"{r} sees the subscription", with_replica(s, r, knows=True)
            if s.replicas[r].holds != s.is_held:
                is_current = s.is_held or not (self.history and self.reads_history)
                left = with_replica(s, r, holds=s.is_held, is_current=is_current)
                yield f"{r} sees that it is {'held' if s.is_held else 'active'}", left

    def _stores(self, replica: Replica) -> bool:
        """It sends no event at once."""
        return replica.blocked or replica.holds or not replica.is_current

    def _time(self, event: int) -> int:
        return 10 * event if self.history or self.budget.skips else TIMES[event]

    def _number(self, replica: Replica, event: int) -> int:
        """That of an event that it stores now."""
        if self.numbers == "time":
            return max(replica.number, self._time(event))
        is_beyond = self.numbers == "beyond" and (replica.holds or not replica.is_current)
        return max(replica.number, FLOOR) if is_beyond else replica.number

    # --- an operator

    def _operator(self, s: State) -> Iterator[tuple[str, State]]:
        for each in s.stored if s.budget.skips else ():
            if not each.is_aside:
                dead = s.dead | {each._replace(lease=NOBODY)}
                left = spent(s, "skips")._replace(stored=s.stored - {each}, dead=dead)
                yield f"e{each.event} is skipped", left._replace(aside=s.aside | {each.event})
        for each in s.dead:
            on_their_way = {r.retry.event for r in s.replicas if r.retry}
            on_their_way |= {r.attempt.event for r in s.replicas if r.attempt}
            on_their_way |= {event for unacked in s.unacked for event, _ in unacked}
            newer = {other.event for other in s.stored if other.event > each.event}
            newer = newer.difference(on_their_way, s.ready, s.delivered, s.late)
            behind = {(each.event, other) for other in newer}
            left = s._replace(stored=s.stored | {each}, dead=s.dead - {each})
            yield f"e{each.event} is retried", left._replace(behind=s.behind | behind)

    # --- a replica becomes the consumer, and ends to be

    def _role(self, s: State, r: int) -> Iterator[tuple[str, State]]:
        replica = s.replicas[r]
        is_consumer = s.active == (r, replica.epoch)
        if replica.role != "idle" and not is_consumer and not s.unacked[r]:
            yield f"{r} notices that it is no consumer", forgotten(s, r)
        delivery_queue = stored_in_order(s)
        highest = delivery_queue[-1].key if delivery_queue else 0
        if replica.role == "active" and self.loads_first:
            left = with_replica(
                s, r, role="serving", blocked=bool(delivery_queue), number=highest + 1
            )
            left = with_replica(left, r, is_current=not replica.holds or replica.is_current)
            yield f"{r} loads its blocked lanes", left
        elif replica.role == "active":
            yield f"{r} serves", with_replica(s, r, role="serving")
        may_look = replica.role == "serving" and self.looks_again and replica.attempt is None
        is_news = bool(delivery_queue) and not replica.blocked
        if may_look and (is_news or not (replica.is_current or replica.holds)):
            number = max(replica.number, highest + 1)
            blocked = replica.blocked or bool(delivery_queue)
            left = with_replica(s, r, blocked=blocked, number=number, is_current=True)
            yield f"{r} looks again", left

    # --- what handles events

    def _worker(self, s: State, r: int) -> Iterator[tuple[str, State]]:
        replica = s.replicas[r]
        attempt = replica.attempt
        if attempt is None:
            if replica.role == "serving" and replica.buffer:
                yield self._begun(s, r)
        elif attempt.at == "send":
            for label, left, succeeded in self._sent(s, attempt.event):
                following = attempt._replace(at="ack" if succeeded else "block")
                yield f"{r}: e{attempt.event} {label}", with_replica(left, r, attempt=following)
        elif attempt.at == "block":
            yield self._blocked(s, r, attempt)
        elif attempt.at == "store":
            yield f"{r} stores e{attempt.event}", self._stored(s, r, attempt)
        else:
            yield f"{r} acks e{attempt.event}", acked(s, r, attempt)

    def _begun(self, s: State, r: int) -> tuple[str, State]:
        replica = s.replicas[r]
        event, rest = replica.buffer[0], replica.buffer[1:]
        attempt = Attempt("send", event, replica.epoch, self._number(replica, event))
        if not replica.knows:
            left = with_replica(s, r, attempt=attempt._replace(at="ack"), buffer=rest)
            return f"{r} takes e{event} for nobody", left
        if not self._stores(replica):
            return f"{r} begins with e{event}", with_replica(s, r, attempt=attempt, buffer=rest)
        left = with_replica(
            s,
            r,
            attempt=attempt._replace(at="store"),
            blocked=True,
            number=attempt.number + 1,
            buffer=rest,
            retry=self._after_store_began(replica.retry),
        )
        return f"{r} will store e{event} behind the others", left

    def _after_store_began(self, retry: Retry | None) -> Retry | None:
        was_empty = retry is not None and retry.at == "empty"
        return None if was_empty and self.frees_late else retry

    def _sent(self, s: State, event: int) -> Iterator[tuple[str, State, bool]]:
        yield "is delivered", arrived(s, event), True
        if s.budget.bad:
            yield "fails", spent(s, "bad"), False
            yield "arrives, and looks failed", arrived(spent(s, "bad"), event), False
        if s.budget.late and event not in s.delivered:
            left = spent(s, "late")
            yield "times out under way", left._replace(late=s.late | {event}), False

    def _blocked(self, s: State, r: int, attempt: Attempt) -> tuple[str, State]:
        replica = s.replicas[r]
        is_same = replica.epoch == attempt.epoch
        number = self._number(replica, attempt.event) if is_same else attempt.number
        left = with_replica(
            s,
            r,
            attempt=attempt._replace(at="store", number=number),
            blocked=replica.blocked or is_same,
            number=number + 1 if is_same else replica.number,
            retry=self._after_store_began(replica.retry),
        )
        return f"{r} blocks the lane", left

    def _stored(self, s: State, r: int, attempt: Attempt) -> State:
        replica = s.replicas[r]
        left, number = s, replica.number
        known = [each for each in s.stored if each.event == attempt.event]
        if not known:
            key = TIMES[attempt.event] if self.key == "time" else attempt.number
            left = s._replace(stored=s.stored | {Stored(attempt.event, key, NOBODY)})
        elif self.key == "number" and replica.epoch == attempt.epoch:
            number = max(number, known[0].key + 1)
        return with_replica(left, r, attempt=attempt._replace(at="ack"), number=number)

    # --- what retries

    def _timer(self, s: State, r: int) -> Iterator[tuple[str, State]]:
        replica = s.replicas[r]
        if replica.retry is None:
            yield from self._timer_reads(s, r)
        elif replica.retry.at == "empty":
            blocked = replica.blocked and replica.role != "serving"
            is_idle = not (blocked or replica.buffer or replica.attempt)
            number = 1 if is_idle else replica.number  # what is idle is forgotten
            left = with_replica(s, r, retry=None, blocked=blocked, number=number)
            yield f"{r} frees the lane", left
        else:
            yield from self._retried(s, r, "retry", replica.retry)
        if replica.beside is not None:
            yield from self._retried(s, r, "beside", replica.beside)
        elif replica.role == "serving" and self.looks_beside and not replica.holds:
            for each in s.stored:
                if each.is_aside:
                    beside = Retry("lease", each.event)
                    yield f"{r} reads e{each.event} aside", with_replica(s, r, beside=beside)

    def _retried(self, s: State, r: int, slot: str, retry: Retry) -> Iterator[tuple[str, State]]:
        if retry.at == "lease":
            yield self._leased(s, r, slot, retry)
        elif retry.at == "send":
            if slot == "retry" and s.budget.aside:  # whether or not it was just tried once more
                refused = retry._replace(at="set aside")
                label = f"{r} finds that e{retry.event} was refused"
                yield label, with_replica(spent(s, "aside"), r, retry=refused)
            for label, left, succeeded in self._sent(s, retry.event):
                said = f"{r}: retry of e{retry.event} {label}"
                following = retry._replace(at="remove" if succeeded else "release")
                yield said, with_replica(left, r, **{slot: following})
        else:
            yield self._settled(s, r, slot, retry)

    def _timer_reads(self, s: State, r: int) -> Iterator[tuple[str, State]]:
        replica, attempt = s.replicas[r], s.replicas[r].attempt
        at = attempt.at if attempt else ""
        if replica.role != "serving" or not replica.blocked or at == "block" or replica.holds:
            return
        if delivery_queue := stored_in_order(s):
            head = Retry("lease", delivery_queue[0].event)
            yield f"{r} reads the head e{head.event}", with_replica(s, r, retry=head)
        elif not (self.frees_late and at == "store"):
            yield f"{r} reads an empty lane", with_replica(s, r, retry=Retry("empty", 0))

    def _leased(self, s: State, r: int, slot: str, retry: Retry) -> tuple[str, State]:
        if (left := leased(s, r, retry.event)) is None:
            return f"{r} gets no lease", with_replica(s, r, **{slot: None})
        following = retry._replace(at="send")
        return f"{r} leases e{retry.event}", with_replica(left, r, **{slot: following})

    def _settled(self, s: State, r: int, slot: str, retry: Retry) -> tuple[str, State]:
        own = {each for each in s.stored if each.event == retry.event}
        if retry.at == "remove":
            left = s._replace(stored=s.stored - own)
            return f"{r} removes e{retry.event}", with_replica(left, r, **{slot: None})
        mine = {each for each in own if each.lease == r}
        if retry.at == "release":
            freed = {each._replace(lease=NOBODY) for each in mine}
            left = s._replace(stored=(s.stored - mine) | freed)
            return f"{r} notes that e{retry.event} failed", with_replica(left, r, **{slot: None})
        return self._set_aside(s, r, retry, mine)

    def _set_aside(self, s: State, r: int, retry: Retry, mine: set[Stored]) -> tuple[str, State]:
        left = s._replace(stored=s.stored - mine)
        if retry.at == "set aside" and self.sets_aside_by == "two writes":
            following = retry._replace(at="store aside")
            return f"{r} takes e{retry.event} from the lane", with_replica(left, r, retry=following)
        if mine or retry.at == "store aside":
            left = put_beside(left, retry.event)
        behind = [each.event for each in stored_in_order(left) if each.event > retry.event]
        following = Retry("lease", behind[0]) if behind and not self.reads_again else None
        return f"{r} sets e{retry.event} aside", with_replica(left, r, retry=following)

    def _leases(self, s: State) -> Iterator[tuple[str, State]]:
        for each in s.stored:
            if each.lease == NOBODY:
                continue
            holder = s.replicas[each.lease]
            retry = holder.beside if each.is_aside else holder.retry
            is_held = retry is not None and retry.at != "lease" and retry.event == each.event
            if not is_held or s.budget.leases:
                left = spent(s, "leases") if is_held else s
                freed = (s.stored - {each}) | {each._replace(lease=NOBODY)}
                yield f"the lease on e{each.event} ends", left._replace(stored=freed)

    # --- the account

    def fault(self, s: State) -> str | None:
        firsts = [event for event in s.delivered if event not in s.aside]
        if firsts != sorted({*self.queue, *self.history} - s.aside)[: len(firsts)]:
            return f"delivered out of order: {firsts}"
        for first, later in s.behind:
            if later in s.delivered and first not in s.delivered:
                return f"delivered out of order: e{first} was retried, and e{later} came before it"
        return None

    def is_goal(self, s: State) -> bool:
        is_empty = not (s.ready or s.stored or s.dead) and s.unacked == ((), ())
        return is_empty and set(s.delivered) == {*self.queue, *self.history}
