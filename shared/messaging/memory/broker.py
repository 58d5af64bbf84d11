"""The broker of a single process: the same ports, in memory.

Promises: memory is bounded, and what does not fit in time is not taken; an event counts as settled
only when its consumer acked it, so a process that dies hands over again what it had not delivered
(docs/rules.md, rule 10); events of a partition come in order, and come again in order when its
consumer goes away. A dead letter is in the log and stays in the journal.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from shared.domain.enrollment import PARTITIONS
from shared.domain.event import Event
from shared.messaging.envelope import event_json
from shared.messaging.push_requests import WaitingRequests
from shared.ports.clock import Clock
from shared.ports.events import EventPublisher, OpenPartition, PartitionConsumer, Received
from shared.ports.pushes import PushRequestConsumer, PushRequests
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

PUBLISH_DEADLINE = timedelta(seconds=5)
PREFETCH = 128
MOST_EVENTS = 20_000
MOST_BYTES = 64 * 1024**2
"""Of payloads."""

Settled = Callable[[Event], None]
_Entry = tuple[Event, Settled | None]


class _Room:
    """Counts what is in memory, over all partitions. One event always fits, however large it is."""

    def __init__(self, most_events: int, most_bytes: int) -> None:
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._events = 0
        self._bytes = 0
        self.freed = asyncio.Event()

    def take(self, event: Event) -> bool:
        size = len(event.raw_payload)
        fits = self._events < self._most_events and self._bytes + size <= self._most_bytes
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
    """An event as its consumer gets it; each read of `body` makes the JSON."""

    held = 0
    """The broker's own bounds count the payload, and its consumer lets a body go soon."""

    def __init__(self, partition: "_Partition", event: Event) -> None:
        self._partition = partition
        self._event = event
        self.event_id = event.id
        self.topic = event.topic.value
        self.device = event.key.device
        self.created_at: int | None = event.created_at
        self.size = 1000 + len(event.raw_payload) * 4 // 3
        """About: the payload in base64, and the rest."""

    @property
    def body(self) -> bytes:
        return event_json(self._event)

    def drop_body(self) -> bool:
        return False

    async def ack(self) -> None:
        self._partition.ack(self)

    async def dead_letter(self, reason: str) -> None:
        if self._partition.ack(self):
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
        self._unacked: dict[_Received, _Entry] = {}
        self.is_lost = False
        self._is_woken = False

    async def close(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._queue.leave(self, self._unacked.values())
            self._unacked.clear()

    def wake(self) -> None:
        """Hand out in the next turn of the event loop, never inside the publisher's call."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def ack(self, received: _Received) -> bool:
        """False where it was acked already, or has another consumer now."""
        if received not in self._unacked:
            return False
        event, settled = self._unacked.pop(received)
        self._queue.room.give(event)
        if self._queue.waiting:
            self.wake()
        if settled is not None:
            settled(event)
        return True

    def _deliver(self) -> None:
        self._is_woken = False
        while self._queue.waiting and not self.is_lost and len(self._unacked) < self._prefetch:
            entry = self._queue.waiting.popleft()
            received = _Received(self, entry[0])
            self._unacked[received] = entry
            try:
                self._on_event(received)
            except Exception:
                log.exception("event_handler_failed", event_id=received.event_id)


class LocalPushRequests(WaitingRequests):
    """The ports PushRequests and PushRequestConsumer."""

    async def consume(self, on_requests: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        async def grant(enrollments: Sequence[str]) -> bool:
            try:
                await on_requests(enrollments)
            except Exception:
                log.exception("wishes_failed", wishes=len(enrollments))
                return False
            return True

        await self.keep_flushing(grant)


class LocalBroker:
    """Makes the four ports in memory, two of them itself; more than one process cannot share it."""

    healthy = True
    away: frozenset[int] = frozenset()
    """Never one partition alone: all share the room."""

    def __init__(
        self,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        publish_deadline: timedelta = PUBLISH_DEADLINE,
        prefetch: int = PREFETCH,
        most_events: int = MOST_EVENTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._prefetch = prefetch
        self._deadline = publish_deadline
        self._room = _Room(most_events, most_bytes)
        self._queues = [_Queue(self._room) for _ in range(PARTITIONS)]
        self._is_jammed = False
        push_requests = LocalPushRequests(clock)
        self.publisher: EventPublisher = self
        self.partitions: PartitionConsumer = self
        self.push_requests: PushRequests = push_requests
        self.push_request_consumer: PushRequestConsumer = push_requests

    @property
    def is_live(self) -> bool:
        # Only the next publisher notices new room, and it may be the one who asks.
        return not self._is_jammed or self._room.freed.is_set()

    async def publish(
        self, events: Sequence[Event], *, settled: Settled | None = None
    ) -> list[bool]:
        taken = self._put(events, settled)
        if taken < len(events) and not self._is_jammed:
            try:
                async with asyncio.timeout(self._deadline.total_seconds()):
                    while taken < len(events) and not self._is_jammed:
                        await self._room.freed.wait()
                        taken += self._put(events[taken:], settled)
            except TimeoutError:
                # As with a frozen broker: after one missed deadline no call waits (rule 9).
                self._is_jammed = True
                log.warning("local_broker_full", events=len(events) - taken)
        return [True] * taken + [False] * (len(events) - taken)

    def _put(self, events: Sequence[Event], settled: Settled | None) -> int:
        """Put them into their queues while there is room; how many there were."""
        for number, event in enumerate(events):
            if not self._room.take(event):
                return number
            self._is_jammed = False
            self._queues[event.key.partition].put((event, settled))
        return len(events)

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

    async def start(self) -> None:
        self._metrics.broker_up.set(1)

    async def watch(self) -> None:
        """Nothing of it can end by itself."""

    async def close(self) -> None:
        """Events in memory stay unsettled: the next process publishes them from the journal."""
        self._metrics.broker_up.set(0)
