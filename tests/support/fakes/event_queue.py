"""One partition's queue as a broker keeps it, and the receiver at the other end of the delivery queues.

`FakeQueue` gives what rule 11 stands on: a single active consumer, a prefetch, what is not acked goes
back to the front when a channel is gone, acks of a dead channel are lost, and a consumer that was
cut off goes on until it notices.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from services.webhook.endpoints.request import EventRequest
from services.webhook.endpoints.sender import AttemptOutcome
from shared.domain.subscription import Subscription
from shared.ports.events import OpenPartition, Received


@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """What is published."""

    event_id: str
    device: str
    topic: str = "mdm.Connect"
    has_body: bool = True
    """False: only the journal has it."""
    created_at: int | None = None


def body_of(event_id: str) -> bytes:
    return f'{{"event_id":"{event_id}"}}'.encode()


class GivenEvent:
    """`Received`, on one channel."""

    def __init__(self, event: QueuedEvent, channel: "FakeChannel") -> None:
        self._event = event
        self._channel = channel
        self.event_id = event.event_id
        self.topic = event.topic
        self.device = event.device
        self.created_at = event.created_at
        body = body_of(event.event_id)
        self.body: bytes | None = body if event.has_body else None
        self.size = len(body)

    @property
    def held(self) -> int:
        return len(self.body or b"")

    def drop_body(self) -> bool:
        self.body = None
        return True

    async def ack(self) -> None:
        self._channel.ack(self._event)

    async def dead_letter(self, reason: str) -> None:
        self._channel.dead_letter(self._event, reason)


class FakeChannel:
    """`OpenPartition`, for one consumer."""

    def __init__(
        self,
        queue: "FakeQueue",
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._on_lost = on_lost
        self.on_event = on_event
        self.unacked: list[QueuedEvent] = []
        self.is_lost = False
        self.is_dead = False

    async def close(self) -> None:
        self._queue.end(self)
        self.is_lost = True

    def ack(self, event: QueuedEvent) -> None:
        if not self.is_dead and event in self.unacked:
            self.unacked.remove(event)
            self._queue.pump()

    def dead_letter(self, event: QueuedEvent, reason: str) -> None:
        self._queue.dead_lettered.append((event.event_id, reason))
        self.ack(event)

    def outbox_event(self) -> None:
        """The consumer finds out that its channel is dead."""
        self.is_lost = True
        self._on_lost()


class FakeQueue:
    """Consumers in the order in which they subscribed; the first one is active."""

    def __init__(self, prefetch: int = 16) -> None:
        self.prefetch = prefetch
        self.ready: deque[QueuedEvent] = deque()
        self.channels: list[FakeChannel] = []
        self.dead_lettered: list[tuple[str, str]] = []

    @property
    def is_empty(self) -> bool:
        return not self.ready and not any(channel.unacked for channel in self.channels)

    def publish(self, *events: QueuedEvent) -> None:
        self.ready.extend(events)
        self.pump()

    def cut_off(self, channel: FakeChannel) -> None:
        """The broker drops a consumer; it goes on until `channel.outbox_event()`."""
        self.end(channel)

    def end(self, channel: FakeChannel) -> None:
        if channel.is_dead:
            return
        channel.is_dead = True
        self.channels.remove(channel)
        self.ready.extendleft(reversed(channel.unacked))
        self.pump()

    def pump(self) -> None:
        if not self.channels:
            return
        active = self.channels[0]
        while self.ready and len(active.unacked) < self.prefetch:
            event = self.ready.popleft()
            active.unacked.append(event)
            active.on_event(GivenEvent(event, active))


class FakeConsumer:
    """`PartitionConsumer` of one replica: only `partition` has a queue with anything in it."""

    def __init__(self, queue: FakeQueue, partition: int) -> None:
        self._queue = queue
        self._partition = partition
        self.channel: FakeChannel | None = None

    async def open(
        self,
        partition: int,
        *,
        on_event: Callable[[Received], None],
        on_lost: Callable[[], None],
    ) -> OpenPartition:
        await asyncio.sleep(0)
        queue = self._queue if partition == self._partition else FakeQueue()
        channel = FakeChannel(queue, on_event, on_lost)
        if partition == self._partition:
            self.channel = channel
        queue.channels.append(channel)
        queue.pump()
        return channel


def _answered(step: str) -> AttemptOutcome:
    status, _, asked = step.partition(" Retry-After ")
    wait = timedelta(seconds=int(asked or 0))
    return AttemptOutcome(f"answered {status}", status=int(status), asked=wait)


class FakeReceiver:
    """The subscriber. `arrivals` are the events that reached it, each time; `script` says how the
    next attempts of an event go ("fail", "lose": it arrives and looks failed, or a status, as "500" or "429
    Retry-After 6"), then all succeed. `answers` is such a step for every event, while it is set.
    """

    def __init__(self) -> None:
        self.arrivals: list[str] = []
        self.bodies: dict[str, set[bytes]] = {}
        self.attempts: list[str] = []
        self.script: dict[str, list[str]] = {}
        self.is_down = False
        self.down: set[str] = set()
        """Subscriptions that fail."""
        self.requests: list[tuple[str, list[str]]] = []
        self.replays: dict[str, str | None] = {}
        self.arrivals_of: dict[str, list[str]] = {}
        self.answers: str | None = None
        self.held: dict[str, asyncio.Event] = {}

    @property
    def firsts(self) -> list[str]:
        """Events in the order of their first arrival."""
        return list(dict.fromkeys(self.arrivals))

    async def send(self, subscription: Subscription, request: EventRequest) -> AttemptOutcome:
        names = [event_id for event_id, _, _ in request.events]
        self.requests.append((subscription.id, names))
        self.replays |= dict.fromkeys(names, request.replay)
        self.attempts += names
        for name in names:
            if name in self.held:
                await self.held[name].wait()
        await asyncio.sleep(0)
        step = self._step(subscription, names)
        if step[0].isdigit():
            return _answered(step)
        if step != "fail":
            for event_id, _, body in request.events:
                assert event_id == body.decode().split('"')[3]
                self.arrivals.append(event_id)
                self.bodies.setdefault(event_id, set()).add(body)
                self.arrivals_of.setdefault(subscription.id, []).append(event_id)
        return AttemptOutcome() if step == "take" else AttemptOutcome("answered 500")

    def _step(self, subscription: Subscription, names: list[str]) -> str:
        """The worst of what is to become of the events of a request."""
        if self.is_down or subscription.id in self.down:
            return "fail"
        steps = [self.script[name].pop(0) for name in names if self.script.get(name)]
        return self.answers or next((step for step in steps if step != "take"), "take")
