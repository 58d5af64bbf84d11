"""Asks the broker as a whole whether it answers, whatever a single queue may suffer from."""

import asyncio
from contextlib import suppress

from aiormq.abc import AbstractConnection
from aiormq.channel import Channel

from shared.domain.errors import BrokerUnavailable
from shared.messaging.frames import Message
from shared.messaging.rabbit.breaker import Breaker
from shared.messaging.rabbit.confirms import Batch, QueueChannel, check_library, put, write
from shared.messaging.rabbit.connection import open_channel
from shared.messaging.topology import EVENTS_EXCHANGE
from shared.ports.clock import Clock

_PROBE = Message(EVENTS_EXCHANGE, "probe", "probe", {}, b"{}")
"""For no queue of ours, so the broker returns it."""


class LiveConnection:
    """A connection that publishes, with a channel of its own for probes."""

    def __init__(self, connection: AbstractConnection, channel: Channel, clock: Clock) -> None:
        self.connection = connection
        self.channel = channel
        self._probing = QueueChannel("probe", Breaker(clock), channel)
        self._question: Batch | None = None
        self._heard_at = 0.0

    @classmethod
    async def probed(cls, connection: AbstractConnection, clock: Clock) -> "LiveConnection":
        """The connection once a probe is answered on it. Raises what the library raises, and
        BrokerUnavailable when the channel ends first; no timeout of its own."""
        live = cls(connection, await open_channel(connection, confirms=True), clock)
        check_library(live.channel)
        probe = Batch([_PROBE])
        await write(probe, {live._probing: [0]})
        await asyncio.wait(
            {probe.settled, live.channel.closing}, return_when=asyncio.FIRST_COMPLETED
        )
        if not probe.is_answered:
            raise BrokerUnavailable("RabbitMQ: the probe was not confirmed")
        return live

    def ask(self, batch: Batch) -> None:
        """Send a probe on behalf of a batch that waits for long, early enough to know at its deadline who
        is to blame; one probe at a time serves all."""
        batch.asked_at = asyncio.get_running_loop().time()
        if self._question is None or self._question.settled.done():
            self._question = question = Batch([_PROBE])
            with suppress(asyncio.QueueFull):  # then it is never answered
                put(question, {self._probing: [0]})
                question.settled.add_done_callback(lambda _: self._hear(question))

    def has_answered(self, batch: Batch) -> bool:
        """True where the broker has answered since it was asked on behalf of the batch."""
        return batch.asked_at is not None and self._heard_at >= batch.asked_at

    def _hear(self, question: Batch) -> None:
        if question.is_answered:
            self._heard_at = asyncio.get_running_loop().time()
