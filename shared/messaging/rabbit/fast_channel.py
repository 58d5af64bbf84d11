"""Channels of aiormq on which many messages, or acks, are written at once, and whose messages and confirms
come without the library's tasks (docs/adr/0010, 0021).

Promises: messages of one call are written in one piece, also for several channels, and counted in the order
of their bytes. Each has one answer: the broker's, or that of `forget`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from itertools import count

from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.channel import Channel
from pamqp import frame
from pamqp.commands import Channel as ChannelMethods

from shared.domain.errors import BrokerUnavailable
from shared.messaging.frame_filter import ReceivedMessage
from shared.messaging.frames import Message, ack_frame, publish_frames
from shared.messaging.rabbit.connection import FilteredConnection

MOST_UNDER_WAY = 300
"""Messages without an answer on one channel. The broker stops reading the whole connection when some 400
wait for a channel that is stuck."""


class BrokerAnswer(Enum):
    TAKEN = "taken"
    REFUSED = "refused"
    RETURNED = "returned"
    """No queue takes it."""
    FORGOTTEN = "forgotten"
    """The broker's answer is not waited for any more."""


Answered = Callable[["FastChannel", int, BrokerAnswer], None]
"""Called with a message's channel, its index and its answer."""


async def open_channel(connection: AbstractConnection, *, confirms: bool) -> Channel:
    """Raises what the library raises; no timeout of its own.

    It takes the lowest free number: the library's own choice only grows, past what the broker allows,
    beside a channel that is long in closing."""
    free = next(number for number in count(1) if number not in connection.channels)
    channel = await connection.channel(free, publisher_confirms=confirms)
    if not isinstance(channel, Channel):
        raise TypeError("the AMQP library gave an unknown kind of channel")
    return channel


async def _never_called(_message: DeliveredMessage) -> None:
    raise RuntimeError("the AMQP library got a message that is for our filter")


class FastChannel:
    """`channel` has all methods of the library's interface; it gets no messages and no confirms."""

    def __init__(self, channel: Channel, connection: FilteredConnection) -> None:
        self.channel = channel
        self.on_answer: Callable[[], None] = lambda: None
        """Called whenever the broker has answered a message."""
        self._on_message: Callable[[ReceivedMessage], None] = lambda _: None
        self._transport = connection.transport
        self._frame_max = connection.connection_tune.frame_max or 131_072
        self._written = 0
        self._awaited: dict[int, tuple[str, int, Answered]] = {}
        """By their tags, in the order of the bytes."""
        self._tags: dict[str, int] = {}
        """By the ids of the messages."""
        self._acks: list[bytes] = []
        self._acks_end = False
        connection.frames.channels[channel.number] = self

    @classmethod
    async def open(cls, connection: FilteredConnection, *, confirms: bool) -> "FastChannel":
        """Raises what the library raises; no timeout of its own."""
        return cls(await open_channel(connection, confirms=confirms), connection)

    @property
    def under_way(self) -> frozenset[str]:
        """The ids of the messages without an answer."""
        return frozenset(self._tags)

    async def consume(self, queue: str, on_message: Callable[[ReceivedMessage], None]) -> None:
        """Raises what the library raises; no timeout of its own."""
        self._on_message = on_message
        await self.channel.basic_consume(queue, _never_called)

    def on_message(self, message: ReceivedMessage) -> None:
        self._on_message(message)

    def on_confirm(self, tag: int, *, multiple: bool, taken: bool) -> None:
        answer = BrokerAnswer.TAKEN if taken else BrokerAnswer.REFUSED
        for each in [each for each in self._awaited if each <= tag] if multiple else [tag]:
            self._settle(each, answer)

    def on_return(self, message_id: str | None) -> None:
        self._settle(self._tags.get(message_id or "", 0), BrokerAnswer.RETURNED)

    def _settle(self, tag: int, answer: BrokerAnswer) -> None:
        if (awaited := self._awaited.pop(tag, None)) is None:
            return
        message_id, index, answered = awaited
        del self._tags[message_id]
        answered(self, index, answer)
        if answer is not BrokerAnswer.FORGOTTEN:
            self.on_answer()

    def ack(self, message: ReceivedMessage) -> None:
        """Write an ack with all others of this turn of the event loop."""
        if self._acks_end:
            return
        if not self._acks:
            asyncio.get_running_loop().call_soon(self._write_acks)
        self._acks.append(ack_frame(self.channel.number, message.tag))

    def _write_acks(self) -> None:
        if self._acks and not self._acks_end and self.is_open:
            self.write(b"".join(self._acks))
        self._acks.clear()

    async def close(self) -> None:
        """Write the acks that wait and then no more: a frame behind the close of its channel makes the broker
        end the whole connection. Raises what the library raises; no timeout of its own."""
        self._write_acks()
        self._acks_end = True
        await self.channel.close(BrokerUnavailable("RabbitMQ: channel closed"))

    def forget(self) -> None:
        """BrokerAnswer for the broker what it has not answered, and let go of these messages."""
        for tag in list(self._awaited):
            self._settle(tag, BrokerAnswer.FORGOTTEN)

    def abandon(self) -> None:
        """Ask the broker to close the channel, and wait for nothing; it may be long in closing.

        The library's own `close` asks again when there is no answer, and a broker that has closed the channel
        meanwhile ends the whole connection for that."""
        self.forget()
        if self.is_open:
            close = ChannelMethods.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            self.write(frame.marshal(close, self.channel.number))

    @property
    def is_open(self) -> bool:
        return not (self.channel.is_closed or self._transport.is_closing())

    def write(self, frames: bytes) -> None:
        """Write frames of an open channel, or of several of its connection."""
        self._transport.write(frames)

    def select(self, messages: Sequence[Message], indexes: Sequence[int]) -> list[int]:
        """The indexes of the messages that may be written now. The broker names a message that it returns by
        its id alone, so no id may be under way twice."""
        if not self.is_open:
            return []
        first = {messages[index].message_id: index for index in reversed(indexes)}
        fresh = sorted([index for name, index in first.items() if name not in self._tags])
        room = MOST_UNDER_WAY - len(self._awaited)
        return fresh if len(fresh) <= room else fresh[: max(room, 0)]

    def expect(self, index: int, message: Message, answered: Answered) -> bytes:
        """The bytes of a message, whose answer the channel knows from here on."""
        self._written += 1
        self._awaited[self._written] = message.message_id, index, answered
        self._tags[message.message_id] = self._written
        return publish_frames(self.channel.number, message, self._frame_max)


def publish(
    messages: Sequence[Message], shares: Mapping[FastChannel, Sequence[int]], answered: Answered
) -> dict[FastChannel, int]:
    """Write messages in one piece, each on the channel whose share has its index, and say how many each
    channel will answer, if any. All channels are of one connection; a closed one gets nothing.

    The library's own publish costs three times as much, in tasks and locks. No await in here: messages must
    be counted in the order of the bytes."""
    counts: dict[FastChannel, int] = {}
    frames: list[bytes] = []
    for channel, indexes in shares.items():
        chosen = channel.select(messages, indexes)
        if chosen:
            counts[channel] = len(chosen)
            frames += [channel.expect(index, messages[index], answered) for index in chosen]
    if counts:
        next(iter(counts)).write(b"".join(frames))
    return counts
