"""The broker of a single process: the same ports, in memory.

Promises: memory is bounded, and what does not fit in time is not taken; an event counts as settled
only when its consumer acked it, so a process that dies hands over again what it had not delivered
(docs/rules.md, rule 10); events of a partition are given in order, and given again in order when its
consumer goes away. What is dead-lettered is in the log and stays in the journal.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import structlog

from shared.domain.enrollment import PARTITIONS
from shared.domain.event import Event
from shared.messaging.envelope import event_json
from shared.messaging.memory.push_requests import LocalPushRequests
from shared.ports.clock import Clock
from shared.ports.events import EventPublisher, OpenPartition, PartitionConsumer, Received
from shared.ports.pushes import PushRequestConsumer, PushRequests
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PUBLISH_DEADLINE = timedelta(seconds=5)
PREFETCH = 128

Settled = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of memory, over all partitions."""

    events: int = 20_000
    payload_bytes: int = 64 * 1024 * 1024


class _Room:
    """Counts what is in memory. One event always fits, however large it is."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._events = 0
        self._bytes = 0
        self.freed = asyncio.Event()

    def take(self, event: Event) -> bool:
        size = len(event.raw_payload)
        fits = (
            self._events < self._bounds.events and self._bytes + size <= self._bounds.payload_bytes
        )
        if self._events and not fits:
            self.freed.clear()
            return False
        self._events += 1
        self._bytes += size
        return True

    def give(self, event: Event) -> None:
        self._events -= 1
        self._bytes -= len(event.raw_payload)
        self.freed.set()


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    event: Event
    settled: Settled | None


class _Queue:
    """One partition: what waits, and who consumes it; others who want to wait their turn."""

    def __init__(self, room: _Room) -> None:
        self.room = room
        self.waiting: deque[_Entry] = deque()
        self._consumers: deque[_Partition] = deque()

    def put(self, entry: _Entry) -> None:
        self.waiting.append(entry)
        self._wake()

    def join(self, consumer: "_Partition") -> None:
        self._consumers.append(consumer)
        self._wake()

    def leave(self, consumer: "_Partition", unacked: Collection[_Entry]) -> None:
        self.waiting.extendleft(reversed(list(unacked)))
        with suppress(ValueError):
            self._consumers.remove(consumer)
        self._wake()

    def _wake(self) -> None:
        if self._consumers:
            self._consumers[0].wake()


class _Received:
    """An event as its consumer gets it; the JSON is made each time that somebody reads it."""

    held = 0
    """The broker's own bounds count the payload, and its consumer lets a body go soon."""

    def __init__(self, partition: "_Partition", number: int, event: Event) -> None:
        self._partition = partition
        self._number = number
        self._event = event

    @property
    def event_id(self) -> str:
        return self._event.id

    @property
    def topic(self) -> str:
        return self._event.topic.value

    @property
    def device(self) -> str:
        return self._event.key.device

    @property
    def size(self) -> int:
        """About: the payload in base64, and the rest."""
        return 1000 + len(self._event.raw_payload) * 4 // 3

    @property
    def body(self) -> bytes:
        return event_json(self._event)

    def drop_body(self) -> bool:
        return False

    async def ack(self) -> None:
        self._partition.ack(self._number)

    async def dead_letter(self, reason: str) -> None:
        if self._partition.ack(self._number):
            self._partition.metrics.messages_dead_lettered.inc()
            log.error("message_parked", event_id=self.event_id, reason=reason)


class _Partition:
    """An open partition."""

    def __init__(
        self, queue: _Queue, metrics: Metrics, prefetch: int, on_event: Callable[[Received], None]
    ) -> None:
        self.metrics = metrics
        self._queue = queue
        self._prefetch = prefetch
        self._on_event = on_event
        self._unacked: dict[int, _Entry] = {}
        self._numbers = count()
        self._is_closed = False
        self._is_woken = False

    @property
    def is_lost(self) -> bool:
        return self._is_closed

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._queue.leave(self, self._unacked.values())
            self._unacked.clear()

    def wake(self) -> None:
        """Hand out in the next turn of the event loop, never inside the publisher's call."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def ack(self, number: int) -> bool:
        """False: it was acked already, or somebody else has it by now."""
        entry = self._unacked.pop(number, None)
        if entry is None:
            return False
        self._queue.room.give(entry.event)
        self.wake()
        if entry.settled is not None:
            entry.settled(entry.event)
        return True

    def _deliver(self) -> None:
        self._is_woken = False
        while self._queue.waiting and not self._is_closed and len(self._unacked) < self._prefetch:
            entry = self._queue.waiting.popleft()
            number = next(self._numbers)
            self._unacked[number] = entry
            try:
                self._on_event(_Received(self, number, entry.event))
            except Exception:
                log.exception("event_handler_failed", event_id=entry.event.id)


class _Publisher:
    def __init__(self, queues: Sequence[_Queue], room: _Room, deadline: timedelta) -> None:
        self._queues = queues
        self._room = room
        self._deadline = deadline
        self._is_jammed = False

    @property
    def is_live(self) -> bool:
        # Room that has come is found out by whoever publishes next, and that may be the one who asks.
        return not self._is_jammed or self._room.freed.is_set()

    @property
    def away(self) -> frozenset[int]:
        """Never one alone: all partitions share the room."""
        return frozenset()

    async def publish(
        self, events: Sequence[Event], *, settled: Settled | None = None
    ) -> list[bool]:
        taken: list[bool] = []
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                for event in events:
                    if not await self._make_room(event):
                        break
                    self._queues[event.key.partition].put(_Entry(event, settled))
                    taken.append(True)
        except TimeoutError:
            # As with a broker that is frozen: after one missed deadline nobody waits (rule 9).
            self._is_jammed = True
            log.warning("local_broker_full", events=len(events) - len(taken))
        return taken + [False] * (len(events) - len(taken))

    async def _make_room(self, event: Event) -> bool:
        while not self._room.take(event):
            if self._is_jammed:
                return False
            await self._room.freed.wait()
        self._is_jammed = False
        return True


class _Partitions:
    def __init__(self, queues: Sequence[_Queue], metrics: Metrics, prefetch: int) -> None:
        self._queues = queues
        self._metrics = metrics
        self._prefetch = prefetch

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        """`on_lost` is never called: memory is not lost before the process is."""
        queue = self._queues[partition]
        opened = _Partition(queue, self._metrics, self._prefetch, on_event)
        queue.join(opened)
        return opened


class LocalBroker:
    """Makes the four ports in memory; more than one process cannot share it."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        publish_deadline: timedelta = PUBLISH_DEADLINE,
        prefetch: int = PREFETCH,
        bounds: Bounds | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        room = _Room(bounds or Bounds())
        queues = [_Queue(room) for _ in range(PARTITIONS)]
        push_requests = LocalPushRequests(clock)
        self.publisher: EventPublisher = _Publisher(queues, room, publish_deadline)
        self.partitions: PartitionConsumer = _Partitions(queues, self._metrics, prefetch)
        self.push_requests: PushRequests = push_requests
        self.push_request_consumer: PushRequestConsumer = push_requests

    @property
    def healthy(self) -> bool:
        return True

    async def start(self) -> None:
        self._metrics.broker_up.set(1)

    async def watch(self) -> None:
        """Nothing of it can end by itself."""

    async def close(self) -> None:
        """Messages in memory stay unsettled: the next process hands it over from the journal."""
        self._metrics.broker_up.set(0)
