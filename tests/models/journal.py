"""Rules 1, 6, 7, 8 and 9: journal, mark, relay, take-over and a breaker per partition.

Two check-in replicas with a relay each. Devices send a message, wait for its 200, and may give up: then
the request goes on by itself, and the device repeats the message at any replica. Reads and writes of the
store, publishes and answers are steps of their own. A publish is confirmed, not taken, taken without a
confirm, or taken long after its deadline. Each device has a partition of its own. With `followers` another
event follows from each message, and is journaled beside it; a repetition of the message gives it the same id,
and the first one that is stored stays.

Promises: of a device's answered messages the first publications are in order; each of them is published,
or its device's mark covers it; in the end all are published, but for those whose partition is away; a
clock that is ahead moves the event times of no other replica's other devices.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.models.journal_states import (
    Budget,
    Device,
    Event,
    Mark,
    Relay,
    Request,
    State,
    go_on,
    name_of,
    not_answered,
    put,
    spent,
    taken,
    with_relay,
)

REPLICAS = (0, 1)


@dataclass(frozen=True)
class Journal:
    """The rules as they are; each field with a default says how one of them may be broken."""

    messages: tuple[int, ...]
    budget: Budget
    clocks: tuple[int, ...] = (0, 11)
    """By how much the clock of each replica is ahead."""
    clocks_jump: bool = False
    relays: tuple[int, ...] = REPLICAS
    away: frozenset[int] = frozenset()
    """Devices whose partition takes nothing, ever."""
    mark: str = "counted"
    """`counted`; `widened` without a count; `set` to the last event; `first` without what follows it."""
    events_first: bool = False
    """The relay reads the events before the mark."""
    time_follows_mark: bool = False
    """A writer's own time goes up with the mark of one device."""
    relay_moves: str = "as read"
    """`since` moves to the event that is not taken on condition of the count that was read; or `always`."""
    relay_insists: bool = False
    """The relay does not leave a device whose event is not taken."""
    followers: bool = False
    follower_waits: bool = True
    """What follows is published once the event before it is taken."""
    there_is_marked: bool = True
    """What is in the journal from an earlier request goes under the mark before the answer."""

    def start(self) -> State:
        count = len(self.messages)
        nothing = ((),) * count
        return State(
            devices=(Device(0, 0, False),) * count,
            journal=frozenset(),
            taken=nothing,
            answered=nothing,
            marks=(Mark(0, 0, 0),) * count,
            writers=((0, 0), (1, 0)),
            requests=frozenset(),
            relays=(None, None),
            late=frozenset(),
            open_breakers=frozenset(),
            tick=1,
            budget=self.budget,
            wrong=None,
        )

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        for number, device in enumerate(s.devices):
            yield from self._device(s, number, device)
        for request in s.requests:
            step = getattr(self, f"_{request.at}")
            yield from step(s, request)
        for kind, event in s.late:
            yield self._arrives(s, kind, event)
        for replica in self.relays:
            yield from self._relay(s, replica)
        yield from self._kills(s)
        yield from self._deletions(s)

    def _kills(self, s: State) -> Iterator[tuple[str, State]]:
        for replica in REPLICAS if s.budget.kills else ():
            yield f"{replica} is killed and starts again", self._killed(s, replica)

    def _deletions(self, s: State) -> Iterator[tuple[str, State]]:
        for number, mark in enumerate(s.marks) if s.budget.deletions else ():
            if mark.since:
                left = spent(s, "deletions")._replace(marks=put(s.marks, number, Mark(0, 0, 0)))
                yield f"the mark of device {number} goes with its record", left

    # --- devices and requests

    def _device(self, s: State, number: int, device: Device) -> Iterator[tuple[str, State]]:
        if device.waits:
            if s.budget.impatience:
                gone = Device(device.message, device.attempt + 1, False)
                left = spent(s, "impatience")
                yield (
                    f"device {number} gives up",
                    left._replace(devices=put(s.devices, number, gone)),
                )
        elif device.message < self.messages[number]:
            devices = put(s.devices, number, device._replace(waits=True))
            for replica in REPLICAS:
                request = Request(number, device.message, device.attempt, replica, "admit", 0)
                yield (
                    f"device {number} sends m{device.message} to {replica}",
                    s._replace(devices=devices, requests=s.requests | {request}),
                )

    def _admit(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        upto = s.marks[r.device].upto
        yield f"{name_of(r)}: reads mark {upto}", go_on(s, r, at="stamp", upto=upto)

    def _stamp(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        writer, last = s.writers[r.replica]
        for ahead in self.clocks if self.clocks_jump else (self.clocks[r.replica],):
            now = 2 * s.tick + ahead
            own = max(now, last + 1)
            time = max(own, r.upto + 1) if r.upto else own
            event = Event(time, r.device, r.message, r.attempt, writer)
            events = (event, event._replace(time=time + 1, follows=True))[: 1 + self.followers]
            kept = (time if self.time_follows_mark else own) + self.followers
            left = s._replace(writers=put(s.writers, r.replica, (writer, kept)), tick=s.tick + 1)
            if not r.upto and not self.clocks_jump and time > now + s.tick:
                left = left._replace(wrong="the clock of another replica moved an event's time")
            yield (
                f"{name_of(r)}: time {time}",
                go_on(left, r, at="journal", events=events, left=events),
            )

    def _journal(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        event, *later = r.events
        there = _there(s, later[0]) if later else None
        if there is None:
            stored = s._replace(journal=s.journal | set(r.events))
            yield f"{name_of(r)}: journaled", go_on(stored, r, at="mark" if r.upto else "publish")
        else:
            stored = s._replace(journal=s.journal | {event})
            own = {"events": (event,), "left": (event,), "there": there}
            yield f"{name_of(r)}: finds {there}", go_on(stored, r, at="there", **own)
        if s.budget.unknown:
            left = spent(s, "unknown")
            late = {("insert", event) for event in r.events}
            left = left._replace(requests=s.requests - {r}, late=s.late | late)
            yield f"{name_of(r)}: its insert is under way, 503", not_answered(left, r)

    def _there(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        assert r.there is not None
        left = self._marked(s, r.there) if self.there_is_marked else s
        yield f"{name_of(r)}: {r.there} is safe", go_on(left, r, at="mark" if r.upto else "publish")

    def _publish(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        event, *later = r.left
        if (r.replica, r.device) in s.open_breakers:
            yield f"{name_of(r)}: not taken, the breaker is open", go_on(s, r, at="mark")
            return
        for label, after, confirmed in self._outcomes(s, r.replica, event):
            rest = tuple(later) if confirmed else r.left
            at = ("publish" if rest else "answer") if confirmed else "mark"
            is_early = later and not confirmed and not self.follower_waits
            left = taken(after, later[0]) if is_early else after
            yield f"{name_of(r)}: {label}", go_on(left, r, at=at, left=rest)
            if confirmed and rest:
                yield f"{name_of(r)}: {label}, late", go_on(left, r, at="mark", left=rest)

    def _mark(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        left = self._marked(s, *r.left)
        yield f"{name_of(r)}: sets mark {left.marks[r.device]}", go_on(left, r, at="answer")

    def _answer(self, s: State, r: Request) -> Iterator[tuple[str, State]]:
        left = s._replace(requests=s.requests - {r})
        device = s.devices[r.device]
        if device == (r.message, r.attempt, True):
            told = (*s.answered[r.device], *r.events, *filter(None, [r.there]))
            left = left._replace(
                devices=put(s.devices, r.device, Device(r.message + 1, 0, False)),
                answered=put(s.answered, r.device, told),
            )
        yield f"{name_of(r)}: answers", left

    # --- broker and store

    def _outcomes(self, s: State, replica: int, event: Event) -> Iterator[tuple[str, State, bool]]:
        breaker = (replica, event.device)
        opened = s._replace(open_breakers=s.open_breakers | {breaker})
        if event.device in self.away:
            yield "not taken", opened, False
            return
        closed = s._replace(open_breakers=s.open_breakers - {breaker})
        yield "confirmed", taken(closed, event), True
        if s.budget.bad:
            yield "not taken", spent(opened, "bad"), False
            yield "taken, confirm lost", taken(spent(opened, "bad"), event), False
        if s.budget.late:
            left = spent(opened, "late")
            yield "stuck", left._replace(late=s.late | {("publish", event)}), False

    def _arrives(self, s: State, kind: str, event: Event) -> tuple[str, State]:
        left = s._replace(late=s.late - {(kind, event)})
        if kind == "insert":
            new = {event} if _there(s, event) is None else set()
            return f"{event} is stored late", left._replace(journal=s.journal | new)
        return f"{event} is taken late", taken(left, event)

    def _marked(self, s: State, event: Event, *later: Event) -> State:
        old = s.marks[event.device]
        since = min(old.since, event.time) if old.since else event.time
        last = event if self.mark == "first" or not later else later[-1]
        widened = Mark(since, max(old.upto, last.time), 0)
        new = {
            "counted": widened._replace(count=old.count + 1),
            "first": widened._replace(count=old.count + 1),
            "widened": widened,
            "set": Mark(event.time, event.time, 0),
        }[self.mark]
        return s._replace(marks=put(s.marks, event.device, new))

    # --- relay and take-over

    def _relay(self, s: State, replica: int) -> Iterator[tuple[str, State]]:
        relay = s.relays[replica]
        if relay is None:
            yield from self._relay_begins(s, replica)
        elif relay.device < 0:
            yield from self._takes_over(s, replica, relay)
        elif relay.mark is None or relay.events is None:
            yield from self._relay_reads(s, replica, relay)
        elif relay.leaves:
            yield f"relay {replica}: leaves the rest", self._left(s, replica, relay)
        elif relay.events:
            yield from self._relay_publishes(s, replica, relay)
        else:
            yield f"relay {replica}: clears", self._cleared(with_relay(s, replica, None), relay)

    def _relay_begins(self, s: State, replica: int) -> Iterator[tuple[str, State]]:
        for device, mark in enumerate(s.marks):
            if mark.since:
                begun = Relay(device, None, None)
                yield f"relay {replica}: takes device {device}", with_relay(s, replica, begun)
        if s.budget.takeovers:
            for writer in {event.writer for event in s.journal}:
                events = tuple(sorted(e for e in s.journal if e.writer == writer))
                left = spent(s, "takeovers")
                begun = Relay(-1, None, events)
                yield f"{replica} takes writer {writer} over", with_relay(left, replica, begun)

    def _takes_over(self, s: State, replica: int, relay: Relay) -> Iterator[tuple[str, State]]:
        assert relay.events
        rest = Relay(-1, None, relay.events[1:]) if relay.events[1:] else None
        marked = self._marked(s, relay.events[0])
        yield f"{replica} marks {relay.events[0]}", with_relay(marked, replica, rest)

    def _relay_reads(self, s: State, replica: int, relay: Relay) -> Iterator[tuple[str, State]]:
        mark = s.marks[relay.device]
        if relay.mark is None and (relay.events is not None or not self.events_first):
            yield f"relay {replica}: mark {mark}", with_relay(s, replica, relay._replace(mark=mark))
            return
        known = relay.mark or mark
        own = (e for e in s.journal if e.device == relay.device)
        events = tuple(sorted(e for e in own if known.since <= e.time <= known.upto))
        read = relay._replace(events=events)
        yield f"relay {replica}: reads {len(events)}", with_relay(s, replica, read)

    def _relay_publishes(self, s: State, replica: int, relay: Relay) -> Iterator[tuple[str, State]]:
        assert relay.events
        for label, left, confirmed in self._outcomes(s, replica, relay.events[0]):
            after: Relay | None = relay
            if confirmed:
                after = relay._replace(events=relay.events[1:])
            elif not self.relay_insists:
                after = relay._replace(leaves=True)
            yield f"relay {replica}: {relay.events[0]}: {label}", with_relay(left, replica, after)

    def _left(self, s: State, replica: int, relay: Relay) -> State:
        """What is safe waits no longer."""
        left, now, read = with_relay(s, replica, None), s.marks[relay.device], relay.mark
        assert relay.events and read is not None
        if now.count != read.count and self.relay_moves == "as read":
            return left
        since = max(now.since, relay.events[0].time) if now.since else 0
        return left._replace(marks=put(s.marks, relay.device, now._replace(since=since)))

    def _cleared(self, s: State, relay: Relay) -> State:
        now, read = s.marks[relay.device], relay.mark
        assert read is not None
        if (now.count, now.upto) != (read.count, read.upto):
            return s
        return s._replace(marks=put(s.marks, relay.device, Mark(0, 0, now.count)))

    def _killed(self, s: State, replica: int) -> State:
        left = spent(s, "kills")
        for request in s.requests:
            if request.replica == replica:
                left = not_answered(left, request)
        fresh = max(writer for writer, _ in s.writers) + 1
        return with_relay(left, replica, None)._replace(
            requests=frozenset(r for r in s.requests if r.replica != replica),
            writers=put(s.writers, replica, (fresh, 0)),
            open_breakers=frozenset(b for b in s.open_breakers if b[0] != replica),
        )

    # --- the account

    def fault(self, s: State) -> str | None:
        for device in range(len(self.messages)):
            order = [e for e in s.taken[device] if e in s.answered[device]]
            repeated = {e.message for e in s.journal if e.device == device and e.attempt}
            if not _is_in_order(order, s.answered[device], repeated):
                return f"device {device}: published out of order"
            mark = s.marks[device]
            for event in s.answered[device]:
                if event in order:
                    continue
                if not mark.since or not mark.since <= event.time <= mark.upto:
                    return (
                        f"device {device}: m{event.message} is answered and nobody will publish it"
                    )
        return s.wrong

    def is_goal(self, s: State) -> bool:
        return all(
            s.devices[device].message == count
            and (device in self.away or set(s.answered[device]) <= set(s.taken[device]))
            for device, count in enumerate(self.messages)
        )


def _there(s: State, event: Event) -> Event | None:
    """The event with the id of this one, which follows from its message, in the journal."""
    same = (event.device, event.message, True)
    found = (e for e in s.journal if (e.device, e.message, e.follows) == same)
    return next(found, None) if event.follows else None


def _is_in_order(order: list[Event], answered: tuple[Event, ...], repeated: set[int]) -> bool:
    """Message by message, and an event before what follows from it, if its message came once."""
    if [e.message for e in order] != [e.message for e in answered[: len(order)]]:
        return False
    for place, event in enumerate(order):
        cause = event._replace(time=event.time - 1, follows=False)
        is_alone = event.follows and event.message not in repeated
        if is_alone and cause in answered and cause not in order[:place]:
            return False
    return True
