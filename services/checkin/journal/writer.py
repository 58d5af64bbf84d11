"""This process as a writer of the journal: the numbers and times of its events, and its watermark (rule 6).

An event is done if the broker confirmed it, if its device's mark covers it, or if it is not stored and its
message was not answered. All events up to the watermark are done; if this process dies, another one takes
over the events above it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import islice

import structlog

from shared.concurrency.batching import verdicts
from shared.concurrency.periodic import Loops, Pace
from shared.domain.errors import CannotDecrypt, OfNewerVersion, Refused, Unavailable
from shared.domain.event import Event
from shared.ports.clock import Clock, Ids
from shared.ports.enrollments import Enrollments, Mark
from shared.ports.events import Appended, Journal, Writers
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

HEARTBEAT = timedelta(milliseconds=300)
PACE = Pace(every=HEARTBEAT, after_failure=HEARTBEAT)
SILENCE = timedelta(seconds=3)
"""After so long without a heartbeat the log says when the next one succeeds."""


class Marks:
    """Marks for events that may be unpublished (rules 6 and 7).

    Promise: a record that the store cannot change (it is full) keeps no other device's event from being
    marked. The device whose record it is gets no 200 for an event that could not be marked, so nothing is
    promised of it.
    """

    def __init__(self, enrollments: Enrollments, metrics: Metrics) -> None:
        self._enrollments = enrollments
        self._metrics = metrics

    async def set(self, marks: Sequence[Mark]) -> bool:
        """Set them. False: the store refused some, which is logged and counted. A device without a record
        has nothing to stay behind."""
        outcomes = await verdicts(self._enrollments.mark_waiting, marks)
        refused = [
            mark for mark, each in zip(marks, outcomes, strict=True) if isinstance(each, Refused)
        ]
        for device in sorted({mark.device for mark in refused}):
            log.error(
                "device_cannot_be_marked",
                device=device,
                reason="its record is too large for the store: let it enroll again",
            )
        self._metrics.marks_refused.inc(len(refused))
        return not refused


class Writer:
    def __init__(
        self, writers: Writers, journal: Journal, marks: Marks, clock: Clock, ids: Ids
    ) -> None:
        self.id = ids.new()
        self._writers = writers
        self._journal = journal
        self._marks = marks
        self._clock = clock
        self._number = 0
        self._time = 0
        self._done: set[int] = set()
        self._watermark = 0
        self._unknown: dict[int, tuple[str, Mark]] = {}
        """By number: an event that follows from a message has the same id when that is repeated."""
        self._has_left = False
        self._heartbeat_at = clock.monotonic()

    async def register(self) -> None:
        """Make this writer's record; no event may be journaled before."""
        await self._writers.register(self.id)
        self._heartbeat_at = self._clock.monotonic()

    def stamp(self, after: int) -> tuple[int, int]:
        """The next number, and a time later than `after`.

        `after` comes from another clock. If that is ahead, only this event is: the next one of its device
        reads the mark again, and those of other devices have nothing to do with it."""
        self._number += 1
        self._time = max(self._clock.time_ns(), self._time + 1)
        return self._number, max(self._time, after + 1)

    def mark_done(self, event: Event) -> None:
        self._mark_done(event.number)

    def _mark_done(self, number: int) -> None:
        self._done.add(number)
        while self._watermark + 1 in self._done:
            self._watermark += 1
            self._done.discard(self._watermark)

    def mark_unknown(self, event: Event) -> None:
        """The event may be stored, or its mark could not be set: find out later.
        Its message must not be answered 200."""
        self._unknown[event.number] = event.id, Mark(event.key.device, event.created_at)

    async def run(self, loops: Loops) -> None:
        await loops.keep_doing("writer", self.raise_heartbeat, PACE, waits="writer_cannot_beat")

    async def raise_heartbeat(self) -> None:
        if unknown := dict(islice(self._unknown.items(), 200)):
            stored = await self._journal.stored({event for event, _ in unknown.values()})
            # What cannot be marked is passed over: its message was not answered.
            await self._marks.set([mark for event, mark in unknown.values() if event in stored])
            for number in unknown:
                self._unknown.pop(number, None)
                self._mark_done(number)
        if self._has_left:
            return
        await self._writers.raise_heartbeat(self.id, self._watermark)
        now = self._clock.monotonic()
        if now - self._heartbeat_at > SILENCE.total_seconds():
            log.info("writer_beats_again")
        self._heartbeat_at = now

    async def leave(self) -> None:
        """Note the end of this process; a writer with nothing left is forgotten."""
        async with asyncio.timeout(5):
            await self.raise_heartbeat()
            if self._watermark == self._number:
                self._has_left = True
                await self._writers.remove(self.id)


async def former_made_safe(
    journal: Journal,
    enrollments: Enrollments,
    events: Sequence[Event],
    found: Sequence[Appended | Refused],
) -> list[Event] | None:
    """Those of these events that an earlier request has journaled; they are under their device's mark now, as
    their writer may have passed them over. None: not all of the events are in the journal, or one cannot be
    marked. `found`: the outcomes of their append."""
    if not all(isinstance(each, Appended) and each for each in found):
        return None
    there = [event for event, each in zip(events, found, strict=True) if each is Appended.THERE]
    try:
        stored = await journal.read([event.id for event in there])
        former = [event for event in there if not _is_same(event, stored[event.id])]
        marks = [Mark(e.key.device, stored[e.id].created_at) for e in former]
        marked = await verdicts(enrollments.mark_waiting, marks) if marks else []
    except (Unavailable, CannotDecrypt, OfNewerVersion, KeyError):  # it may leave meanwhile
        return None
    return former if all(each is True for each in marked) else None


def _is_same(event: Event, stored: Event) -> bool:
    return (event.writer, event.number) == (stored.writer, stored.number)
