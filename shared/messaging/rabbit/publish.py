"""Publish: many messages written at once, confirmed together, on a channel for each queue.

Promises: a message counts as taken only when the broker confirmed it and routed it to a queue; no call takes
longer than the deadline; rule 9 (docs/rules.md) where something does not answer, or no queue takes a message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

import structlog
from aiormq.exceptions import ChannelAccessRefused, ChannelClosed, ChannelNotFoundEntity

from shared.domain.errors import BrokerUnavailable
from shared.messaging.frames import Message
from shared.messaging.rabbit.breaker import Breaker
from shared.messaging.rabbit.confirms import Batch, Confirmed, LiveConnection, QueueChannel, ignore
from shared.messaging.rabbit.connection import Ends, FilteredConnection, translated
from shared.messaging.rabbit.fast_channel import FastChannel
from shared.messaging.rabbit.refusals import MessageRefused, Suspects, Unroutable
from shared.messaging.topology import queue_of
from shared.ports.clock import Clock
from shared.telemetry.metrics import Metrics

log = structlog.get_logger()

AT_ONCE = 100
"""Messages of a batch for one queue that are written before the first of them are confirmed."""
PROBE_PATIENCE = timedelta(milliseconds=100)
"""A caller waits so long for the answer to the probe of a queue, which counts for the queue even later."""

Shares = Mapping[QueueChannel, Sequence[int]]
"""Indexes of messages, by the queue that they are for."""


class PublishChannel:
    """Sends while a connection is attached; answers at once that nothing was taken while none is."""

    def __init__(
        self,
        deadline: timedelta,
        clock: Clock,
        metrics: Metrics,
        redeclare: Callable[[], Awaitable[None]],
        on_missed: Callable[[], None],
    ) -> None:
        self._deadline = deadline.total_seconds()
        self._clock = clock
        self._metrics = metrics
        self._redeclare = redeclare
        self._on_missed = on_missed
        self._live: LiveConnection | None = None
        self._queues: dict[str, QueueChannel] = {}
        self._batches: set[Batch] = set()
        self._probes: set[asyncio.Task[None]] = set()
        self._unroutable = Unroutable(metrics)
        self.suspects = Suspects()
        queues = self._queues.values()
        metrics.watch(metrics.queues_away, lambda: sum(queue.breaker.is_open for queue in queues))

    @property
    def is_live(self) -> bool:
        return self._live is not None

    @property
    def away(self) -> frozenset[str]:
        """The queues to which nothing is published for now."""
        return frozenset(name for name, queue in self._queues.items() if queue.breaker.refuses)

    async def attach(self, connection: FilteredConnection) -> Ends:
        """Use the connection once a probe is answered on it; else raises BrokerUnavailable."""
        with translated():
            async with asyncio.timeout(self._deadline):
                self._live = await LiveConnection.probed(connection)
        self._metrics.broker_up.set(1)
        return [self._live.closing]

    def detach(self) -> None:
        """Forget the connection; what waits for confirms ends now, unconfirmed. Breakers stay as they are:
        the next connection leads to the same queues."""
        self._live = None
        self._metrics.broker_up.set(0)
        for queue in self._queues.values():
            queue.channel = None
            queue.breaker.give_up_probe()
        for batch in self._batches:
            batch.give_up()

    async def send(self, messages: Sequence[Message], on_confirm: Confirmed = ignore) -> list[bool]:
        """Publish all and wait for their confirms; per message whether the broker took it."""
        batch = Batch(messages, on_confirm)
        if self._live is None or not messages:
            return batch.taken
        shares: dict[QueueChannel, list[int]] = {}
        for index, message in enumerate(messages):
            shares.setdefault(self._queue_of(message), []).append(index)
        probes = {}
        for queue in [queue for queue in shares if queue.breaker.is_open]:
            first = shares.pop(queue)[0]
            if not queue.breaker.refuses:
                probes[first] = self._probe(queue, messages[first], on_confirm)
        if shares:
            await self._deliver(self._live, batch, shares)
        if probes:
            tasks = [task for _, task in probes.values()]
            await asyncio.wait(tasks, timeout=PROBE_PATIENCE.total_seconds())
        for index, (probe, _) in probes.items():
            probe.on_confirm = ignore
            batch.taken[index] = probe.taken[0]
        return batch.taken

    async def send_alone(self, message: Message, on_confirm: Confirmed = ignore) -> bool:
        """Publish on a channel of its own. Raises MessageRefused when the broker closes it for that."""
        queue = self._queue_of(message)
        if self._live is None or queue.breaker.refuses:
            return False
        own = QueueChannel(queue.name, queue.breaker)
        batch = Batch([message], on_confirm)
        try:
            await self._deliver(self._live, batch, {own: [0]})
        finally:
            channel, own.channel = own.channel, None
            if channel is not None:
                channel.abandon()
        if own.refusal is not None:
            raise MessageRefused(own.refusal)
        return batch.taken[0]

    def _queue_of(self, message: Message) -> QueueChannel:
        name = queue_of(message.routing_key)
        if name not in self._queues:
            self._queues[name] = QueueChannel(name, Breaker(self._clock))
        return self._queues[name]

    async def _deliver(self, live: LiveConnection, batch: Batch, shares: Shares) -> None:
        """Until all is answered, or the deadline is missed."""
        self._batches.add(batch)
        asking = asyncio.get_running_loop().call_later(self._deadline / 2, live.ask, batch)
        try:
            async with asyncio.timeout(self._deadline):
                with translated():
                    await self._transmit(live, batch, shares)
        except TimeoutError:
            self._missed(live, batch, shares)
        except BrokerUnavailable as exc:
            log.warning("publish_unconfirmed", events=batch.taken.count(False), reason=str(exc))
        finally:
            asking.cancel()
            batch.give_up()
            self._batches.discard(batch)
            self.suspects.note(batch)

    async def _transmit(self, live: LiveConnection, batch: Batch, shares: Shares) -> None:
        unopened = [queue for queue in shares if queue.channel is None]
        if unopened:
            await asyncio.gather(*(self._open(live, queue) for queue in unopened))
        await _write_all(batch, shares)
        if batch.returned:
            log.warning("messages_returned", messages=len(batch.returned))
            await self._redeclare()
            if self._live is not live:
                return
            again, batch.returned = frozenset(batch.returned), []
            await _write_all(
                batch, {queue: [i for i in share if i in again] for queue, share in shares.items()}
            )
        self._unroutable.note(batch)

    async def _open(self, live: LiveConnection, queue: QueueChannel) -> None:
        async with queue.opening:
            if queue.channel is not None or self._live is not live:
                return
            channel = await FastChannel.open(live.connection, confirms=True)
            if self._live is live:
                queue.use(channel)
                channel.channel.closing.add_done_callback(partial(self._closed, queue, channel))

    def _missed(self, live: LiveConnection, batch: Batch, shares: Shares) -> None:
        if self._live is not live:
            return
        if not live.has_answered(batch):
            log.warning("publish_unconfirmed", events=batch.taken.count(False), reason="no answer")
            self._drop()
            return
        for queue in shares:
            if queue.channel is None or batch.waits_for(queue.channel):
                self._trip(queue)

    def _drop(self) -> None:
        """Give the connection up; the next one declares the topology."""
        self.detach()
        self._on_missed()

    def _trip(self, queue: QueueChannel) -> None:
        """The queue does not answer, and the broker does."""
        was_open = queue.breaker.is_open
        if not queue.breaker.trip():
            return
        if not was_open:
            log.error("publishing_queue_away", queue=queue.name)
        channel, queue.channel = queue.channel, None
        if channel is not None:
            channel.abandon()

    def _probe(
        self, queue: QueueChannel, message: Message, on_confirm: Confirmed
    ) -> tuple[Batch, "asyncio.Task[None]"]:
        """Try a queue that did not answer; its caller need not wait for the answer."""
        probe = Batch([message], on_confirm)
        queue.breaker.probe()

        async def deliver() -> None:
            if self._live is not None:
                await self._deliver(self._live, probe, {queue: [0]})
            if queue.breaker.is_probing:  # the broker closed its channel
                queue.breaker.trip()

        task = asyncio.create_task(deliver())
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)
        return probe, task

    def _closed(
        self, queue: QueueChannel, channel: FastChannel, closing: "asyncio.Future[object]"
    ) -> None:
        """A channel has ended; one of the messages under way may be why the broker closed it."""
        reason = None if closing.cancelled() else closing.exception()
        if queue.channel is not channel:
            return
        queue.channel = None
        if isinstance(reason, ChannelNotFoundEntity | ChannelAccessRefused):
            self._drop()  # no message's fault: the exchange is gone, or closed to us
        elif isinstance(reason, ChannelClosed):
            self.suspects.note_end(queue, channel.under_way, str(reason))
        channel.forget()


async def _write_all(batch: Batch, shares: Shares) -> None:
    """Write, and wait for the answers, so many messages at once as a queue may have under way."""
    longest = max(len(share) for share in shares.values())
    for start in range(0, longest, AT_ONCE):
        batch.write({q.channel: s[start : start + AT_ONCE] for q, s in shares.items() if q.channel})
        await batch.settled
