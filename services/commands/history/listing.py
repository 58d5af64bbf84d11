"""The commands of all queues, newest first, page by page.

Promises: a page goes on behind the last command of the page before, whatever is queued, queued anew
or ended meanwhile: nothing that stays where it is is left out or shown twice. Every query is a closed
range of an index, since a query costs all that it matches: the list goes back in windows of time,
small at first, twice as long each time. What is over has ended before it is shown.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.commands.queue.reconcile import Reconciler
from shared.domain.command import EntryState, QueueEntry
from shared.ports.clock import Clock
from shared.ports.queue import CommandQueue, EntryWindow
from shared.times import EPOCH, to_milliseconds

FIRST_WINDOW = timedelta(seconds=20)
"""28 windows, each twice the one before, reach back to the beginning."""
AHEAD = timedelta(seconds=10)
"""How far the clock of the replica that accepted a command may be ahead of ours."""
PATIENCE = timedelta(seconds=2)
"""After so long a page ends where it is, with a cursor to go on from."""
TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Position:
    """Behind an entry: of what was accepted at the same time, the higher order stands first."""

    accepted_at: datetime
    order: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The conditions of a client; None: no such condition. `enrollment` is an id."""

    limit: int
    states: frozenset[EntryState] | None = None
    request_type: str | None = None
    enrollment: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: Position | None = None

    def of(self, enrollment: str) -> "ListQuery":
        """The same, of one enrollment."""
        return replace(self, enrollment=enrollment)


@dataclass(frozen=True, slots=True)
class Page:
    """`next` is None where the list ends; a page may be short, or empty, and go on."""

    entries: list[QueueEntry]
    next: Position | None


class EntryList:
    """Reads pages."""

    def __init__(self, queue: CommandQueue, reconciler: Reconciler, clock: Clock) -> None:
        self._queue = queue
        self._reconciler = reconciler
        self._clock = clock

    async def page(self, query: ListQuery) -> Page:
        """The next page."""
        raw = await self._walk(query)
        entries = await self._reconciler.current(raw.entries)
        # One that was open when it was read may have ended since, and is of another state then.
        shown = [p for p in entries if query.states is None or p.state in query.states]
        return Page(shown, raw.next)

    async def _walk(self, query: ListQuery) -> Page:
        began = self._clock.monotonic()
        floor = to_milliseconds(query.since or EPOCH)
        until = query.until or to_milliseconds(self._clock.now() + AHEAD)
        if query.after is not None:
            until = min(until, query.after.accepted_at)
        taken: list[QueueEntry] = []
        width = FIRST_WINDOW
        while until >= floor:
            window = EntryWindow(
                since=_back(until, width, floor),
                until=until,
                enrollment=query.enrollment,
                request_type=query.request_type,
                states=query.states,
            )
            found, since = await self._newest(window, query.limit + 1)
            taken += [p for p in found if query.after is None or _key(p) < _edge(query.after)]
            if len(taken) > query.limit:
                taken = taken[: query.limit]
                return Page(taken, Position(*_key(taken[-1])))
            until = since - TICK
            width *= 2
            if self._clock.monotonic() - began > PATIENCE.total_seconds() and until >= floor:
                return Page(taken, Position(since, ""))
        return Page(taken, None)

    async def _newest(self, window: EntryWindow, limit: int) -> tuple[list[QueueEntry], datetime]:
        """Entries of a window, newest first, and the time down to which they are all there."""
        found = await self._queue.accepted_in(window, limit)
        since = window.since
        if len(found) >= limit:
            # The last time may have been cut in two.
            since = min(_key(entry)[0] for entry in found)
            tied = await self._queue.accepted_in(replace(window, since=since, until=since))
            found = [entry for entry in found if _key(entry)[0] > since] + tied
        return sorted(found, key=_key, reverse=True), since


def _key(entry: QueueEntry) -> tuple[datetime, str]:
    assert entry.accepted_at is not None
    return entry.accepted_at, entry.order


def _edge(position: Position) -> tuple[datetime, str]:
    return position.accepted_at, position.order


def _back(until: datetime, width: timedelta, floor: datetime) -> datetime:
    return max(to_milliseconds(until - width), floor) if until - floor > width else floor
