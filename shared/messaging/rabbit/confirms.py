"""Batches of messages that wait for the broker's answers together, and the channels that they go to."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from shared.domain.errors import BrokerUnavailable
from shared.messaging.frames import Message
from shared.messaging.rabbit.breaker import Breaker
from shared.messaging.rabbit.connection import FilteredConnection
from shared.messaging.rabbit.fast_channel import BrokerAnswer, FastChannel, publish
from shared.messaging.topology import EVENTS_EXCHANGE

log = structlog.get_logger()

_PROBE = Message(EVENTS_EXCHANGE, "probe", "probe", {}, b"{}")
"""For no queue of ours, so the broker returns it."""

Confirmed = Callable[[Message], None]
"""Called with a message, once, when the broker took it."""


def ignore(_message: Message) -> None:
    return None


class QueueChannel:
    """The channel on which messages for one queue are published, once it is open; and its breaker."""

    def __init__(self, name: str, breaker: Breaker) -> None:
        self.name = name
        self.breaker = breaker
        self.channel: FastChannel | None = None
        self.opening = asyncio.Lock()
        self.refusal: str | None = None
        """Why the broker closed the last channel by itself."""
        self.at_last_refusal: frozenset[str] = frozenset()
        """The ids of the messages that were under way then."""

    def use(self, channel: FastChannel) -> None:
        """Publish on this channel; an answer on it, however late, closes the breaker."""
        self.channel = channel
        channel.on_answer = partial(self._answered, channel)

    def _answered(self, channel: FastChannel) -> None:
        if self.channel is channel and self.breaker.is_open:
            self.breaker.close()
            log.info("publishing_answers_again", queue=self.name)


class Batch:
    """Messages whose answers are waited for together. `taken` and `returned` are by index."""

    def __init__(self, messages: Sequence[Message], on_confirm: Confirmed = ignore) -> None:
        self.messages = messages
        self.on_confirm = on_confirm
        self.taken = [False] * len(messages)
        self.returned: list[int] = []
        self.settled = asyncio.get_running_loop().create_future()
        self.asked_at: float | None = None
        """When the broker as a whole was asked for a sign of life on behalf of this batch."""
        self._missing: dict[FastChannel, int] = {}

    @property
    def is_answered(self) -> bool:
        return any(self.taken) or bool(self.returned)

    def waits_for(self, channel: FastChannel) -> bool:
        return channel in self._missing

    def write(self, shares: Mapping[FastChannel, Sequence[int]]) -> None:
        """Publish messages, by index, and wait for their answers from now on."""
        self._missing = publish(self.messages, shares, self._answer)
        self.settled = asyncio.get_running_loop().create_future()
        self._settle_if_done()

    def _answer(self, channel: FastChannel, index: int, answer: BrokerAnswer) -> None:
        if channel not in self._missing:  # too late: no caller counts on it any more
            return
        if answer is BrokerAnswer.RETURNED:
            self.returned.append(index)
        elif answer is BrokerAnswer.TAKEN:
            self.taken[index] = True
            self.on_confirm(self.messages[index])
        self._missing[channel] -= 1
        if not self._missing[channel]:
            del self._missing[channel]
            self._settle_if_done()

    def give_up(self) -> None:
        """Wait for no more answers."""
        self._missing = {}
        self._settle_if_done()

    def _settle_if_done(self) -> None:
        if not self._missing and not self.settled.done():
            self.settled.set_result(None)


class LiveConnection:
    """A connection that publishes, and a channel for probes that ask the broker as a whole whether
    it answers, independent of any single queue."""

    def __init__(self, connection: FilteredConnection, channel: FastChannel) -> None:
        self.connection = connection
        self.closing = channel.channel.closing
        """Ends with the channel of the probes."""
        self._channel = channel
        self._question: Batch | None = None
        self._heard_at = 0.0

    @classmethod
    async def probed(cls, connection: FilteredConnection) -> "LiveConnection":
        """The connection once a probe is answered on it. Raises what the library raises, and
        BrokerUnavailable when the channel ends first; no timeout of its own."""
        live = cls(connection, await FastChannel.open(connection, confirms=True))
        probe = Batch([_PROBE])
        probe.write({live._channel: [0]})
        await asyncio.wait({probe.settled, live.closing}, return_when=asyncio.FIRST_COMPLETED)
        if not probe.is_answered:
            raise BrokerUnavailable("RabbitMQ: the probe was not confirmed")
        return live

    def ask(self, batch: Batch) -> None:
        """Send a probe on behalf of a batch that waits for long, early enough to know at its deadline who
        is to blame; one probe at a time serves all."""
        batch.asked_at = asyncio.get_running_loop().time()
        if self._question is None or self._question.settled.done():
            self._question = question = Batch([_PROBE])
            question.write({self._channel: [0]})
            question.settled.add_done_callback(lambda _: self._hear(question))

    def has_answered(self, batch: Batch) -> bool:
        """True where the broker has answered since it was asked on behalf of the batch."""
        return batch.asked_at is not None and self._heard_at >= batch.asked_at

    def _hear(self, question: Batch) -> None:
        if question.is_answered:
            self._heard_at = asyncio.get_running_loop().time()
