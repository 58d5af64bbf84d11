"""The commands of all queues, newest first, page by page.

Promises: a page goes on behind the last command of the page before, though commands are queued, queued
again or end meanwhile: an entry that does not move is shown once. Every query is a closed range of an index,
since a query costs all that it matches: the list goes back in windows of time, small at first, twice as long
each time. What is over has ended before it is shown.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

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


class Position(NamedTuple):
    """Behind an entry: of those accepted at the same time, the one of the higher order comes first."""

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


@dataclass(frozen=True, slots=True)
class EntryList:
    queue: CommandQueue
    reconciler: Reconciler
    clock: Clock

    async def page(self, query: ListQuery) -> tuple[list[QueueEntry], Position | None]:
        """The next page, and where the one after it begins, None at the end of the list. A page may be
        short, or empty, and yet not the last."""
        found, following = await self._walk(query)
        entries = await self.reconciler.current(found)
        # One that was open when it was read may have ended since, and is of another state then.
        return [p for p in entries if query.states is None or p.state in query.states], following

    async def _walk(self, query: ListQuery) -> tuple[list[QueueEntry], Position | None]:
        began = self.clock.monotonic()
        floor = to_milliseconds(query.since or EPOCH)
        until = query.until or to_milliseconds(self.clock.now() + AHEAD)
        if query.after is not None:
            until = min(until, query.after.accepted_at)
        taken: list[QueueEntry] = []
        width = FIRST_WINDOW
        while until >= floor:
            since = max(to_milliseconds(until - width), floor) if until - floor > width else floor
            window = EntryWindow(since, until, query.enrollment, query.request_type, query.states)
            found, since = await self._newest(window, query.limit + 1)
            taken += [p for p in found if query.after is None or _position(p) < query.after]
            if len(taken) > query.limit:
                taken = taken[: query.limit]
                return taken, _position(taken[-1])
            until = since - TICK
            width *= 2
            if self.clock.monotonic() - began > PATIENCE.total_seconds() and until >= floor:
                return taken, Position(since, "")
        return taken, None

    async def _newest(self, window: EntryWindow, limit: int) -> tuple[list[QueueEntry], datetime]:
        """Entries of a window, newest first, and the time down to which they are all there."""
        found = await self.queue.accepted_in(window, limit)
        since = window.since
        if len(found) >= limit:
            # The last time may have been cut in two.
            since = min(map(_position, found)).accepted_at
            tied = await self.queue.accepted_in(replace(window, since=since, until=since))
            found = [entry for entry in found if _position(entry).accepted_at > since] + tied
        return sorted(found, key=_position, reverse=True), since


def _position(entry: QueueEntry) -> Position:
    assert entry.accepted_at is not None
    return Position(entry.accepted_at, entry.order)
